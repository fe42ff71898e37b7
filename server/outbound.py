"""POST requests to addresses that strangers named: nowhere but the public internet, and never for long.

A name is resolved, every address that it has is looked at, and one of those that were looked at is
connected to: what the name leads to a moment later does not matter. TLS and the header Host keep
the name. Redirects are not followed, no proxy of the environment is used, and no body is read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import certifi
import httpcore

from server.domain.webhooks import Answer, is_public

TIMEOUT_SECONDS = 10.0


class NotPublicError(httpcore.ConnectError):
    """The name leads to an address that is not public."""


class Outbound:
    """Sends requests; nothing is shared between two of them."""

    def __init__(
        self,
        *,
        allow_private: bool,
        timeout_seconds: float = TIMEOUT_SECONDS,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._backend = _CheckedBackend(allow_private)
        self._timeout_seconds = timeout_seconds
        self._trust = trust

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._trust or ssl.create_default_context(cafile=certifi.where())

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends one request; what goes wrong is in the answer, in words that tell nothing of our network."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return _judged(await self._status(url, headers, body))
        except NotPublicError:
            return Answer(None, "the name of the host leads to an address that is not public")
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(None, f"no answer within {self._timeout_seconds:g} s")
        except httpcore.ConnectError as error:
            if _is_of_tls(error):
                return Answer(None, "the certificate of the host was not accepted")
            return Answer(None, "the host cannot be reached")
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            OSError,
            ValueError,
        ):
            return Answer(None, "the host did not answer as an HTTP server does")

    async def _status(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=self._backend, max_connections=1
            ) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            return int(response.status)


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that it has looked at itself."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the name is not known") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise NotPublicError("not a public address")
        failed: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failed = error
        raise failed or httpcore.ConnectError("the name has no address")


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether the handshake failed; the layers between wrap its error once or twice."""
    return error is not None and (
        isinstance(error, ssl.SSLError) or _is_of_tls(error.__cause__ or error.__context__)
    )


def _judged(status_code: int) -> Answer:
    if 200 <= status_code < 300:
        return Answer(status_code)
    told = (
        "it redirected, which is not followed" if 300 <= status_code < 400 else "it did not answer with a 2xx"
    )
    return Answer(status_code, told)
