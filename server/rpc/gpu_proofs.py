"""GpuProofService at the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from dcp.v1 import gpu_proofs_pb2 as pb
from dcp.v1 import gpu_proofs_pb2_grpc

from server.domain.errors import DomainError, Reason
from server.domain.gpu_proofs import Obstacle, ProofOutcome
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import caller
from server.rpc.validate import validate
from server.services.gpu_proofs import GpuProofs, Machine, Task

OUTCOMES = enum_map(ProofOutcome, pb.GpuProofOutcome)


class GpuProofServicer(gpu_proofs_pb2_grpc.GpuProofServiceServicer):
    def __init__(self, proofs: GpuProofs) -> None:
        self._proofs = proofs

    async def ProveGpus(  # type: ignore[override]
        self, requests: AsyncIterator[pb.ProveGpusRequest], context: Context
    ) -> None:
        start = await _next(requests, "start")
        offered = {gpu.uuid: gpu.memory_mib for gpu in start.gpus}
        if len(offered) < len(start.gpus):
            raise DomainError(Reason.PROTOCOL_VIOLATION, "start.gpus has a UUID twice")
        found = await self._proofs.prove(caller().id, offered, _machine(requests, context))
        if isinstance(found, Obstacle):
            later = pb.ProofLater(message=found.message, ask_after=convert.duration(found.again_ms / 1000))
            await context.write(pb.ProveGpusResponse(later=later))
            return
        outcome, again_ms = found
        result = pb.ProofResult(outcome=OUTCOMES[outcome], ask_after=convert.duration(again_ms / 1000))
        await context.write(pb.ProveGpusResponse(result=result))


def _machine(requests: AsyncIterator[pb.ProveGpusRequest], context: Context) -> Machine:
    async def fill(task: Task) -> None:
        scale = task.scale
        given = pb.ProofTask(
            seed=task.seed,
            rounds=scale.rounds,
            chunk_cells=scale.chunk_cells,
            group_digests=scale.group_digests,
            chunks=task.chunks,
        )
        await context.write(pb.ProveGpusResponse(task=given))
        await _next(requests, "filled")

    async def read(nonce: bytes, gpus: int) -> list[bytes]:
        await context.write(pb.ProveGpusResponse(nonce=pb.ProofNonce(nonce=nonce)))
        return [(await _next(requests, "groups")).hashes for _ in range(gpus)]

    async def show(samples: Sequence[tuple[int, int]]) -> AsyncIterator[bytes]:
        asked = [pb.ProofSample(gpu=gpu, group=group) for gpu, group in samples]
        await context.write(pb.ProveGpusResponse(samples=pb.ProofSamples(samples=asked)))
        for _ in asked:
            yield (await _next(requests, "digests")).digests

    return Machine(fill=fill, read=read, show=show)


async def _next(requests: AsyncIterator[pb.ProveGpusRequest], kind: str) -> Any:
    """The next message, which must be of a kind. Raises PROTOCOL_VIOLATION or INVALID_FIELD."""
    message = await anext(requests, None)
    if message is None or message.WhichOneof("step") != kind:
        raise DomainError(Reason.PROTOCOL_VIOLATION, f"the next message of the proof must be {kind}")
    validate(message)
    return getattr(message, kind)
