"""A fake server for the gateway's tests, on a free port or embedded, with responses that a test sets.

It checks nothing by itself; ``calls`` has the calls that arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from dcp.v1 import errors_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from gateway.channel import CHANNEL_OPTIONS
from gateway.routes import bindings, discover
from market.channel import EmbeddedChannel

DETAILS_KEY = "grpc-status-details-bin"


@dataclass
class Call:
    """A call that arrived."""

    rpc: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float


class Refusal(Exception):  # noqa: N818
    """An error that the fake responds with, with or without a reason of the marketplace."""

    def __init__(
        self, code: grpc.StatusCode, text: str = "", reason: str = "", domain: str = "dcp.v1", **facts: Any
    ) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text
        status = status_pb2.Status(code=code.value[0], message=text)
        if reason:
            status.details.add().Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason))
        if facts:
            status.details.add().Pack(errors_pb2.ErrorFacts(**facts))
        self.metadata: tuple[tuple[str, bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)


@dataclass
class FakeServer:
    """The responses by RPC name; an RPC without one responds with an empty message."""

    address: str = ""
    """Where it listens; empty if it is embedded."""
    files: Sequence[FileDescriptor] = ()
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def refuse(self, rpc: str, refusal: Refusal) -> None:
        """Makes the RPC fail."""

        def answer(_: Any) -> Any:
            raise refusal

        self.answers[rpc] = answer

    def open_channel(self) -> Any:
        """A gateway's channel to it, as a context manager."""
        if self.address:
            return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        methods = self._methods()

        async def find(method: str) -> grpc.RpcMethodHandler[Any, Any] | None:
            return methods.get(method)

        return EmbeddedChannel(find)

    def handler(self) -> grpc.GenericRpcHandler:
        """Serves every RPC in the files that has an HTTP route."""
        methods = self._methods()

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
                return methods.get(details.method)

        return Handler()

    def _methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            f"/{b.method.containing_service.full_name}/{b.method.name}": self._method(b.method)
            for b in bindings(self.files)
        }

    def _method(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        answer_class: Any = GetMessageClass(method.output_type)

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            self.calls.append(Call(method.name, request, metadata, context.time_remaining()))
            try:
                answer = self.answers.get(method.name, lambda _: answer_class())(request)
                return await answer if hasattr(answer, "__await__") else answer
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.text, refusal.metadata)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            """The response is a list or an async iterator of messages."""
            metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            self.calls.append(Call(method.name, request, metadata, 0.0))
            try:
                answer: Any = self.answers[method.name](request) if method.name in self.answers else []
                async for message in answer if hasattr(answer, "__aiter__") else _each(answer):
                    yield message
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.text, refusal.metadata)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                stream,
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=answer_class.SerializeToString,
            )
        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=answer_class.SerializeToString,
        )


async def _each(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


@asynccontextmanager
async def running(
    files: list[FileDescriptor] | None = None, *, embedded: bool = False
) -> AsyncIterator[FakeServer]:
    """Runs the fake on 127.0.0.1 until the block ends; ``embedded``: without a port."""
    fake = FakeServer(files=discover() if files is None else files)
    if embedded:
        yield fake
        return
    server = grpc.aio.server(handlers=[fake.handler()])
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)
