"""POST requests to URLs that renters chose: only to the public internet, and with a short time limit.

A host name is resolved once, every address that it has is checked, and the connection goes to a checked
address, so that a later change of the name has no effect. TLS and the Host header keep the name. Redirects
are not followed, proxies from the environment are not used, and the body of the answer is not read.
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

from server.domain.targets import is_public
from server.domain.webhooks import Answer

TIMEOUT_SECONDS = 10.0


class NotPublicError(httpcore.ConnectError):
    """The host name resolves to an address that is not public."""


class Outbound:
    """Sends requests. Two requests share no connection."""

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
        """Sends one request. The answer describes an error without details of our network."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return _judged(*await self._answer(url, headers, body))
        except NotPublicError:
            return Answer(None, "the host's name resolves to an address that is not public")
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(None, f"no answer within {self._timeout_seconds:g} s")
        except httpcore.ConnectError as error:
            if _is_of_tls(error):
                return Answer(None, "the host's certificate was not accepted")
            return Answer(None, "the host cannot be reached")
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            OSError,
            ValueError,
        ):
            return Answer(None, "the host did not answer as an HTTP server does")

    async def _answer(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """The status of the answer, and its header ``Retry-After``."""
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=self._backend, max_connections=1
            ) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            waits = [value for name, value in response.headers if name.lower() == b"retry-after"]
            return int(response.status), waits[0].decode("latin-1") if waits else ""


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves host names itself and connects only to addresses that it has checked."""

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
            raise httpcore.ConnectError("the host's name cannot be resolved") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise NotPublicError("the address is not public")
        failed: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failed = error
        raise failed or httpcore.ConnectError("the host's name has no address")


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether the TLS handshake failed; the layers in between wrap its error once or twice."""
    return error is not None and (
        isinstance(error, ssl.SSLError) or _is_of_tls(error.__cause__ or error.__context__)
    )


def _judged(status_code: int, retry_after: str) -> Answer:
    if 200 <= status_code < 300:
        return Answer(status_code)
    if 300 <= status_code < 400:
        return Answer(status_code, "the host answered with a redirect, which is not followed")
    return Answer(status_code, "the host did not answer with a 2xx status", retry_after)
