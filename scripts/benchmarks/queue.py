"""Jobs that run beside a long queue of jobs that nobody can run, and beside none, in turns."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from typing import Any

from scripts.benchmarks import dispatch
from scripts.benchmarks.figures import Figure, at_least, ratio
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BenchError, Programs, say, workplace
from scripts.benchmarks.runs import IN_FLIGHT, Run
from scripts.benchmarks.sizes import Sizes

# As many kinds of providers as a queue waits for.
MODELS = 50
HOUR_MS = 3_600_000
STOP_SECONDS = 30.0
UNWANTED = json.loads(dispatch.JOB) | {"wait_for_supply": True}


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    with workplace() as programs:
        markets = [_open(programs, "empty", 0), _open(programs, "full", sizes.queue_jobs)]
        keys = [asyncio.run(_prepare(market)) for market in markets]
        runs: list[list[Run]] = [[], []]
        for number in range(1, sizes.queue_rounds + 1):
            say(f"round {number} of {sizes.queue_rounds}: {sizes.queue_measured_jobs} jobs beside each queue")
            for market, key, of_market in zip(markets, keys, runs, strict=True):
                jobs = sizes.queue_measured_jobs
                of_market.append(asyncio.run(dispatch.measured(market, key, jobs, busy=True)))
        waiting = asyncio.run(_queued(markets[1]))
        if waiting != sizes.queue_jobs:
            raise BenchError(f"{waiting:,} jobs are queued at the end, not {sizes.queue_jobs:,}")
    empty, full = (_rate(of_market) for of_market in runs)
    beside = f"beside {sizes.queue_jobs:,} queued jobs"
    return [
        Figure(f"jobs/s, {IN_FLIGHT} in flight, beside an empty queue", empty, "jobs/s"),
        Figure(f"jobs/s, {IN_FLIGHT} in flight, {beside}", full, "jobs/s"),
        Figure("jobs/s, full queue : empty queue", ratio(full, empty), "", at_least(0.95), at_least(1)),
        Figure("server's CPU, a job, beside an empty queue", _cpu_us(runs[0]), "us/job"),
        Figure(f"server's CPU, a job, {beside}", _cpu_us(runs[1]), "us/job"),
    ]


def _open(programs: Programs, name: str, queued: int) -> Market:
    """A running market whose queue has this many jobs that nobody can run."""
    market = Market(programs, name, embedded=True)
    market.start()
    if queued:
        say(f"queueing {queued:,} jobs")
        job_id = asyncio.run(_queue_one(market, queued))
        market.stop_server(signal.SIGTERM, STOP_SECONDS)
        multiply(market, job_id, queued)
        market.start()
    return market


async def _queue_one(market: Market, queued: int) -> str:
    """Submits the job of which the queue has copies; its renter can pay for all of them."""
    renter = await market.new_renter(1_000 * (queued + 1))
    body = UNWANTED | {"params": UNWANTED["params"] | {"model": "nobody/0"}}
    answer = await market.call("POST", "/api/jobs/submit", body, {"x-renter-key": renter.api_key})
    return str(answer["job"]["job_id"])


def multiply(market: Market, job_id: str, count: int) -> None:
    """Makes the queued job one of ``count``, with their holds and transfers; no server may run meanwhile.

    Rows are copied with whatever columns they have, so that a new column needs nothing here.
    """
    other_id = "'job-' || printf('%024x', n.number)"
    with closing(sqlite3.connect(market.database)) as rows, rows:
        rows.execute("UPDATE job SET start_by_ms = start_by_ms + ? WHERE job_id = ?", (24 * HOUR_MS, job_id))
        changed = {"job_id": other_id, "model": f"'nobody/' || (n.number % {MODELS})"}
        _copy(rows, "job", changed, job_id, count - 1)
        _copy(rows, "hold", {"job_id": other_id}, job_id, count - 1)
        _copy(rows, "transfer", {"job_id": other_id, "id": "NULL"}, job_id, count - 1)
        hold = "SELECT amount_micros, debit_account_id, credit_account_id FROM transfer WHERE job_id = ?"
        amount, renter, held = rows.execute(hold, (job_id,)).fetchone()
        move = "UPDATE account SET balance_micros = balance_micros + ? WHERE id = ?"
        rows.executemany(move, [(-amount * (count - 1), renter), (amount * (count - 1), held)])


def _copy(rows: sqlite3.Connection, table: str, changed: dict[str, str], job_id: str, count: int) -> None:
    columns = [name for _, name, *_ in rows.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, f"of.{name}") for name in columns)
    rows.execute(
        "WITH RECURSIVE n (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < ?) "
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM n CROSS JOIN {table} AS of "
        "WHERE of.job_id = ? AND ? > 0",
        (count, job_id, count),
    )


async def _prepare(market: Market) -> str:
    await market.start_daemon()
    key = (await market.new_renter()).api_key
    await dispatch.measured(market, key, dispatch.WARM_UP_JOBS, busy=True)
    return key


async def _queued(market: Market) -> int:
    """How many jobs are queued, if the ledger balances. Raises BenchError."""
    proof = await market.proof()
    if not proof["balanced"]:
        raise BenchError(f"the ledger does not balance: {proof}")
    dashboard: dict[str, Any] = await market.call("GET", "/api/admin/dashboard", headers=market.admin)
    return int(dashboard["jobs_by_state"].get("queued", 0))


def _rate(runs: list[Run]) -> float:
    return sum(len(run.ran) for run in runs) / sum(run.seconds for run in runs)


def _cpu_us(runs: list[Run]) -> float:
    jobs = sum(len(run.ran) for run in runs)
    return sum(run.cpu_seconds["dcp-market"] for run in runs) / jobs * 1e6
