"""Measures the time from a JSON submit to the daemon's start and to the result read back.

Server, gateway and daemon are real processes, the engine does nothing, and jobs are durable and have holds.
The engine records the start with CLOCK_MONOTONIC, which all processes of a Linux machine share.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp

from scripts.benchmarks.engine import read_starts
from scripts.benchmarks.figures import Figure, Target, latencies
from scripts.benchmarks.market import MODEL, Market, open_market
from scripts.benchmarks.processes import BenchError, say

IN_FLIGHT = 16
JOB_SECONDS = 30.0
REST_SECONDS = 0.02
WARM_UP_JOBS = 20
# At rest, results are polled as fast as possible. With many jobs in flight the polls would become the
# measured load, so each wait is twice the previous one.
POLL_SECONDS = 0.001
POLL_BUSY_SECONDS = 0.005
LONGEST_POLL_SECONDS = 0.08
JOB = json.dumps(
    {
        "job_type": "llm-inference",
        "duration_minutes": 0.1,
        "params": {"model": MODEL, "prompt": "nothing", "max_tokens": 1},
    }
)


@dataclass(frozen=True, slots=True)
class Ran:
    """The times of one job, by the monotonic clock, in seconds."""

    job_id: str
    sent: float
    answered: float
    read_back: float
    polls: int


def run(job_count: int) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    with open_market() as market:
        market.start_gateway()
        return asyncio.run(_run(market, job_count))


async def _run(market: Market, job_count: int) -> list[Figure]:
    await market.start_daemon()
    key = (await market.new_renter()).api_key
    await at_rest(market, key, WARM_UP_JOBS)
    say(f"{job_count} jobs one after the other")
    rest = await at_rest(market, key, job_count)
    say(f"{job_count} jobs, {IN_FLIGHT} in flight")
    programs = (market.server, market.gateway, market.daemon)
    before = [program.cpu_seconds for program in programs]
    begun = time.monotonic()
    busy = await _in_flight(market, key, job_count)
    seconds = time.monotonic() - begun
    cpu_seconds = [p.cpu_seconds - b for p, b in zip(programs, before, strict=True)]
    await _check(market, WARM_UP_JOBS + 2 * job_count)
    figures = [
        *_rest_figures(market, rest),
        Figure(f"jobs/s, {IN_FLIGHT} in flight, to the result read back", job_count / seconds, "jobs/s"),
        Figure(f"requests for the output, a job, {IN_FLIGHT} in flight", _polls(busy), ""),
        *latencies(f"submit to started, {IN_FLIGHT} in flight", to_started(market, busy)),
    ]
    for program, used in zip(programs, cpu_seconds, strict=True):
        figures.append(Figure(f"CPU of {program.name}, a job", used / job_count * 1e6, "us/job"))
    return [*figures, Figure("CPU of all three programs", sum(cpu_seconds), "s")]


async def at_rest(market: Market, key: str, count: int) -> list[Ran]:
    """Runs jobs one after the other, with a pause between them."""
    ran = []
    async with aiohttp.ClientSession(f"http://{market.gateway_address}") as client:
        for _ in range(count):
            ran.append(await _job(client, key, POLL_SECONDS, POLL_SECONDS))
            await asyncio.sleep(REST_SECONDS)
    return ran


def to_started(market: Market, ran: list[Ran]) -> list[float]:
    """Seconds from each POST to the start at the daemon. Raises BenchError if a job did not start."""
    begun = read_starts(market.starts)
    missing = [job.job_id for job in ran if job.job_id not in begun]
    if missing:
        raise BenchError(f"the daemon did not start {missing[0]} and {len(missing) - 1} other jobs")
    return [begun[job.job_id] - job.sent for job in ran]


def _rest_figures(market: Market, ran: list[Ran]) -> list[Figure]:
    return [
        *latencies(
            "submit to started, at rest", to_started(market, ran), mark_p50=Target(5), goal_p50=Target(1.3)
        ),
        *latencies("submit to its answer, at rest", [job.answered - job.sent for job in ran]),
        *latencies("submit to result read back, at rest", [job.read_back - job.sent for job in ran]),
    ]


def _polls(ran: list[Ran]) -> float:
    return sum(job.polls for job in ran) / len(ran)


async def _in_flight(market: Market, key: str, count: int) -> list[Ran]:
    left = iter(range(count))
    ran: list[Ran] = []

    async def work() -> None:
        async with aiohttp.ClientSession(f"http://{market.gateway_address}") as client:
            for _ in left:
                ran.append(await _job(client, key, POLL_BUSY_SECONDS, LONGEST_POLL_SECONDS))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return ran


async def _job(client: aiohttp.ClientSession, key: str, poll_seconds: float, longest_seconds: float) -> Ran:
    """Submits one job and reads its result back."""
    polls = 0
    headers = {"x-renter-key": key, "content-type": "application/json"}
    sent = time.monotonic()
    status, answer = await _answer(client.post("/api/jobs/submit", headers=headers, data=JOB))
    answered = time.monotonic()
    if status != 201:
        raise BenchError(f"submit answered {status}: {answer[:300]!r}")
    job_id = json.loads(answer)["job"]["job_id"]
    while time.monotonic() < sent + JOB_SECONDS:
        polls += 1
        status, answer = await _answer(client.get(f"/api/jobs/{job_id}/output", headers=headers))
        if status == 200:
            if json.loads(answer)["response"] != "done":
                raise BenchError(f"{job_id} has a wrong output: {answer[:300]!r}")
            return Ran(job_id, sent, answered, time.monotonic(), polls)
        if status != 202:
            raise BenchError(f"the output of {job_id} answered {status}: {answer[:300]!r}")
        await asyncio.sleep(poll_seconds)
        poll_seconds = min(longest_seconds, poll_seconds * 2)
    raise BenchError(f"{job_id} had no result after {JOB_SECONDS:.0f} s")


async def _answer(request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> tuple[int, bytes]:
    async with request as response:
        return response.status, await response.read()


async def _check(market: Market, job_count: int) -> None:
    """Raises BenchError unless all jobs completed and the ledger balances: else the figures are void."""
    proof = await market.proof()
    if not proof["balanced"] or proof["open_holds"]:
        raise BenchError(f"the ledger does not balance: {proof}")
    dashboard = await market.call(
        "GET", "/api/admin/dashboard", headers={"x-admin-token": market.admin_token}
    )
    if dashboard["jobs_by_state"].get("completed") != job_count:
        raise BenchError(f"not all {job_count} jobs completed: {dashboard['jobs_by_state']}")
    say(f"all {job_count} jobs completed; the ledger balances over {proof['transfers']:,} transfers")
