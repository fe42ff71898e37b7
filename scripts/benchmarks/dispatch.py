"""Measures a job that does nothing: from a JSON submit to the daemon's start and to the result read back.

The market's programs are real processes, the engine does nothing, and jobs are durable and have holds. Two
markets, one in one program and one with a gateway of its own, take turns with the queues of others. Starts
are recorded with CLOCK_MONOTONIC, which all processes of a Linux machine share.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from scripts.benchmarks import job_counts
from scripts.benchmarks.engine import read_starts
from scripts.benchmarks.figures import Figure, at_least, at_most, latencies, percentile, ratio
from scripts.benchmarks.market import MODEL, Market
from scripts.benchmarks.peer_queues import celery, huey
from scripts.benchmarks.processes import (
    BenchError,
    Programs,
    own_cpu_seconds,
    say,
    workplace,
)
from scripts.benchmarks.runs import IN_FLIGHT, Ran, Run
from scripts.benchmarks.sizes import Sizes

EMBEDDED, APART = "embedded", "gateway of its own"
AOF, NO_AOF, HUEY = "celery, redis syncs always", "celery, redis syncs never", "huey on sqlite"
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


class Contender(Protocol):
    """What runs jobs: a market, or a peer."""

    name: str

    def measure(self, count: int, *, busy: bool) -> Run:
        """Runs jobs one after the other with pauses, or several at once. Raises BenchError."""
        ...


@dataclass
class Ours:
    """A market as a contender."""

    name: str
    market: Market
    key: str
    jobs: int = 0

    def measure(self, count: int, *, busy: bool) -> Run:
        """See `Contender.measure`."""
        self.jobs += count
        return asyncio.run(measured(self.market, self.key, count, busy=busy))


@dataclass
class Results:
    """The runs of one contender."""

    rest: list[Run] = field(default_factory=list)
    busy: list[Run] = field(default_factory=list)

    @property
    def rest_p50(self) -> float:
        """Seconds from submit to started at rest."""
        return percentile([s for run in self.rest for s in run.to_started], 50)

    @property
    def rate(self) -> float:
        """Jobs per second with several in flight."""
        return sum(len(run.ran) for run in self.busy) / sum(run.seconds for run in self.busy)


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    with workplace() as programs:
        ours = [_market(programs, EMBEDDED, embedded=True), _market(programs, APART, embedded=False)]
        contenders: list[Contender] = [*ours, *(_peers(programs) if sizes.peers else ())]
        results = {contender.name: Results() for contender in contenders}
        for number in range(1, sizes.dispatch_rounds + 1):
            for contender in contenders:
                say(
                    f"round {number} of {sizes.dispatch_rounds}, {sizes.dispatch_jobs} jobs: {contender.name}"
                )
                results[contender.name].rest.append(contender.measure(sizes.dispatch_jobs, busy=False))
                results[contender.name].busy.append(contender.measure(sizes.dispatch_jobs, busy=True))
        for contender in ours:
            asyncio.run(_check(contender.market, contender.jobs))
    figures = [figure for name, result in results.items() for figure in _figures(name, result)]
    return [*figures, *_comparisons(results), *job_counts.run()]


def _market(programs: Programs, name: str, *, embedded: bool) -> Ours:
    market = Market(programs, name.replace(" ", "-"), embedded=embedded)
    market.start()
    ours = Ours(name, market, asyncio.run(_prepare(market)))
    ours.measure(WARM_UP_JOBS, busy=False)
    return ours


async def _prepare(market: Market) -> str:
    await market.start_daemon()
    return (await market.new_renter()).api_key


def _peers(programs: Programs) -> list[Contender]:
    try:
        return [
            celery(programs, AOF, "redis-always", syncs=True),
            celery(programs, NO_AOF, "redis-never", syncs=False),
            huey(programs, HUEY),
        ]
    except BenchError as error:
        say(f"skipped the comparison with other queues: {error}")
        return []


def _figures(name: str, results: Results) -> list[Figure]:
    rest, busy = results.rest, results.busy
    jobs = sum(len(run.ran) for run in busy)
    figures = [
        *latencies(f"{name}: submit to started, at rest", [s for run in rest for s in run.to_started]),
        Figure(f"{name}: jobs/s, {IN_FLIGHT} in flight, to the result read back", results.rate, "jobs/s"),
        *latencies(
            f"{name}: submit to started, {IN_FLIGHT} in flight", [s for r in busy for s in r.to_started]
        ),
    ]
    for program in busy[0].cpu_seconds:
        used = sum(run.cpu_seconds[program] for run in busy)
        figures.append(Figure(f"{name}: CPU of {program}, a job", used / jobs * 1e6, "us/job"))
    total = sum(sum(run.cpu_seconds.values()) for run in busy)
    figures.append(Figure(f"{name}: CPU seconds of all processes, {jobs:,} jobs", total, "s"))
    if any(job.polls for run in busy for job in run.ran):
        answers = [job.answered - job.sent for run in rest for job in run.ran]
        read_back = [job.read_back - job.sent for run in rest for job in run.ran]
        polls = statistics.fmean(job.polls for run in busy for job in run.ran)
        figures += [
            *latencies(f"{name}: submit to its answer, at rest", answers),
            *latencies(f"{name}: submit to result read back, at rest", read_back),
            Figure(f"{name}: requests for the output, a job, {IN_FLIGHT} in flight", polls, ""),
        ]
    return figures


def _comparisons(results: dict[str, Results]) -> list[Figure]:
    ours, figures = results[EMBEDDED], []
    for name, other in results.items():
        if name in (EMBEDDED, APART):
            continue
        rates, waits = ratio(ours.rate, other.rate), ratio(ours.rest_p50, other.rest_p50)
        goals = (at_least(0.5), at_least(1)) if name == AOF else (None, None)
        figures.append(Figure(f"jobs/s, {EMBEDDED} : {name}", rates, "", *goals))
        goals = (at_most(1.5), at_most(1)) if name == AOF else (None, None)
        figures.append(Figure(f"submit to started at rest, p50, {EMBEDDED} : {name}", waits, "", *goals))
    return figures


async def measured(market: Market, key: str, count: int, *, busy: bool) -> Run:
    """Runs jobs on a market with a daemon, and counts the CPU of all programs and of this one."""
    used = {program.name: program.cpu_seconds for program in market.running}
    own, begun = own_cpu_seconds(), time.monotonic()
    ran = await (_in_flight if busy else _at_rest)(market, key, count)
    seconds = time.monotonic() - begun
    cpu_seconds = {program.name: program.cpu_seconds - used[program.name] for program in market.running}
    starts = read_starts(market.starts)
    return Run.of(ran, starts, seconds, {**cpu_seconds, "the client": own_cpu_seconds() - own})


async def _at_rest(market: Market, key: str, count: int) -> list[Ran]:
    """Runs jobs one after the other, with a pause between them."""
    ran = []
    async with aiohttp.ClientSession(f"http://{market.gateway_address}") as client:
        for _ in range(count):
            ran.append(await one_job(client, key, POLL_SECONDS, POLL_SECONDS))
            await asyncio.sleep(REST_SECONDS)
    return ran


async def _in_flight(market: Market, key: str, count: int) -> list[Ran]:
    left = iter(range(count))
    ran: list[Ran] = []

    async def work() -> None:
        async with aiohttp.ClientSession(f"http://{market.gateway_address}") as client:
            for _ in left:
                ran.append(await one_job(client, key, POLL_BUSY_SECONDS, LONGEST_POLL_SECONDS))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return ran


async def one_job(
    client: aiohttp.ClientSession,
    key: str,
    poll_seconds: float,
    longest_seconds: float,
    *,
    first_poll_seconds: float = 0.0,
    job: str = JOB,
) -> Ran:
    """Submits one job and reads its result back. Raises BenchError."""
    polls = 0
    headers = {"x-renter-key": key, "content-type": "application/json"}
    sent = time.monotonic()
    status, answer = await _answer(client.post("/api/jobs/submit", headers=headers, data=job))
    answered = time.monotonic()
    if status != 201:
        raise BenchError(f"submit answered {status}: {answer[:300]!r}")
    job_id = json.loads(answer)["job"]["job_id"]
    await asyncio.sleep(first_poll_seconds)
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
    dashboard = await market.call("GET", "/api/admin/dashboard", headers=market.admin)
    if dashboard["jobs_by_state"].get("completed") != job_count:
        raise BenchError(f"not all {job_count} jobs completed: {dashboard['jobs_by_state']}")
    say(f"all {job_count} jobs completed; the ledger balances over {proof['transfers']:,} transfers")
