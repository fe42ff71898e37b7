"""Measures calls: how many ended with which code, how long they took, how many streams are open."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import grpc

from common.telemetry import Telemetry
from server.rpc.context import Context

# Codes with which a call fails by the server's fault, not by its caller's.
SERVER_FAULTS = frozenset(
    code.name
    for code in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNAVAILABLE,
    )
)
NoteCall = Callable[[str, float, str], None]
"""Gets the method, such as JobService/GetJob, how long a call took in seconds, and its code."""
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
Inner = Callable[[Any, Context], Awaitable[Any]]


class Measures:
    """The calls of one server."""

    def __init__(self, telemetry: Telemetry, note_call: NoteCall) -> None:
        self._telemetry = telemetry
        self._note_call = note_call
        self._streams: Counter[str] = Counter()

    def of(self, method: str, handler: Any) -> Any:
        """The handler of a method, measured; a stream is as it is without telemetry."""
        name = method.rpartition(".")[2]  # such as JobService/GetJob
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(name, handler.unary_unary), **codecs)
        if not self._telemetry.is_on:
            return handler
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(name, handler.unary_stream), **codecs)
        return grpc.stream_stream_rpc_method_handler(self._stream(name, handler.stream_stream), **codecs)

    def _unary(self, name: str, inner: Inner) -> Inner:
        async def call(request: Any, context: Context) -> Any:
            start, code = perf_counter(), None
            try:
                return await inner(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED.name
                raise
            finally:
                seconds, ended = perf_counter() - start, code or code_of(context)
                self._note_call(name, seconds, ended)
                self._telemetry.count("dcp_rpcs_total", name, ended)
                self._telemetry.observe("dcp_rpc_duration_seconds", seconds, name)

        return call

    def _stream(self, name: str, inner: Inner) -> Inner:
        async def call(requests: Any, context: Context) -> None:
            self._note_stream(name, 1)
            try:
                with self._counted(name, context):
                    await inner(requests, context)
            finally:
                self._note_stream(name, -1)

        return call

    def _note_stream(self, name: str, change: int) -> None:
        self._streams[name] += change
        self._telemetry.set("dcp_rpc_streams_open", self._streams[name], name)

    @contextmanager
    def _counted(self, name: str, context: Context) -> Iterator[None]:
        code = None
        try:
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        finally:
            self._telemetry.count("dcp_rpcs_total", name, code or code_of(context))


def code_of(context: Context) -> str:
    """The code with which a call ended: gRPC's contexts have numbers, those without a wire have members."""
    code: Any = context.code()
    return str(_NAMES.get(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0, "UNKNOWN"))
