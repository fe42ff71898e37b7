"""A disconnected daemon reports its result after another daemon has completed the job: nothing changes.

The programs' own code runs on manual clocks; tests/e2e/test_kills.py does the same with real processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.journal.journal import Journal
from daemon.machine.machine import Machine
from scripts.market import UNLIMITED
from tests.support.fake_engine import DEFAULT_MODEL, ScriptedEngine
from tests.support.journals import is_empty
from tests.support.manual_clock import ManualClock
from tests.support.memory_disk import MemoryDisk
from tests.support.tcp_proxy import BlackHole, Pass, TcpProxy
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

BODY = {
    "job_type": "llm-inference",
    "duration_minutes": 3,
    "params": {"model": DEFAULT_MODEL, "prompt": "Say hello."},
    "lost_after_seconds": 60,
}


async def until(is_so: Callable[[], bool], *clocks: ManualClock) -> None:
    """Advances the clocks until the condition holds. Fails after 30 s of real time."""
    async with asyncio.timeout(30):
        while not is_so():
            for clock in clocks:
                clock.advance(1)
            await asyncio.sleep(0.02)


async def everything_about(stack: Stack, job_id: str, renter: dict[str, str]) -> list[Any]:
    """Everything that a renter can read about a job, and the proof of the ledger."""
    paths = [f"/api/jobs/{job_id}{rest}" for rest in ("", "/why", "/output")]
    return [await stack.get(path, renter) for path in paths] + [
        await stack.get("/api/admin/ledger/proof", ADMIN)
    ]


async def test_late_result_of_a_silent_daemon_changes_nothing(tmp_path: Path) -> None:
    async with running_stack(tmp_path, prove=True, **UNLIMITED) as stack:
        (_, first), (second_id, second) = [
            await stack.register("provider", f"p{number}@example.com") for number in range(2)
        ]
        renter_id, renter_key = await stack.register("renter", "r@example.com")
        await stack.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 5_000}, **ADMIN)
        renter = {"x-renter-key": renter_key}
        with TcpProxy(stack.server.address) as proxy:
            clock, disk, gate = ManualClock(), MemoryDisk(), asyncio.Event()
            engine = ScriptedEngine(("late ", gate, "result"))
            silent = running_daemon(
                stack,
                first,
                engine,
                server=proxy.address,
                journal=Journal(disk),
                machine=Machine(clock=clock),
            )
            async with silent:
                job_id = (await stack.post("/api/jobs/submit", BODY, **renter))["job"]["job_id"]
                await stack.until_job(job_id, "running")
                proxy.switch(BlackHole())
                rescue = ScriptedEngine()
                async with running_daemon(stack, second, rescue):
                    await until(lambda: rescue.jobs == [job_id], stack.clock)
                    job = await stack.until_job(job_id, "completed")
                    assert (job["attempt"], job["provider_id"]) == (2, second_id)
                    before = await everything_about(stack, job_id, renter)
                    assert before[2]["response"] == "Hello, world"
                    assert before[3]["discrepancies"] == []
                    gate.set()
                    await until(lambda: engine.pieces_played == 3)
                    assert not is_empty(disk), "its result waits for the server"
                    proxy.switch(Pass())
                    await until(lambda: is_empty(disk), clock)
                    assert await everything_about(stack, job_id, renter) == before
