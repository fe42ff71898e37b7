"""Maps every DomainError to a google.rpc.Status, which is the only form in which errors leave the server.

The codes come from the options of ``ErrorReason``; there is no other table.
"""

from __future__ import annotations

import grpc
from dcp.v1 import errors_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from server.domain.errors import DomainError, Reason

DOMAIN = "dcp.v1"
PREFIX = "ERROR_REASON_"
_VALUES = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
_STRING_FACTS = {
    field.name for field in errors_pb2.ErrorFacts.DESCRIPTOR.fields if field.type == field.TYPE_STRING
}


def code_of(reason: Reason) -> int:
    """The canonical gRPC code of a reason."""
    return int(_VALUES[PREFIX + reason.value].GetOptions().Extensions[errors_pb2.reason].code)


def to_status(error: DomainError) -> grpc.Status:
    """The status with an ErrorInfo and, if the error has facts, an ErrorFacts."""
    status = status_pb2.Status(code=code_of(error.reason), message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value,
        domain=DOMAIN,
        metadata={name: str(value) for name, value in error.facts.items()},
    )
    details = [info]
    if error.facts:
        facts = errors_pb2.ErrorFacts(
            **{name: str(v) if name in _STRING_FACTS else v for name, v in error.facts.items()}  # type: ignore[arg-type]
        )
        details.append(facts)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    result: grpc.Status = rpc_status.to_status(status)
    return result
