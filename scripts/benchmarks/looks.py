"""What many sessions cost the servers that do not have them, and the heartbeats of those that a server has.

One server on PostgreSQL whose duties run only when they are measured, and rows of providers that another one
has. CPU is that of this process, which is the server, and of PostgreSQL's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import psutil
import psycopg

from scripts.benchmarks.figures import Figure, percentile
from scripts.benchmarks.processes import own_cpu_seconds, say
from server.services.neighbours import FULL_MS
from server.store import sessions
from server.store.sessions import Beat
from tests.support.manual_clock import ManualClock
from tests.support.running_server import running

TIMES = 3
BEATS = 1_000
_ROWS = """
INSERT INTO provider (name, email, gpu_model, gpu_vram_mib, os, phone, state, session_epoch, connected,
    draining, models_reported, job_types, last_heartbeat_ms, renewed_ms, gpu_status, created_ms,
    claimed_gpu, verdict, verdict_reasons, self_tests, architecture, server_id, boot_id, slots,
    runs_plain_processes, capacity_no)
SELECT 'Bench ' || n, 'bench-' || n || '@example.com', 'RTX 4090', 24564, '', '', 'active', 1, TRUE,
    FALSE, TRUE, 'llm-inference', %(now)s, %(now)s, '{}', %(now)s,
    '', 'unverified', 'NO_GPU_MEASURED', '[]', '', (SELECT id FROM server WHERE name = 'elsewhere'), '', 1,
    FALSE, 0
FROM generate_series(1, %(count)s) AS n
"""
_SERVER = """
INSERT INTO server (name, version, started_ms, heartbeat_ms) VALUES ('elsewhere', '', %(now)s, %(now)s)
"""
_MODELS = """
INSERT INTO provider_model (provider_id, name, context_tokens, warm)
SELECT id, 'bench/noop', 2048, TRUE FROM provider
"""


def run(url: str, count: int) -> list[Figure]:
    """Measures with this many sessions at another server. ``url``: an empty database of its own."""
    say(f"looks at {count:,} sessions of another server, and {BEATS:,} heartbeats")
    return asyncio.run(_run(url, count))


async def _run(url: str, count: int) -> list[Figure]:
    clock = ManualClock(now=time.time())
    async with running(url, clock) as market:
        with psycopg.connect(url, autocommit=True) as connection:
            now = {"now": int(clock.now() * 1000), "count": count}
            for statement in (_SERVER, _ROWS, _MODELS):
                connection.execute(statement, now)
            connection.execute("ANALYZE")
        services = market.server.services
        cost = _Cost(url)

        async def look() -> None:
            services.neighbours._next_look = 0.0
            await services.neighbours.tick()

        async def look_whole() -> None:
            clock.advance(FULL_MS / 1000)
            await look()

        def write() -> None:
            at_ms = int(clock.now() * 1000)
            sessions.write_beats([Beat(number, at_ms, None, at_ms) for number in range(1, BEATS + 1)])

        async def beat() -> None:
            clock.advance(1.0)
            await market.server._database.run(write)

        sessions_here = f"at {count:,} sessions elsewhere"
        return [
            *await cost.of(f"a whole look, {sessions_here}", look_whole),
            *await cost.of(f"a look, {sessions_here}", look),
            *await cost.of(f"{BEATS:,} heartbeats in a batch", beat),
        ]


class _Cost:
    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            self._postgres = psutil.Process(psutil.Process(connection.info.backend_pid).ppid())
        self._url = url

    async def of(self, name: str, work: Callable[[], Awaitable[None]]) -> list[Figure]:
        """Milliseconds of one time of it, and of the CPU of the server and of PostgreSQL."""
        await work()  # the first one prepares its statements
        taken = []
        own, postgres, log = own_cpu_seconds(), self._postgres_seconds(), self._log_bytes()
        for _ in range(TIMES):
            begun = time.monotonic()
            await work()
            taken.append(time.monotonic() - begun)
        own, postgres = own_cpu_seconds() - own, self._postgres_seconds() - postgres
        figures = [
            Figure(f"{name}: p50", percentile(taken, 50) * 1000, "ms"),
            Figure(f"{name}: CPU of the server", own / TIMES * 1000, "ms"),
            Figure(f"{name}: CPU of PostgreSQL", postgres / TIMES * 1000, "ms"),
        ]
        if written := self._log_bytes() - log:
            figures.append(Figure(f"{name}: write-ahead log", written / TIMES / 1000, "kB"))
        return figures

    def _postgres_seconds(self) -> float:
        """The backends count in clock ticks."""
        ticks = 0.0
        for process in self._postgres.children():
            times = process.cpu_times()
            ticks += times.user + times.system
        return ticks

    def _log_bytes(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        return int(row[0])
