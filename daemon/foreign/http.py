"""Owns the HTTP clients for programs of others, and how much of their answers is read.

An answer is read as it is: a compressed one is refused, since a few bytes could unpack to more memory than
the machine has. It must not know what is asked for.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from common import tracing

Client = httpx.AsyncClient
BlockingClient = httpx.Client
Response = httpx.Response
Headers = httpx.Headers
Timeout = httpx.Timeout
OK = httpx.codes.OK
PARTIAL = httpx.codes.PARTIAL_CONTENT
RANGE_REFUSED = httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
FAILURES = (httpx.HTTPError, httpx.InvalidURL)
"""What a request raises that did not get its answer."""

MAX_ERROR_BYTES = 65536
KEPT_CONNECTIONS = 8
KEPT_SECONDS = 4.0
"""Model servers close a connection that was idle for five seconds or longer."""
_HEADERS = {"Accept-Encoding": "identity"}


class TooLargeError(ValueError):
    """The answer is larger than may be read."""


def client(*, headers: Mapping[str, str] | None = None, socket: str | None = None, **options: Any) -> Client:
    """A client for a model server; `socket`: the path of the Unix socket that it listens on.

    It follows no redirections and asks no proxy of the environment: prompts and the provider's key go only
    where the provider said.
    """
    return httpx.AsyncClient(
        headers={**_HEADERS, **(headers or {})},
        event_hooks={"request": [_name_trace], "response": [_check_plain_later]},
        transport=_Transport(socket),
        trust_env=False,
        follow_redirects=False,
        **options,
    )


class _Transport(httpx.AsyncBaseTransport):
    """Uses a connection again for a short time.

    A server may close it at that very moment, or after a stream without saying so. A request that got no
    answer on a connection of before is sent once more, on a new one: at worst the server computes it twice.
    """

    def __init__(self, socket: str | None) -> None:
        options: dict[str, Any] = {"uds": socket, "verify": _authorities(), "trust_env": False}
        kept = httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
        self._kept = httpx.AsyncHTTPTransport(**options, limits=kept)
        self._new = httpx.AsyncHTTPTransport(**options, limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        is_new = False

        async def trace(event: str, _: Any) -> None:
            nonlocal is_new
            is_new = is_new or event.startswith("connection.connect_")

        request.extensions = {**request.extensions, "trace": trace}
        try:
            return await self._kept.handle_async_request(request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if is_new:
                raise
        return await self._new.handle_async_request(request)

    async def aclose(self) -> None:
        await self._kept.aclose()
        await self._new.aclose()


async def _name_trace(request: httpx.Request) -> None:
    """The model server's own spans are below those of the run that asks it, if that is traced."""
    if traceparent := tracing.present_header():
        request.headers[tracing.TRACEPARENT] = traceparent


@functools.cache
def _authorities() -> ssl.SSLContext:
    """The certificate authorities that are trusted; reading them takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


def blocking_client(**options: Any) -> BlockingClient:
    """A client for downloads, which uses the proxies of the environment and follows no redirections."""
    hooks = {"response": [_check_plain]}
    return httpx.Client(headers=_HEADERS, event_hooks=hooks, follow_redirects=False, **options)


async def body(response: Response, most_bytes: int) -> bytes:
    """The whole body of an answer. Raises TooLargeError, and what is in FAILURES."""
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > most_bytes:
            raise TooLargeError(f"it is larger than {most_bytes} bytes")
    return bytes(data)


async def beginning(response: Response) -> bytes:
    """The first 64 KiB of a body, which are enough of an error."""
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) >= MAX_ERROR_BYTES:
            break
    return bytes(data[:MAX_ERROR_BYTES])


def retry_after_seconds(response: Response, now: datetime | None = None) -> float | None:
    """How long the server asks to wait before the request is repeated; None: it does not say."""
    text = response.headers.get("retry-after", "").strip()[:100]
    try:
        seconds = float(text) if text[:1].isdigit() else _seconds_until(text, now or datetime.now(UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, seconds)


def _seconds_until(date: str, now: datetime) -> float:
    then = parsedate_to_datetime(date)
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - now.timestamp()


def _check_plain(response: Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise httpx.DecodingError(
            "the answer is compressed, which was not asked for", request=response.request
        )


async def _check_plain_later(response: Response) -> None:
    _check_plain(response)
