"""Reads the files of ``deploy`` and has their settings checked by the programs' own code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import trustme
from dcp.settings import SETTINGS

import daemon.config.config
import gateway.config
import server.config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = ("server", "gateway", "daemon")
_NAME = re.compile(r"\bDCP_[A-Z][A-Z_]*[A-Z]\b")
_FILES = re.compile(r"^(DCP_.*_FILE|DCP_(TLS|GATEWAY)_(CA|CERT|KEY))$")
_SECRETS = {
    "DCP_DATABASE_URL_FILE": "postgresql://dcp:secret@postgres/dcp",
    "DCP_ADMIN_TOKEN_FILE": "a-token-of-at-least-thirty-two-characters",
    "DCP_BUS_FILE": "nats://dcp:secret@nats:4222",
}


def files() -> list[Path]:
    """The files of ``deploy`` that are in the repository."""
    from tests.architecture.tools import tracked_files

    return [path for path in tracked_files() if path.is_relative_to(DEPLOY)]


def unknown_settings(text: str) -> set[str]:
    """The names in a text that look like settings, and that no program has."""
    return set(_NAME.findall(text)) - SETTINGS


def paths(environment: Mapping[str, str]) -> set[str]:
    """The files that settings name."""
    return {value for name, value in environment.items() if _FILES.match(name)}


def check(program: str, environment: Mapping[str, str], folder: Path) -> None:
    """Gives settings to a program's own code, with files in ``folder`` in place of those that they name.

    Raises the program's ConfigError.
    """
    here = dict(environment)
    authority = trustme.CA()
    issued = authority.issue_cert("market.example")
    pems = {
        "DCP_TLS_CA": authority.cert_pem.bytes(),
        "DCP_TLS_CERT": issued.cert_chain_pems[0].bytes(),
        "DCP_TLS_KEY": issued.private_key_pem.bytes(),
        "DCP_GATEWAY_CA": authority.cert_pem.bytes(),
        "DCP_GATEWAY_CERT": issued.cert_chain_pems[0].bytes(),
        "DCP_GATEWAY_KEY": issued.private_key_pem.bytes(),
    }
    for name in here:
        if _FILES.match(name):
            here[name] = str(folder / name)
            (folder / name).write_bytes(pems.get(name) or _SECRETS[name].encode())
    if program == "server":
        server.config.Config.from_env(here)
    elif program == "gateway":
        gateway.config.Config.from_env(here)
    else:
        daemon.config.config.from_env(here)
