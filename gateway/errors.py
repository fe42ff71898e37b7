"""Owns the format of errors in JSON, and the mapping from gRPC's errors to it.

The reason determines the error; without a reason, the gRPC code does. It does not know HTTP servers:
`edge` sends the errors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import orjson
from dcp.v1 import errors_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

log = logging.getLogger(__name__)

DOMAIN = "dcp.v1"

STATUS_BY_REASON: Mapping[str, int] = {
    value.name.removeprefix("ERROR_REASON_"): value.GetOptions().Extensions[errors_pb2.reason].http_status
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
}

# How gRPC says that it sent nothing, since it has a connection to no server.
_NOT_SENT = (
    "connections to all backends failing",
    "failed to connect to all addresses",
    "DNS resolution failed",
)

# The meaning of an error without a reason of the marketplace: gRPC or a proxy created it.
BY_CODE: Mapping[grpc.StatusCode, tuple[int, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "INVALID_FIELD"),
    grpc.StatusCode.OUT_OF_RANGE: (400, "INVALID_FIELD"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "INVALID_CREDENTIAL"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "PERMISSION_DENIED"),
    grpc.StatusCode.NOT_FOUND: (404, "NOT_FOUND"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "ALREADY_EXISTS"),
    grpc.StatusCode.ABORTED: (409, "ABORTED"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "FAILED_PRECONDITION"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "RATE_LIMITED"),
    grpc.StatusCode.CANCELLED: (503, "UNAVAILABLE"),
    grpc.StatusCode.UNAVAILABLE: (503, "UNAVAILABLE"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "TIMEOUT"),
}

CODES = (*STATUS_BY_REASON, *sorted({code for _, code in BY_CODE.values()} - STATUS_BY_REASON.keys()))
"""Every value that an error's `code` can have."""

_TEXT_BY_CODE = {
    "INVALID_FIELD": "A field of the request is not valid.",
    "INVALID_CREDENTIAL": "The credential is not valid.",
    "PERMISSION_DENIED": "The caller may not do this.",
    "NOT_FOUND": "The object does not exist.",
    "ALREADY_EXISTS": "The object already exists.",
    "ABORTED": "The request conflicted with another one; try again.",
    "FAILED_PRECONDITION": "The object's current state does not allow this.",
    "RATE_LIMITED": "Too many requests; try again later.",
    "UNAVAILABLE": "The service cannot be reached now; try again.",
    "OUTCOME_UNKNOWN": "The connection to the server broke before it answered, so it is not known whether "
    "this was done; repeat it with the same Idempotency-Key, or read what it should have changed before you "
    "try again.",
    "TIMEOUT": "The service did not respond in time. The request may have taken effect.",
    "INTERNAL": "An internal fault of the marketplace. Quote request_id when you report it.",
}


class ApiError(Exception):
    """An error that a caller may see: a status, a stable code, a text and facts."""

    def __init__(
        self,
        code: str,
        text: str = "",
        /,
        *,
        http_status: int = 0,
        headers: Iterable[tuple[str, str]] = (),
        **facts: Any,
    ) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text or _TEXT_BY_CODE[code]
        self.status = http_status or STATUS_BY_REASON[code]
        self.facts = facts
        self._headers = tuple(headers)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers that the status requires, and the headers of this error."""
        headers = list(self._headers)
        if self.status in (429, 503):
            headers.append(("retry-after", str(self.facts.get("retry_after_seconds", 1))))
        if self.status == 416:
            headers.append(("content-range", f"bytes */{self.facts.get('size_bytes', '*')}"))
        headers += _rate_headers(self.facts)
        if self.status == 401:
            headers.append(("www-authenticate", "Bearer"))
        return headers

    def body(self, request_id: str) -> bytes:
        """The error as JSON. An internal fault carries the request id under which it is logged."""
        facts = {**self.facts, "request_id": request_id} if self.code == "INTERNAL" else self.facts
        return orjson.dumps({"error": self.text, "code": self.code, **facts})


def _rate_headers(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The reached limit in the format of draft-ietf-httpapi-ratelimit-headers-10; empty without a limit."""
    if "limit_per_minute" not in facts:
        return []
    name, seconds = facts["limit"], facts["retry_after_seconds"]
    return [
        ("ratelimit-policy", f'"{name}";q={facts["limit_per_minute"]};w=60'),
        ("ratelimit", f'"{name}";r=0;t={seconds}'),
    ]


def from_rpc(error: grpc.aio.AioRpcError) -> ApiError:
    """The error that the caller sees for a failed call. Only texts that our server wrote for people pass."""
    details = _details(error)
    info = _unpacked(details, error_details_pb2.ErrorInfo())
    if info is None or info.domain != DOMAIN or info.reason not in STATUS_BY_REASON:
        status, code = BY_CODE.get(error.code(), (500, "INTERNAL"))
        return ApiError(code, http_status=status)
    facts = _unpacked(details, errors_pb2.ErrorFacts()) or errors_pb2.ErrorFacts()
    text = "" if info.reason == "INTERNAL" else details.message
    return ApiError(info.reason, text or "The request was refused.", **_plain(facts))


def _plain(facts: errors_pb2.ErrorFacts) -> dict[str, Any]:
    return {field.name: value for field, value in facts.ListFields()}


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke: no server said what became of the call."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and _details(error) is None


def may_be_done(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke when a server may have got the call."""
    return is_lost(error) and not (error.details() or "").startswith(_NOT_SENT)


def _details(error: grpc.aio.AioRpcError) -> Any:
    """The google.rpc.Status of the error; None if it is missing or damaged."""
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):
        log.warning("error details were damaged: code=%s", error.code())
        return None


def _unpacked(details: Any, message: Any) -> Any:
    """The first detail of the message's type, or None."""
    for detail in details.details if details is not None else ():
        try:
            if detail.Unpack(message):
                return message
        except DecodeError:
            return None
    return None
