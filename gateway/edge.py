"""Owns what all HTTP exchanges share: request id, common headers, errors as responses.

It knows no route, message or credential, and never logs a request's content.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import addresses, logs, tracing
from common.addresses import Address, Network
from gateway.dialects.refusals import refusal
from gateway.errors import ApiError
from gateway.exchanges import Exchanges
from gateway.limits import LEAST_BODY_LIMIT, MAX_HEAD_BYTES, MAX_HEADERS
from gateway.nearest import nearest_path

log = logging.getLogger(__name__)

RawHeaders = Iterable[tuple[bytes, bytes]]

ROOTS = ("/api/", "/v1/")
"""Where the routes of the API are; they read their bodies themselves."""
CUT = "dcp.cut"
"""The key under which `connections` offers to break a scope's connection after what was written."""


class ClientGoneError(Exception):
    """The client disconnected before it sent its whole request, so no response is needed."""


class Edge:
    """The outermost ASGI layer of the gateway."""

    def __init__(self, app: ASGIApp, exchanges: Exchanges | None = None) -> None:
        self._app = app
        self._exchanges = exchanges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one exchange. An exception inside becomes a response in the API's error format."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._exchanges is None:
            await self._exchange(scope, receive, send)
        else:
            await self._exchanges.run(self._exchange, scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["request_id"] = _request_id(scope["headers"])
        logs.begin_request(request_id)
        started = False

        async def send_dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = dressed(
                    message.get("headers", ()), scope["request_id"], scope.get("scheme")
                )
            await send(message)

        try:
            _check_head(scope)
            if not scope["path"].startswith(ROOTS):
                receive = await _complete(scope, receive)
            await self._app(scope, receive, send_dressed)
        except ClientGoneError:
            log.debug("client hung up: request_id=%s", request_id)
        except Exception as fault:
            error = fault if isinstance(fault, ApiError) else ApiError("INTERNAL")
            tracing.note("error.type", error.code)
            if error is not fault:
                _log_fault(fault, scope)
            if started:
                raise
            await respond(send_dressed, *refusal(scope["path"], error, scope["request_id"]))


class Forwarded:
    """Takes the client's address and scheme from the headers of trusted proxies."""

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the exchange on."""
        if scope["type"] == "http" and scope.get("client"):
            self._read(scope)
        await self._app(scope, receive, send)

    def _read(self, scope: Scope) -> None:
        peer = addresses.parse(scope["client"][0])
        if peer is None or not self._is_trusted(peer):
            return
        found: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": []}
        for name, value in scope["headers"]:
            if name in found:
                found[name].append(value.decode("latin-1"))
        client = addresses.client(peer, ",".join(found[b"x-forwarded-for"]), self._is_trusted)
        scope["client"] = (str(client), 0)
        if found[b"x-forwarded-proto"] in (["http"], ["https"]):
            scope["scheme"] = found[b"x-forwarded-proto"][0]

    def _is_trusted(self, address: Address) -> bool:
        return addresses.is_within(address, self._trusted)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: Iterable[tuple[str, str]] = (),
    content_type: str = "application/json",
) -> None:
    """Sends a whole response. A 204 has no body and no content type."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    if status != 204:
        raw += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def refuse_unrouted(request: Request, error: Exception) -> NoReturn:
    """Turns the router's 404 and 405 into errors of the API."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        raise ApiError("ROUTE_NOT_FOUND", f"No route has this path; {_meant(request)}see /openapi.json.")
    if status == 405:
        raise method_not_allowed((getattr(error, "headers", None) or {}).get("Allow", ""))
    raise error


def _meant(request: Request) -> str:
    """The question whether another path was meant; empty if none is close."""
    paths = [path.replace(":path}", "}") for path in request.app.paths]
    close = nearest_path(request.scope["path"], paths)
    return f"did you mean {close}? Otherwise " if close else ""


def method_not_allowed(allow: str) -> ApiError:
    """The error for an HTTP method that the path does not have; ``allow`` lists the methods that it has."""
    text = f"This path does not accept this method; it accepts {allow}."
    return ApiError("METHOD_NOT_ALLOWED", text, headers=[("allow", allow)])


def _request_id(headers: RawHeaders) -> str:
    for name, value in headers:
        if name == b"x-request-id" and logs.is_request_id(text := value.decode("latin-1")):
            return text
    return secrets.token_hex(8)


def dressed(headers: RawHeaders, request_id: str, scheme: str | None = None) -> list[tuple[bytes, bytes]]:
    """The headers of a response with those that every response has."""
    dressed = list(headers)
    dressed += [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
    if trace_id := tracing.present_trace_id():
        dressed.append((b"x-trace-id", trace_id.encode()))
    if scheme == "https":
        dressed.append((b"strict-transport-security", b"max-age=31536000"))
    if not any(name.lower() == b"cache-control" for name, _ in dressed):
        dressed.append((b"cache-control", b"no-store"))
    return dressed


def _check_head(scope: Scope) -> None:
    """Raises HEAD_TOO_LARGE. `connections` refuses larger heads before they are complete."""
    headers = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    size += sum(len(name) + len(value) + 4 for name, value in headers)
    if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
        raise head_too_large()


async def _complete(scope: Scope, receive: Receive) -> Receive:
    """A ``receive`` of a request that has arrived in full. Routes of the API read their bodies themselves."""
    body = await read_body(scope["headers"], receive, LEAST_BODY_LIMIT)
    is_read = False

    async def receive_again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def read_body(headers: RawHeaders, receive: Receive, limit: int) -> bytes:
    """Returns the whole body as it was sent, at most ``limit`` bytes. Raises ApiError or ClientGoneError.

    A body that the HTTP layer lost must not run as an empty one. Its bytes can still be on the
    connection, where they would be read as the next request, so the connection is closed.
    """
    announced = _announced_length(headers, limit)
    chunks, received, is_end = [], 0, False
    while not is_end:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunks.append(message.get("body", b""))
        received += len(chunks[-1])
        if received > limit:
            raise body_too_large(limit)
        is_end = not message.get("more_body", False)
    if announced is not None and received < announced:
        raise _too_short(received, announced)
    return b"".join(chunks)


def _announced_length(headers: RawHeaders, limit: int) -> int | None:
    """The announced length of the body in bytes, or None. Raises BODY_TOO_LARGE."""
    for name, value in headers:
        if name == b"content-length":
            if len(value) > 18 or int(value) > limit:
                raise body_too_large(limit)
            return int(value)
    return None


def head_too_large() -> ApiError:
    """The error for a request with too many or too large headers, or a too long address."""
    text = (
        f"The request line and the headers may have at most {MAX_HEAD_BYTES} bytes (64 KiB) "
        f"and {MAX_HEADERS} headers."
    )
    return ApiError("HEAD_TOO_LARGE", text, headers=[("connection", "close")])


def body_too_large(limit: int) -> ApiError:
    """The error for a body, or what it unpacks to, of more than ``limit`` bytes."""
    text = f"The body is larger than {limit} bytes ({limit >> 20} MiB), the most that this route reads."
    return ApiError("BODY_TOO_LARGE", text, headers=[("connection", "close")])


def _too_short(received: int, announced: int) -> ApiError:
    text = (
        f"The body ended after {received} of the {announced} bytes that Content-Length announced; send all."
    )
    return ApiError("MALFORMED_JSON", text, headers=[("connection", "close")])


def _log_fault(fault: Exception, scope: Any) -> None:
    """Logs the traceback but not the exception's text, which can quote a body or a key."""
    log.error(
        "request failed with an internal fault: request_id=%s method=%s route=%s error=%s\n%s",
        scope["request_id"],
        scope["method"],
        getattr(scope.get("route"), "path", "?"),
        type(fault).__name__,
        "".join(traceback.format_tb(fault.__traceback__)),
    )
