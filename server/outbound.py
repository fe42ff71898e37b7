"""Requests to URLs that renters chose: only to the public internet, and with limits of time.

A host name is resolved once, every address that it has is checked, and the connection goes to a checked
address, so that a later change of the name has no effect. TLS and the Host header keep the name. Proxies
from the environment are not used. A POST follows no redirects, and the body of its answer is not read; a GET
follows a few, each of which is checked like the first address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import Any
from urllib.parse import urljoin, urlsplit

import certifi
import httpcore

from server.domain.errors import DomainError
from server.domain.inputs import FetchError
from server.domain.targets import check_url, is_public
from server.domain.webhooks import Answer

TIMEOUT_SECONDS = 10.0
GET_IDLE_SECONDS = 30.0
MAX_REDIRECTS = 5
LEAST_BYTES = 1 << 20
LEAST_SECONDS = 60.0
"""A host whose answer does not begin within this time, or that needs more for ``LEAST_BYTES``, is left."""


_NO_HTTP = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    OSError,
    ValueError,
)


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
        except _NO_HTTP:
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

    async def get(self, url: str, first_byte: int = 0) -> AsyncGenerator[bytes, None]:
        """The body at an address, from a byte on, which may be long: the caller counts. Raises FetchError."""
        try:
            async with httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=self._backend, max_connections=1
            ) as pool:
                for _ in range(MAX_REDIRECTS):
                    async with (
                        asyncio.timeout(LEAST_SECONDS) as begin,
                        self._getting(pool, url, first_byte) as response,
                    ):
                        begin.reschedule(None)
                        target = _redirect(response, url)
                        if target is None:
                            async for data in _body(response, first_byte):
                                yield data
                            return
                    check_url(target, allow_private=self._backend.allow_private)
                    url = target
                raise FetchError(f"it redirects more than {MAX_REDIRECTS} times")
        except NotPublicError:
            raise FetchError("the host's name resolves to an address that is not public") from None
        except TimeoutError:
            raise FetchError(f"the host did not answer within {LEAST_SECONDS:g} s") from None
        except httpcore.TimeoutException:
            raise FetchError(f"nothing arrived for {GET_IDLE_SECONDS:g} s") from None
        except httpcore.ConnectError as error:
            why = "certificate was not accepted" if _is_of_tls(error) else "name or address leads nowhere"
            raise FetchError(f"the host's {why}") from None
        except DomainError:
            raise FetchError("it redirects to an address that is not public, or not https") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            OSError,
            ValueError,
        ):
            raise FetchError("the host did not answer as an HTTP server does, or broke off") from None

    def _getting(
        self, pool: httpcore.AsyncConnectionPool, url: str, first_byte: int
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        headers = [("Host", urlsplit(url).netloc.rpartition("@")[2]), ("Accept-Encoding", "identity")]
        if first_byte:
            headers.append(("Range", f"bytes={first_byte}-"))
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), GET_IDLE_SECONDS)
        return pool.stream("GET", url, headers=headers, extensions={"timeout": timeout})


def _redirect(response: httpcore.Response, url: str) -> str | None:
    """Where an answer redirects to; None: it has the body. Raises FetchError."""
    if response.status in (200, 206):
        return None
    places = [value for name, value in response.headers if name.lower() == b"location"]
    if response.status not in (301, 302, 303, 307, 308) or not places:
        raise FetchError(f"the host answered with the status {response.status}")
    return urljoin(url, places[0].decode("latin-1"))


async def _body(response: httpcore.Response, first_byte: int) -> AsyncGenerator[bytes, None]:
    """The body of an answer from a byte on, which a host that knows no ranges sends from the first."""
    skipped = 0 if response.status == 206 else first_byte
    async for data in _paced(response.aiter_stream()):
        part = data[skipped:]
        skipped -= len(data) - len(part)
        if part:
            yield part


async def _paced(arriving: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What arrives, unless it is too slow; only the time that the host takes counts. Raises FetchError."""
    clock, seconds, bytes_ = asyncio.get_running_loop().time, 0.0, 0
    while True:
        began = clock()
        try:
            async with asyncio.timeout(LEAST_SECONDS - seconds):
                data = await anext(arriving, None)
        except TimeoutError:
            text = f"the host sends less than {LEAST_BYTES} bytes in {LEAST_SECONDS:g} s"
            raise FetchError(text) from None
        if data is None:
            return
        seconds, bytes_ = seconds + clock() - began, bytes_ + len(data)
        if bytes_ >= LEAST_BYTES:
            seconds, bytes_ = 0.0, 0
        yield data


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves host names itself and connects only to addresses that it has checked."""

    def __init__(self, allow_private: bool) -> None:
        self.allow_private = allow_private
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
        if not self.allow_private and not all(is_public(address) for address in addresses):
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
