"""Owns when this machine proves its GPUs to the server, and how: see protos/dcp/v1/gpu_proofs.proto.

The GPUs must be empty, so it begins before any model is loaded, and while it lasts no job is taken. It must
not know how a GPU is filled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from dcp.v1 import gpu_proofs_pb2 as pb
from dcp.v1 import gpus_pb2

from daemon.machine.clock import Clock
from daemon.machine.gpus.provers import ProverError

logger = logging.getLogger(__name__)

# What the driver needs for itself on each GPU, or a tenth if that is less.
RESERVE_MIB = 512
# The limits of the protocol.
MAX_GPUS, MAX_GPU_MIB = 16, 1 << 19
# Models are loaded without a proof if the server did not answer for so long.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 3600.0
# Larger tasks are of no server that we know.
MAX_ROUNDS, MAX_CHUNK_CELLS, MAX_GROUP_DIGESTS = 1 << 20, 1 << 20, 1 << 16


class ProofBrokenError(Exception):
    """The server ended the proof or did not go on with it; the text says why."""


class ProofStream(Protocol):
    """The stream of one proof. Both methods raise ProofBrokenError."""

    async def send(self, request: pb.ProveGpusRequest) -> None:
        """Sends a message."""
        ...

    async def receive(self) -> pb.ProveGpusResponse:
        """The next message."""
        ...


class GpuFiller(Protocol):
    """One GPU, as a proof uses it: see daemon.machine.gpus.provers.Prover."""

    async def fill(self, seed: bytes, gpu: int, chunks: int, chunk_cells: int, rounds: int) -> None: ...

    async def groups(self, nonce: bytes, group_digests: int) -> bytes: ...

    async def group(self, number: int) -> bytes: ...

    async def close(self) -> None: ...


StartProver = Callable[[str], Awaitable[GpuFiller]]


def provable(status: gpus_pb2.GpuStatus) -> dict[str, int]:
    """How much memory of each GPU can be filled, in MiB; empty unless all have a UUID and own memory."""
    found = {
        gpu.uuid: gpu.free_vram_mib - min(RESERVE_MIB, gpu.gpu_vram_mib // 10)
        for gpu in status.all_gpus
        if gpu.uuid and not gpu.vram_is_shared
    }
    if len(found) < len(status.all_gpus) or len(found) > MAX_GPUS or any(mib <= 0 for mib in found.values()):
        return {}
    return {uuid: min(mib, MAX_GPU_MIB) for uuid, mib in found.items()}


class GpuProof:
    """The proof of this machine's GPUs."""

    def __init__(
        self,
        open_stream: Callable[[], AbstractAsyncContextManager[ProofStream]],
        start_prover: StartProver | None,
        gpus: Callable[[], dict[str, int]],
        clock: Clock,
        *,
        is_idle: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        """`gpus`: the GPUs that can be filled now, as `provable` returns them.

        `start_prover`: None: nothing is proved. `changed` is called when jobs are taken, or not any more.
        """
        self._open_stream = open_stream
        self._start_prover = start_prover
        self._gpus = gpus
        self._clock = clock
        self._is_idle = is_idle
        self._changed = changed
        self._not_before = self._began = clock.monotonic()
        self._is_decided = start_prover is None
        self.may_ask = False
        """The server knows this machine's GPUs, as a session was opened."""
        self.is_running = False
        """The GPUs are filled or read, so that no job can be taken."""

    @property
    def keeps_gpus(self) -> bool:
        """Whether no model may be loaded now: a proof runs, or the server has yet to say if it wants one."""
        return self.is_running or (not self._is_decided and bool(self._gpus()))

    async def tick(self) -> None:
        """Proves the GPUs if it is time."""
        now = self._clock.monotonic()
        if self._start_prover is None or now < self._not_before or not self._is_idle():
            return
        gpus = self._gpus()
        if not self.may_ask and gpus:
            if now - self._began >= PATIENCE_SECONDS:
                self._decide()
            return
        try:
            if gpus:
                await self._prove(gpus, self._start_prover)
            else:
                self._not_before = now + PATIENCE_SECONDS
        except (ProverError, ProofBrokenError) as error:
            logger.warning("the GPUs were not proved: %s", error)
            self._not_before = now + RETRY_SECONDS
        finally:
            self._decide()

    def _decide(self) -> None:
        was_running, self.is_running, self._is_decided = self.is_running, False, True
        if was_running:
            self._changed()

    async def _prove(self, gpus: dict[str, int], start_prover: StartProver) -> None:
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(self._open_stream())
            offered = [pb.ProvableGpu(uuid=uuid, memory_mib=mib) for uuid, mib in gpus.items()]
            await stream.send(pb.ProveGpusRequest(start=pb.ProofStart(gpus=offered)))
            answer = await stream.receive()
            if answer.HasField("later"):
                logger.info("the GPUs are not proved now: %s", answer.later.message)
                self._wait(answer.later.ask_after.ToTimedelta().total_seconds())
                return
            _check(answer.task, len(gpus))
            provers: list[GpuFiller] = []
            for uuid in gpus:
                prover = await start_prover(uuid)
                stack.push_async_callback(prover.close)
                provers.append(prover)
            if not self._is_idle():
                raise ProverError("a job came meanwhile")
            self.is_running = True
            self._changed()
            logger.info("proving the GPUs gpus=%d mib=%d", len(gpus), sum(gpus.values()))
            result = await _carry_out(stream, provers, answer.task)
        name = pb.GpuProofOutcome.Name(result.outcome).removeprefix("GPU_PROOF_OUTCOME_").lower()
        level = logging.INFO if result.outcome == pb.GPU_PROOF_OUTCOME_PASSED else logging.WARNING
        logger.log(level, "the server judged the proof of the GPUs outcome=%s", name)
        self._wait(result.ask_after.ToTimedelta().total_seconds())

    def _wait(self, seconds: float) -> None:
        self._not_before = self._clock.monotonic() + max(1.0, seconds)


async def _carry_out(stream: ProofStream, provers: Sequence[GpuFiller], task: pb.ProofTask) -> pb.ProofResult:
    sizes = [(gpu, chunks, task.chunk_cells, task.rounds) for gpu, chunks in enumerate(task.chunks)]
    await asyncio.gather(
        *(prover.fill(task.seed, *size) for prover, size in zip(provers, sizes, strict=True))
    )
    await stream.send(pb.ProveGpusRequest(filled=pb.ProofFilled()))
    nonce = (await stream.receive()).nonce.nonce
    hashes = await asyncio.gather(*(prover.groups(nonce, task.group_digests) for prover in provers))
    for each in hashes:
        await stream.send(pb.ProveGpusRequest(groups=pb.ProofGroups(hashes=each)))
    answer = await stream.receive()
    for sample in answer.samples.samples:
        digests = await provers[sample.gpu].group(sample.group)
        await stream.send(pb.ProveGpusRequest(digests=pb.ProofDigests(digests=digests)))
    return (answer if answer.HasField("result") else await stream.receive()).result


def _check(task: pb.ProofTask, gpus: int) -> None:
    """Raises ProofBrokenError for a task that cannot be carried out."""
    in_bounds = 0 < task.rounds <= MAX_ROUNDS and 0 < task.group_digests <= MAX_GROUP_DIGESTS
    is_even = 0 < task.chunk_cells <= MAX_CHUNK_CELLS and task.chunk_cells % 2 == 0
    if not (in_bounds and is_even and len(task.seed) == 32 and len(task.chunks) == gpus):
        raise ProofBrokenError("the server set a task that this daemon cannot carry out")
