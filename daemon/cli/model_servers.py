"""Looks for model servers that already run on this machine, and has its Ollama download a model.

It must not look on any other machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from common import documents
from daemon.config.config import is_loopback
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.foreign import http

_USUAL = "127.0.0.1:11434"
CONNECT_SECONDS = 1.0


# Where these listen unless they were told otherwise. Anything else with the OpenAI API may be there, too.
_USUAL_PORTS = (("vLLM", 8000), ("LM Studio", 1234), ("SGLang", 30000), ("llama.cpp's server", 8080))
PULL_SECONDS = 600.0
"""How long Ollama may be silent while it downloads."""
_MAX_LINE_BYTES = 65536


class ModelServer(NamedTuple):
    """A running model server."""

    name: str
    url: str
    """The base address of its OpenAI API."""
    models: list[str]


class PullError(Exception):
    """Ollama could not download a model; the text says why."""


def find(environ: Mapping[str, str]) -> ModelServer | None:
    """The Ollama of this machine and its models, which may be none; None if nothing listens at its place."""
    address = address_of(environ.get("OLLAMA_HOST", ""))
    if not is_loopback(address) or not _listens(address):
        return None
    return _server("Ollama", address)


def others(ports: Sequence[tuple[str, int]] = _USUAL_PORTS) -> Iterator[ModelServer]:
    """The other servers, at their usual ports, that answer without a key and have a model."""
    for name, port in ports:
        address = f"127.0.0.1:{port}"
        if _listens(address) and (found := _server(name, address)).models:
            yield found


def pull(url: str, model: str, hear: Callable[[int, int], None]) -> None:
    """Has the Ollama at this base address download a model; `hear` gets how many bytes of how many are there,
    and may raise to end it. Raises PullError.
    """
    asyncio.run(_pull(url.removesuffix("/v1"), model, hear))


async def _pull(address: str, model: str, hear: Callable[[int, int], None]) -> None:
    layers: dict[str, tuple[int, int]] = {}
    timeout = http.Timeout(CONNECT_SECONDS, read=PULL_SECONDS)
    request = {"model": model, "stream": True}
    try:
        async with (
            http.client(timeout=timeout) as client,
            client.stream("POST", f"{address}/api/pull", json=request) as answer,
        ):
            if answer.status_code != http.OK:
                raise PullError(
                    f"Ollama answers {answer.status_code}: {_error(await http.beginning(answer))}"
                )
            async for line in _lines(answer):
                event = documents.parse_object(line)
                if text := event.get("error"):
                    raise PullError(f"Ollama says: {str(text)[:300]}")
                if event.get("status") == "success":
                    return
                total, done = event.get("total"), event.get("completed", 0)
                if isinstance(total, int) and isinstance(done, int):
                    layers[str(event.get("digest"))] = (done, total)
                    hear(sum(each[0] for each in layers.values()), sum(each[1] for each in layers.values()))
    except documents.DocumentError as error:
        raise PullError(f"Ollama's answer cannot be used: {error}") from None
    except http.FAILURES as error:
        raise PullError(f"Ollama broke off: {error or type(error).__name__}") from None
    raise PullError("Ollama ended its answer before the model was whole")


async def _lines(answer: http.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise PullError("Ollama's answer has a line without an end")
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _error(body: bytes) -> str:
    try:
        return str(documents.parse_object(body).get("error", ""))[:300]
    except documents.DocumentError as error:
        return str(error)


def _server(name: str, address: str) -> ModelServer:
    url = f"http://{address}/v1"
    return ModelServer(name, url, asyncio.run(_models(url)))


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
