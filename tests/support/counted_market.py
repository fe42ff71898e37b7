"""A market in one process whose work is counted: what a job, a heartbeat and a Hello cost.

The programs' own code runs with real gRPC, a real SQLite file and a real journal, and nothing runs but what
is requested. Every count is exact, with one job in flight. Tests assert the counts, and the bench prints
them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcp.v1 import gpus_pb2

from daemon.journal.disk import journal_folder
from daemon.journal.journal import Journal
from daemon.machine.gpus.none import NoGpus
from daemon.machine.machine import Machine
from daemon.runners import Runner
from tests.support.counter import Counter, CountingDisk, relayed
from tests.support.fake_engine import DEFAULT_MODEL, NoopEngine
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

HEARTBEAT_SECONDS = 11.0  # the interval with its greatest jitter
HANG_SECONDS = 60.0  # how long a test waits before it fails


class OneGpu(NoGpus):
    """A machine with one GPU that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self) -> gpus_pb2.GpuStatus:
        """Always returns the same report."""
        self.reads += 1
        sample: dict[str, Any] = {
            "gpu_name": "NVIDIA A100-SXM4-80GB",
            "gpu_vram_mib": 81_920,
            "free_vram_mib": 80_000,
            "memory_used_mb": 1_920,
            "gpu_util_pct": 12.5,
            "temp_c": 41.0,
        }
        device = gpus_pb2.GpuDevice(index=0, uuid="GPU-11111111-2222-3333-4444-555555555555", **sample)
        return gpus_pb2.GpuStatus(
            **sample, driver_version="550.54", cuda_version="12.4", gpu_count=1, all_gpus=[device]
        )


@dataclass
class Market:
    """A server and a gateway at rest, a renter, a provider, and the counter of everything that they do."""

    stack: Stack
    counter: Counter
    address: str
    """The address at which daemons reach the server."""
    acknowledged: asyncio.Event
    renter: dict[str, str]
    provider_key: str

    @contextlib.asynccontextmanager
    async def daemon(self, folder: Path, engine: Runner | None = None) -> AsyncIterator[Daemon]:
        """Runs a daemon with its journal in the folder, and waits until its first heartbeat was answered.

        The default engine writes no output.
        """
        disk, gpus = CountingDisk(journal_folder(folder), self.counter), OneGpu()
        running = running_daemon(
            self.stack,
            self.provider_key,
            engine or NoopEngine(),
            server=self.address,
            journal=Journal(disk),
            machine=Machine(gpus=gpus, clock=self.stack.clock),
            sample_seconds=0.02,
        )
        async with running:
            daemon = Daemon(self, disk, gpus)
            await daemon.heartbeat()
            yield daemon
        disk.close()


@dataclass
class Daemon:
    """A running daemon that serves the default model."""

    market: Market
    disk: CountingDisk
    gpus: OneGpu

    async def job(self, status: int = 204) -> None:
        """Submits a job, waits until the daemon has forgotten it, and reads its result.

        ``status``: the HTTP status of the result; 204 if the job has completed and wrote nothing.
        """
        stack, renter = self.market.stack, self.market.renter
        self.disk.forgotten.clear()
        params = {"model": DEFAULT_MODEL, "prompt": "Say nothing."}
        body = {"job_type": "llm-inference", "duration_minutes": 3, "params": params}
        job = (await stack.post("/api/jobs/submit", body, **renter))["job"]
        await within(self.disk.forgotten.wait())
        answer = await stack.http.get(f"/api/jobs/{job['job_id']}/output", headers=renter)
        assert answer.status_code == status, answer.text

    async def heartbeat(self) -> None:
        """Waits for the answer to a heartbeat with a new sample: then no earlier message is pending."""
        await within(self._sampled(self.gpus.reads + 2))
        self.market.acknowledged.clear()
        self.market.stack.clock.advance(HEARTBEAT_SECONDS)
        await within(self.market.acknowledged.wait())

    async def _sampled(self, times: int) -> None:
        while self.gpus.reads < times:
            await asyncio.sleep(0.01)


async def within(work: Awaitable[Any]) -> None:
    """Waits for something that must happen in time."""
    async with asyncio.timeout(HANG_SECONDS):
        await work


async def stop_loops() -> None:
    """Ends the server's loops, which query the database once per second of real time."""
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        if code is not None and code.co_filename.endswith("server/loops.py"):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def counted_market(folder: Path) -> AsyncIterator[Market]:
    """A market without running loops, so that only what is requested is counted."""
    counter = Counter()
    async with (
        running_stack(folder, counter) as stack,
        relayed(stack.server.address, counter) as (address, acknowledged),
    ):
        await stop_loops()
        _, provider_key = await stack.register("provider", "p@example.com")
        renter_id, renter_key = await stack.register("renter", "r@example.com")
        await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 100_000}, **ADMIN)
        yield Market(stack, counter, address, acknowledged, {"x-renter-key": renter_key}, provider_key)
