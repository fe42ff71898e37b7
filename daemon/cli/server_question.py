"""Asks which server a machine is to work for, and how its certificate is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from daemon.cli.questions import Questions
from daemon.config.config import Config, ConfigError, from_env, is_loopback

SYSTEM_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def ask_for_server(questions: Questions, environ: dict[str, str], default: str = Config.server) -> None:
    """Asks for what `environ` lacks of DCP_SERVER and DCP_TLS_CA, and puts the answers there."""
    if not environ.get("DCP_SERVER"):
        environ["DCP_SERVER"] = questions.ask(
            "Server, as host:port", lambda text: checked("DCP_SERVER", text, environ), default
        )
    if needs_authorities(environ):
        question = "File of the certificate authorities that the server is checked with"
        environ["DCP_TLS_CA"] = questions.ask(
            question, lambda text: checked("DCP_TLS_CA", text, environ), usual_authorities()
        )


def needs_authorities(environ: Mapping[str, str]) -> bool:
    """Whether the server is another machine, and it is not said how it is checked."""
    return not (
        is_loopback(environ["DCP_SERVER"]) or environ.get("DCP_TLS_CA") or environ.get("DCP_INSECURE")
    )


def usual_authorities() -> str:
    """The file of those that the system trusts; empty: it has none at the usual place."""
    return str(SYSTEM_AUTHORITIES) if SYSTEM_AUTHORITIES.exists() else ""


def checked(name: str, text: str, environ: Mapping[str, str]) -> str:
    """The text, if the setting may have it. Raises ValueError with what is wrong, for a person."""
    if not text:
        raise ValueError("this cannot be empty")
    trust = {"DCP_INSECURE": "true"} if name == "DCP_SERVER" else {}
    try:
        from_env({"HOME": environ.get("HOME", ""), name: text, **trust})
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text
