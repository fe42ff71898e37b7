"""Owns what is recorded of each HTTP exchange: metrics, a span of a trace, and a line of the access log.

It records the template of a path, never the path itself, a query's values, a key or a body.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import logs, tracing
from common.telemetry import Telemetry
from common.tracing import Traces

log = logging.getLogger("gateway.access")

ACCOUNT = "dcp.account"
"""The key of a scope, if its exchange is logged, for the account that the server recognized."""
IS_STREAM = "dcp.is_stream"
"""The key of a scope whose response is cut when the gateway stops, since it has no end that is near."""
CLIENT_LEFT = 499
"""The status of an exchange whose client left before there was one."""
_ACCOUNT_HEADER = "x-account"
# Probes come every few seconds and say nothing.
_PROBES = frozenset({"/healthz", "/readyz"})
_TRACEPARENT = tracing.TRACEPARENT.encode()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Exchanges:
    """The exchanges of one gateway."""

    def __init__(self, telemetry: Telemetry, traces: Traces = tracing.OFF, *, has_log: bool = False) -> None:
        """``has_log``: whether each exchange is logged."""
        self._telemetry = telemetry
        self._traces = traces
        self._logs = has_log
        self._open = 0
        self._streams = 0
        self._note_open(0)
        self._note_streams(0)

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one exchange and records it."""
        if not self._traces.is_on or scope["path"] in _PROBES:
            await self._run(app, scope, receive, send)
            return
        given = tracing.parse_one(
            value.decode("latin-1") for name, value in scope["headers"] if name == _TRACEPARENT
        )
        # Whoever calls may name a trace; whether it is recorded is decided here.
        with self._traces.span("", tracing.SERVER, given, is_trusted=False):
            await self._run(app, scope, receive, send)

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        start, status, size_bytes, is_stream = perf_counter(), 0, 0, False
        if self._logs:
            scope[ACCOUNT] = ""

        async def observed(message: Message) -> None:
            nonlocal status, size_bytes, is_stream
            size_bytes += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                if (span := tracing.present()) is not None:
                    span.add("response began")
                if scope.get(IS_STREAM):
                    is_stream = True
                    self._note_streams(1)
            await send(message)

        self._note_open(1)
        try:
            await app(scope, receive, observed)
        finally:
            self._note_open(-1)
            if is_stream:
                self._note_streams(-1)
            seconds, status = perf_counter() - start, status or CLIENT_LEFT
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = template(scope)
            self._telemetry.count("dcp_http_requests_total", method, route, str(status))
            _note_span(method, route, status)
            if not is_stream:
                self._telemetry.observe("dcp_http_request_duration_seconds", seconds, route)
            if self._logs:
                self._log(scope, method, route, status, seconds, size_bytes)

    def _log(
        self, scope: Scope, method: str, route: str, status: int, seconds: float, size_bytes: int
    ) -> None:
        level = logging.DEBUG if route in _PROBES else logging.INFO
        account = scope[ACCOUNT] or "unknown"
        line = "answered method=%s route=%s status=%d ms=%.1f bytes=%d account=%s"
        values = (method, route, status, round(seconds * 1000, 1), size_bytes, account)
        shown = scope.get("request_id", "")
        if shown != logs.present_request():
            # The response of a chat has the id of its job.
            log.log(level, f"{line} job_id=%s", *values, shown)
        else:
            log.log(level, line, *values)

    def _note_open(self, change: int) -> None:
        self._open += change
        self._telemetry.set("dcp_http_requests_open", self._open)

    def _note_streams(self, change: int) -> None:
        self._streams += change
        self._telemetry.set("dcp_http_streams_open", self._streams)


def _note_span(method: str, route: str, status: int) -> None:
    """Says in the span of the exchange what it was."""
    if (span := tracing.present()) is not None:
        span.name = f"{method} {route}"
        span.attributes |= {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        span.is_error = status >= 500


def template(scope: Scope) -> str:
    """The template of the path, such as `/api/jobs/{job_id}`; `none` for a path that no route has."""
    route = getattr(scope.get("route"), "path", "")
    if not route and "endpoint" in scope:
        # Routes of pages are found by FastAPI, which notes only what they call.
        route = scope["app"].templates.get(scope["endpoint"], "")
    return route or "none"


async def note_account(scope: Scope, call: Any) -> None:
    """Notes for the log whom the server recognized, by the metadata of a call that has ended."""
    if ACCOUNT in scope:
        note_account_of(scope, await call.trailing_metadata())


def note_account_of(scope: Scope, metadata: Iterable[tuple[str, Any]] | None) -> None:
    """Notes for the log whom the server recognized, by the metadata of an error."""
    if ACCOUNT in scope:
        found = next((str(value) for key, value in metadata or () if key == _ACCOUNT_HEADER), "")
        scope[ACCOUNT] = found or scope[ACCOUNT]
