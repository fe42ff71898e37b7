"""Owns where the market is and with which key: arguments, or the variables of the environment.

It is the only module of the client that reads the environment. It knows no request.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from dcp_client.errors import SettingError

DEFAULT_URL = "http://127.0.0.1:8080"


class Variable(NamedTuple):
    """An environment variable of this program, as docs/reference prints it."""

    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable("DCP_API_KEY", "", "Key of a renter, a provider or an operator. Unset: that of `dcp login`."),
    Variable(
        "DCP_API_URL", DEFAULT_URL, "Address of the market. Unset: that of `dcp login`, if there was one."
    ),
    Variable(
        "DCP_INSECURE",
        "false",
        "true: the key may travel in plain text, to an http address of another machine. "
        "Only for networks that you trust.",
    ),
)


def environment() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ


@dataclass(frozen=True)
class Settings:
    """Where the market is, and the key. The key is not shown."""

    api_url: str
    api_key: str = field(default="", repr=False)

    @classmethod
    def build(
        cls, api_url: str | None, api_key: str | None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Arguments first, then the environment. Raises SettingError."""
        variables = environment() if environ is None else environ
        url = api_url or variables.get("DCP_API_URL") or DEFAULT_URL
        key = api_key if api_key is not None else variables.get("DCP_API_KEY", "")
        checked = cls(clean_url(url), clean_key(key))
        if key and variables.get("DCP_INSECURE", "") != "true" and not checked.is_private:
            raise SettingError(
                f"DCP_API_URL: {checked.api_url} would send the key in plain text to another machine: "
                "use https, or set DCP_INSECURE=true on a network that you trust"
            )
        return checked

    @property
    def is_private(self) -> bool:
        """Whether nobody else can read what is sent: by https, or on this machine."""
        parts = urlsplit(self.api_url)
        return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def clean_url(text: str) -> str:
    """The address of a market without a path. Raises SettingError."""
    url = text.strip().rstrip("/")
    for end in ("/api", "/v1"):
        url = url[: -len(end)] if url.endswith(end) else url
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or parts.username or parts.query:
        raise SettingError(f"DCP_API_URL: {text!r} is not an address such as https://market.example")
    return url


def clean_key(text: str) -> str:
    """A key that a header can carry. Raises SettingError, which does not show it."""
    key = text.strip()
    if not all("!" <= each <= "~" for each in key):
        raise SettingError("DCP_API_KEY: a key has only letters, digits, dashes and underscores")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
