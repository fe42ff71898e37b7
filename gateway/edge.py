"""Owns what all HTTP exchanges share: request id, common headers, errors as responses.

It knows no route, message or credential, and never logs a request's content.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.nearest import nearest_path

log = logging.getLogger(__name__)

RawHeaders = Iterable[tuple[bytes, bytes]]

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class ClientGoneError(Exception):
    """The client disconnected before it sent its whole request, so no response is needed."""


class Edge:
    """The outermost ASGI layer of the gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one exchange. An exception inside becomes a response in the API's error format."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"] = _request_id(scope["headers"])
        started = False

        async def send_dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _dressed(message.get("headers", ()), request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_dressed)
        except ClientGoneError:
            log.debug("client hung up: request_id=%s", request_id)
        except Exception as fault:
            error = fault if isinstance(fault, ApiError) else ApiError("INTERNAL")
            if error is not fault:
                _log_fault(fault, scope)
            if started:
                raise
            await respond(send_dressed, error.status, error.body(request_id), error.headers)


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
    paths = [getattr(route, "path", "").replace(":path}", "}") for route in request.app.router.routes]
    close = nearest_path(request.scope["path"], paths)
    return f"did you mean {close}? Otherwise " if close else ""


def method_not_allowed(allow: str) -> ApiError:
    """The error for an HTTP method that the path does not have; ``allow`` lists the methods that it has."""
    text = f"This path does not accept this method; it accepts {allow}."
    return ApiError("METHOD_NOT_ALLOWED", text, headers=[("allow", allow)])


def _request_id(headers: RawHeaders) -> str:
    for name, value in headers:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(8)


def _dressed(headers: RawHeaders, request_id: str) -> list[tuple[bytes, bytes]]:
    dressed = list(headers)
    dressed += [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
    if not any(name.lower() == b"cache-control" for name, _ in dressed):
        dressed.append((b"cache-control", b"no-store"))
    return dressed


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
