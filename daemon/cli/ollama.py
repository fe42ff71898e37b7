"""Looks for an Ollama that already runs on this machine. It must not look on any other machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from daemon.config.config import is_loopback
from daemon.engines.attached import AttachedEngine, Attachment

_USUAL = "127.0.0.1:11434"
CONNECT_SECONDS = 1.0


class Ollama(NamedTuple):
    """A running Ollama."""

    url: str
    """The base address of its OpenAI API."""
    models: list[str]


def find(environ: Mapping[str, str]) -> Ollama | None:
    """The Ollama of this machine and its models; None if none answers, or it has no model."""
    address = address_of(environ.get("OLLAMA_HOST", ""))
    if not is_loopback(address) or not _listens(address):
        return None
    url = f"http://{address}/v1"
    models = asyncio.run(_models(url))
    return Ollama(url, models) if models else None


def address_of(text: str) -> str:
    """Where Ollama's own variable has it listen, as host:port on this machine."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port or 11434
    except ValueError:
        return _USUAL
    with contextlib.suppress(ValueError):  # a name is no address
        if ip_address(host).is_unspecified:
            host = "127.0.0.1"  # it listens on every address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return True
    except OSError:
        return False


async def _models(url: str) -> list[str]:
    engine = AttachedEngine(Attachment(url))
    try:
        await engine.refresh()
        return [model.name for model in engine.models()]
    finally:
        await engine.close()
