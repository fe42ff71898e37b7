"""InputService at the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from dcp.v1 import inputs_pb2 as pb
from dcp.v1 import inputs_pb2_grpc

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.inputs import Input, InputState
from server.domain.leases import LeaseRef
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller
from server.rpc.validate import validate
from server.services.inputs import Announced, Inputs
from server.services.run_inputs import RunInputs

_STATUSES = {
    InputState.UPLOADING: pb.INPUT_STATUS_UPLOADING,
    InputState.READY: pb.INPUT_STATUS_READY,
}


class InputServicer(inputs_pb2_grpc.InputServiceServicer):
    def __init__(self, inputs: Inputs, run_inputs: RunInputs) -> None:
        self._inputs = inputs
        self._run_inputs = run_inputs

    async def CreateInput(self, request: pb.CreateInputRequest, context: Context) -> pb.CreateInputResponse:
        announced = Announced(
            request.name.strip(), request.size_bytes, _digest(request.sha256), url=request.url.strip()
        )
        found = await self._inputs.begin(caller().id, announced)
        if not found.size_bytes:
            found = await self._inputs.finish(caller().id, found.input_id)
        return pb.CreateInputResponse(success=True, input=self._shown(found))

    async def SendInput(self, request: pb.SendInputRequest, context: Context) -> pb.SendInputResponse:
        found = await self._inputs.append(
            caller().id, request.input_id, request.first_byte, bytes(request.data)
        )
        if not found.is_ready and found.received_bytes == found.size_bytes:
            found = await self._inputs.finish(caller().id, found.input_id)
        return pb.SendInputResponse(success=True, input=self._shown(found))

    async def ListInputs(self, request: pb.ListInputsRequest, context: Context) -> pb.ListInputsResponse:
        size = request.page_size
        found = await self._inputs.list(caller().id, request.before_id or None, size + 1)
        page = found[:size]
        return pb.ListInputsResponse(
            inputs=[self._shown(one) for one in page],
            next_before_id=page[-1].id if len(found) > size else None,
        )

    async def GetInput(self, request: pb.GetInputRequest, context: Context) -> pb.GetInputResponse:
        return pb.GetInputResponse(input=self._shown(await self._inputs.get(caller().id, request.input_id)))

    async def DeleteInput(self, request: pb.DeleteInputRequest, context: Context) -> pb.DeleteInputResponse:
        await self._inputs.delete(caller().id, request.input_id)
        return pb.DeleteInputResponse(success=True)

    async def ReadJobInput(  # type: ignore[override]
        self, requests: AsyncIterator[pb.ReadJobInputRequest], context: Context
    ) -> None:
        request = await anext(requests, None)
        if request is None:
            raise DomainError(Reason.PROTOCOL_VIOLATION, "the stream has no request; send one")
        validate(request)
        lease = request.lease
        ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
        reading = self._run_inputs.read(caller().id, ref, request.number, request.first_byte)
        async with aclosing(reading) as pieces:
            async for data in pieces:
                await context.write(pb.ReadJobInputResponse(data=data))

    def _shown(self, found: Input) -> pb.InputRecord:
        return shown(found, self._inputs.expires_ms(found))


def shown(found: Input, expires_ms: int | None = None) -> pb.InputRecord:
    """An input as its renter sees it, without its bytes."""
    return pb.InputRecord(
        input_id=found.input_id,
        name=found.name,
        size_bytes=found.size_bytes,
        received_bytes=found.received_bytes,
        sha256=found.sha256.hex(),
        url=found.url or None,
        problem=found.problem or None,
        status=_STATUSES[found.state],
        created_at=convert.timestamp(found.created_ms),
        expires_at=convert.timestamp(expires_ms),
    )


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise invalid_field("sha256", "must be the 64 hexadecimal digits of a SHA-256") from None
