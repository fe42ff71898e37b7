"""Traces calls: a span for each, below the one that the gateway names in the call's metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from common import tracing
from common.tracing import Traces
from server.rpc.context import Context
from server.rpc.measures import code_of

# The codes that are faults of this side; others are the caller's.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
Inner = Callable[[Any, Context], Awaitable[Any]]


class Traced:
    """The calls of one server."""

    def __init__(self, traces: Traces, is_gateway: Callable[[Context], bool]) -> None:
        """``is_gateway``: whether a call comes from a gateway, which decided whether a trace is recorded."""
        self._traces = traces
        self._is_gateway = is_gateway

    def of(self, method: str, handler: Any) -> Any:
        """The handler of a method, traced; as it is if nothing is traced.

        A stream of requests, which is a daemon's session, belongs to no trace: its jobs do.
        """
        if not self._traces.is_on or handler.request_streaming:
            return handler
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        name = method.removeprefix("/")
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._call(name, handler.unary_unary), **codecs)
        return grpc.unary_stream_rpc_method_handler(self._call(name, handler.unary_stream), **codecs)

    def _call(self, name: str, inner: Inner) -> Inner:
        async def call(request: Any, context: Context) -> Any:
            given = tracing.parse_one(
                str(value) for key, value in context.invocation_metadata() or () if key == tracing.TRACEPARENT
            )
            is_trusted = self._is_gateway(context)
            with self._traces.span(name, tracing.SERVER, given, is_trusted=is_trusted) as span:
                code = None
                try:
                    return await inner(request, context)
                except asyncio.CancelledError:
                    code = grpc.StatusCode.CANCELLED.name
                    raise
                finally:
                    code = code or code_of(context)
                    if span is not None:
                        span.attributes |= {
                            "rpc.system.name": "grpc",
                            "rpc.method": name,
                            "rpc.response.status_code": code,
                        }
                        span.is_error = code in _FAULTS

        return call
