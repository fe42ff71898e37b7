"""Owns how an RPC is called for a request over HTTP: its metadata, and the error of one that failed."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.types import Scope

from common import tracing
from gateway import errors
from gateway.channel import Channel
from gateway.errors import ApiError

log = logging.getLogger(__name__)


def rpc(channel: Channel, method: MethodDescriptor) -> Any:
    """What calls an RPC, which takes one request, over the channel."""
    call = channel.unary_stream if method.server_streaming else channel.unary_unary
    return call(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def call_metadata(scope: Scope, credential: str | None) -> list[tuple[str, str]]:
    """The metadata of a call: the request id, the client's address, the credential and the trace."""
    metadata = [("x-request-id", scope["request_id"])]
    if scope.get("client"):
        metadata.append(("x-forwarded-for", scope["client"][0]))
    if credential is not None:
        metadata.append(("authorization", f"Bearer {credential}"))
    if traceparent := tracing.present_header():
        metadata.append((tracing.TRACEPARENT, traceparent))
    return metadata


def refused(error: grpc.aio.AioRpcError, rpc: str, request_id: str, *, is_unsure: bool = False) -> ApiError:
    """The error for the caller of a failed call. Faults are logged with details hidden from the caller.

    ``is_unsure``: it may be done all the same, which no error may deny.
    """
    refusal = errors.from_rpc(error)
    if is_unsure and refusal.status == 503:
        refusal = ApiError("OUTCOME_UNKNOWN")
    if refusal.status >= 500:
        log.warning("call failed: rpc=%s request_id=%s code=%s", rpc, request_id, error.code().name)
        log.debug("call failed: request_id=%s details=%s", request_id, error.details())
    return refusal
