"""Counts the cost of a job, a heartbeat and a Hello, which does not depend on a machine's speed or load.

The programs' own code runs in one process, with real gRPC, a real SQLite file and a real journal.
Every count is exact, with one job in flight. Later changes lower the counts; a test fails if one rises.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import gpus_pb2

from daemon.journal.disk import journal_folder
from daemon.journal.journal import Journal
from daemon.machine.machine import Machine
from tests.support.counter import Counter, CountingDisk, relayed
from tests.support.fake_engine import DEFAULT_MODEL, NoopEngine
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

HEARTBEAT = {"> heartbeat": 1, "< heartbeat_ack": 1}
NOTHING = {"statements": 0, "write transactions": 0, "read transactions": 0, "syncs": 0}
HEARTBEAT_SECONDS = 11.0  # the interval with its greatest jitter
HANG_SECONDS = 60.0  # how long a test waits before it fails


class OneGpu:
    """A machine with one GPU that never changes."""

    name, reason, is_late = "fixed", "", False

    def __init__(self) -> None:
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

    def close(self) -> None:
        """Does nothing."""


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
    async def daemon(self, folder: Path) -> AsyncIterator[Daemon]:
        """Runs a daemon with its journal in the folder, and waits until its first heartbeat was answered."""
        disk, gpus = CountingDisk(journal_folder(folder), self.counter), OneGpu()
        running = running_daemon(
            self.stack,
            self.provider_key,
            NoopEngine(),
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
    """A running daemon that serves a model without output."""

    market: Market
    disk: CountingDisk
    gpus: OneGpu

    async def job(self) -> None:
        """Submits a job, waits until the daemon has forgotten it, and reads its result."""
        stack, renter = self.market.stack, self.market.renter
        self.disk.forgotten.clear()
        params = {"model": DEFAULT_MODEL, "prompt": "Say nothing."}
        body = {"job_type": "llm-inference", "duration_minutes": 3, "params": params}
        job = (await stack.post("/api/jobs/submit", body, **renter))["job"]
        await within(self.disk.forgotten.wait())
        answer = await stack.http.get(f"/api/jobs/{job['job_id']}/output", headers=renter)
        assert answer.status_code == 204, "it has completed, and wrote nothing"

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


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    """A market without running loops, so that only what the test requests is counted."""
    counter = Counter()
    async with (
        running_stack(tmp_path, counter) as stack,
        relayed(stack.server.address, counter) as (address, acknowledged),
    ):
        await stop_loops()
        _, provider_key = await stack.register("provider", "p@example.com")
        renter_id, renter_key = await stack.register("renter", "r@example.com")
        await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 100_000}, **ADMIN)
        yield Market(stack, counter, address, acknowledged, {"x-renter-key": renter_key}, provider_key)


async def test_job_that_does_nothing(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon") as daemon:
        await daemon.job()  # the first job prepares statements
        await daemon.heartbeat()
        await market.stack.get("/api/renters/me", market.renter)  # keys are cached for ten seconds
        counter.clear()
        await daemon.job()
        await daemon.heartbeat()  # it costs the database and the journal nothing, see below
        assert counter.http == {"POST /api/jobs/submit": 1, "GET /api/jobs/{id}/output": 1}
        assert counter.calls.methods == {"SubmitJob": 1, "GetJobOutput": 1}
        assert counter.messages == HEARTBEAT | {
            "< job_offer": 1,
            "> offer_reply": 1,
            "> job_started": 1,
            "> job_finished": 1,
            "< result_ack": 1,
        }
        assert counter.database() == {
            "statements": 57,
            "write transactions": 4,
            "read transactions": 2,
            "syncs": 4,
        }
        assert counter.journal_syncs == 5


async def test_heartbeat(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon") as daemon:
        counter.clear()
        await daemon.heartbeat()
        assert counter.messages == HEARTBEAT
        # With the sample of one GPU. HTTP/2 and gRPC add 14 bytes to each message, TLS and TCP more.
        assert counter.bytes == {"> heartbeat": 175, "< heartbeat_ack": 4}
        assert counter.database() == NOTHING
        assert counter.journal_syncs == 0


async def test_first_hello_of_a_provider(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    counter.clear()
    async with market.daemon(tmp_path / "daemon"):
        assert counter.messages == HEARTBEAT | {"> hello": 1, "< welcome": 1}
        assert counter.database() == {
            "statements": 21,
            "write transactions": 1,
            "read transactions": 2,
            "syncs": 1,
        }


async def test_hello_of_a_daemon_that_starts_again(market: Market, tmp_path: Path) -> None:
    counter = market.counter
    async with market.daemon(tmp_path / "daemon"):
        counter.clear()
    await within(counter.written())  # the end of its session
    counter.clear()
    async with market.daemon(tmp_path / "daemon"):
        assert counter.http == counter.calls.methods == {}
        assert counter.messages == HEARTBEAT | {"> hello": 1, "< welcome": 1}
        assert counter.database() == {
            "statements": 18,
            "write transactions": 1,
            "read transactions": 2,
            "syncs": 1,
        }
        assert counter.journal_syncs == 0
