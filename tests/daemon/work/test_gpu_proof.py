"""When a machine proves its GPUs, and what it does meanwhile: server and GPUs play their parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dcp.v1 import gpu_proofs_pb2 as pb
from dcp.v1 import gpus_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.machine.gpus.provers import ProverError
from daemon.work.gpu_proof import GpuProof, ProofBrokenError, provable
from tests.support.manual_clock import ManualClock

TASK = pb.ProofTask(seed=bytes(32), rounds=2, chunk_cells=16, group_digests=4, chunks=[8])
HOUR = 3600


class Filler:
    """A GPU without memory."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    async def fill(self, seed: bytes, gpu: int, chunks: int, chunk_cells: int, rounds: int) -> None:
        self.scene.seen.append(f"fill {gpu} {chunks} running={self.scene.proof.is_running}")
        if self.scene.fails:
            raise ProverError("out of memory")

    async def groups(self, nonce: bytes, group_digests: int) -> bytes:
        return b"hashes"

    async def group(self, number: int) -> bytes:
        return f"digests {number}".encode()

    async def close(self) -> None:
        self.scene.seen.append("closed")


class Scene:
    """A machine, and the other end of its stream."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.seen: list[str] = []
        self.sent: list[pb.ProveGpusRequest] = []
        self.answers: list[pb.ProveGpusResponse | Exception] = []
        self.gpus, self.is_idle, self.fails = {"GPU-a": 1}, True, False
        self.changes: list[bool] = []
        self.proof = GpuProof(
            self._open,
            self._start,
            lambda: self.gpus,
            self.clock,
            is_idle=lambda: self.is_idle,
            changed=lambda: self.changes.append(self.proof.is_running),
        )
        self.proof.may_ask = True

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        yield self

    async def _start(self, uuid: str) -> Filler:
        self.seen.append(f"start {uuid}")
        return Filler(self)

    async def send(self, request: pb.ProveGpusRequest) -> None:
        self.sent.append(request)

    async def receive(self) -> pb.ProveGpusResponse:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def later(seconds: int) -> pb.ProveGpusResponse:
    return pb.ProveGpusResponse(later=pb.ProofLater(message="not now", ask_after=Duration(seconds=seconds)))


def result(outcome: pb.GpuProofOutcome.ValueType, seconds: int) -> pb.ProveGpusResponse:
    found = pb.ProofResult(outcome=outcome, ask_after=Duration(seconds=seconds))
    return pb.ProveGpusResponse(result=found)


def whole_proof() -> list[pb.ProveGpusResponse | Exception]:
    return [
        pb.ProveGpusResponse(task=TASK),
        pb.ProveGpusResponse(nonce=pb.ProofNonce(nonce=bytes(32))),
        pb.ProveGpusResponse(samples=pb.ProofSamples(samples=[pb.ProofSample(gpu=0, group=1)])),
        result(pb.GPU_PROOF_OUTCOME_PASSED, 7 * HOUR),
    ]


async def test_proof_takes_no_jobs_while_it_lasts_and_gives_the_memory_back() -> None:
    scene = Scene()
    assert scene.proof.keeps_gpus, "a model could be loaded before the server was asked"
    scene.answers = whole_proof()
    await scene.proof.tick()
    assert scene.seen == ["start GPU-a", "fill 0 8 running=True", "closed"]
    assert scene.changes == [True, False]
    assert not scene.proof.keeps_gpus
    assert [request.WhichOneof("step") for request in scene.sent] == ["start", "filled", "groups", "digests"]
    assert scene.sent[-1].digests.digests == b"digests 1"
    scene.clock.advance(7 * HOUR - 1)
    await scene.proof.tick()
    assert len(scene.sent) == 4
    scene.clock.advance(1)
    scene.answers = [later(60)]
    await scene.proof.tick()
    assert len(scene.sent) == 5


async def test_server_that_wants_none_lets_jobs_go_on() -> None:
    scene = Scene()
    scene.answers = [later(100)]
    await scene.proof.tick()
    assert scene.changes == []
    assert not scene.proof.keeps_gpus
    assert scene.seen == [], "a process was started for nothing"


async def test_job_that_comes_meanwhile_goes_before_the_proof() -> None:
    scene = Scene()
    receive = scene.receive

    async def a_job_comes() -> pb.ProveGpusResponse:
        scene.is_idle = False
        return await receive()

    scene.receive = a_job_comes  # type: ignore[method-assign]
    scene.answers = whole_proof()
    await scene.proof.tick()
    assert scene.seen == ["start GPU-a", "closed"]
    assert scene.changes == []
    scene.clock.advance(2 * HOUR)
    await scene.proof.tick()
    assert scene.seen == ["start GPU-a", "closed"], "a proof began beside a job"
    assert len(scene.sent) == 1


@pytest.mark.parametrize("fault", ["driver", "server", "task"])
async def test_fault_ends_the_proof_and_is_tried_again_after_an_hour(fault: str) -> None:
    scene = Scene()
    scene.answers, scene.fails = whole_proof(), fault == "driver"
    if fault == "server":
        scene.answers[1] = ProofBrokenError("gone")
    if fault == "task":
        scene.answers[0] = pb.ProveGpusResponse(task=pb.ProofTask(seed=bytes(32), rounds=1 << 30, chunks=[1]))
    await scene.proof.tick()
    assert not scene.proof.keeps_gpus
    # A task that cannot be carried out starts no process.
    processes = 0 if fault == "task" else 1
    assert scene.seen.count("start GPU-a") == scene.seen.count("closed") == processes
    scene.clock.advance(HOUR - 1)
    await scene.proof.tick()
    assert scene.seen.count("start GPU-a") == processes
    assert [request.WhichOneof("step") for request in scene.sent].count("start") == 1
    scene.clock.advance(1)
    scene.answers, scene.fails = whole_proof(), False
    await scene.proof.tick()
    assert scene.changes[-1] is False
    assert not scene.answers


async def test_models_wait_for_the_server_only_a_minute() -> None:
    scene = Scene()
    scene.proof.may_ask = False
    await scene.proof.tick()
    assert scene.proof.keeps_gpus
    scene.clock.advance(60)
    await scene.proof.tick()
    assert not scene.proof.keeps_gpus


async def test_machine_without_gpus_keeps_nothing_waiting() -> None:
    scene = Scene()
    scene.gpus = {}
    await scene.proof.tick()
    assert not scene.proof.keeps_gpus
    assert scene.seen == []
    assert not GpuProof(
        scene._open, None, dict, scene.clock, is_idle=lambda: True, changed=lambda: None
    ).keeps_gpus


def test_only_whole_machines_can_be_proved() -> None:
    gpu = gpus_pb2.GpuDevice(uuid="GPU-a", gpu_vram_mib=24_000, free_vram_mib=23_000)
    assert provable(gpus_pb2.GpuStatus(all_gpus=[gpu])) == {"GPU-a": 23_000 - 512}
    shared = gpus_pb2.GpuDevice(uuid="GPU-b", gpu_vram_mib=24_000, free_vram_mib=23_000, vram_is_shared=True)
    nameless = gpus_pb2.GpuDevice(gpu_vram_mib=24_000, free_vram_mib=23_000)
    full = gpus_pb2.GpuDevice(uuid="GPU-c", gpu_vram_mib=24_000, free_vram_mib=100)
    for other in (shared, nameless, full):
        assert provable(gpus_pb2.GpuStatus(all_gpus=[gpu, other])) == {}
    assert provable(gpus_pb2.GpuStatus()) == {}
    many = [gpus_pb2.GpuDevice(uuid=f"GPU-{n}", gpu_vram_mib=10, free_vram_mib=9) for n in range(17)]
    assert provable(gpus_pb2.GpuStatus(all_gpus=many)) == {}
    assert len(provable(gpus_pb2.GpuStatus(all_gpus=many[:16]))) == 16
    huge = gpus_pb2.GpuDevice(uuid="GPU-h", gpu_vram_mib=1 << 20, free_vram_mib=1 << 20)
    assert provable(gpus_pb2.GpuStatus(all_gpus=[huge])) == {"GPU-h": 1 << 19}


async def test_proof_that_is_cancelled_ends_its_processes() -> None:
    scene = Scene()
    never: asyncio.Future[pb.ProveGpusResponse] = asyncio.get_running_loop().create_future()

    async def hang() -> pb.ProveGpusResponse:
        return await never if scene.seen else pb.ProveGpusResponse(task=TASK)

    scene.receive = hang  # type: ignore[method-assign]
    running = asyncio.create_task(scene.proof.tick())
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scene.seen == ["start GPU-a", "fill 0 8 running=True", "closed"]
