"""Every RPC of the marketplace as its descriptor, for tests that are generated from the protos."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import dcp.v1
import grpc
from dcp.v1 import options_pb2, sessions_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.running_server import Market, Metadata

# How often a call is repeated whose write came after the server had ended the stream.
LOST_WRITES = 5
FILES = [
    importlib.import_module(f"dcp.v1.{module.name}")
    for module in pkgutil.iter_modules(dcp.v1.__path__)
    if module.name.endswith("_pb2")
]
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def rule(method: MethodDescriptor) -> options_pb2.MethodRule:
    """The method's own options."""
    return method.GetOptions().Extensions[options_pb2.method]


def field_rule(field: Any) -> options_pb2.FieldRule:
    """A field's own options."""
    found: options_pb2.FieldRule = field.GetOptions().Extensions[options_pb2.field]
    return found


def empty(method: MethodDescriptor) -> Message:
    """An empty request."""
    request: Message = GetMessageClass(method.input_type)()
    return request


async def call(market: Market, method: MethodDescriptor, request: Message, metadata: Metadata) -> Message:
    """Calls any RPC. For a stream, sends the request as the only message and returns the first answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    codecs: dict[str, Any] = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    if method.server_streaming and not method.client_streaming:
        return await anext(aiter(market.channel.unary_stream(path, **codecs)(request, metadata=metadata)))
    if not method.client_streaming:
        answer: Any = await market.channel.unary_unary(path, **codecs)(request, metadata=metadata)
        return answer  # type: ignore[no-any-return]
    return await first_answer(market.channel.stream_stream(path, **codecs), metadata, request)


async def first_answer(connect: Any, metadata: Any, request: Message) -> Message:
    """The first answer of a stream that begins with this message. Raises AioRpcError if it is refused."""
    for _ in range(LOST_WRITES):
        try:
            return await _converse(connect(metadata=metadata), request)
        except grpc.aio.AioRpcError as error:
            # The error of grpc.aio's client if it wrote after the server had ended the stream.
            if error.details() != "Internal error from Core":
                raise
    raise AssertionError("every write came after the end of its stream")


async def _converse(stream: Any, request: Message) -> Message:
    try:
        await stream.write(request)
        answer = await stream.read()
        if isinstance(answer, sessions_pb2.ServerMessage) and answer.HasField("refusal"):
            # Why a session's stream ends comes as a message too, before the status.
            answer = await stream.read()
    except grpc.RpcError:
        answer = grpc.aio.EOF
    if answer is grpc.aio.EOF and await stream.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await stream.code(),
            await stream.initial_metadata(),
            await stream.trailing_metadata(),
            await stream.details(),
        )
    stream.cancel()
    return answer  # type: ignore[no-any-return]
