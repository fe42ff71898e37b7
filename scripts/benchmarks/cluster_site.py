"""A cluster for a benchmark: servers on one PostgreSQL, a gateway for each, daemons, and NATS if wanted.

It counts from outside: CPU seconds by the operating system, messages by NATS, commits and log by PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg

from scripts.benchmarks import dispatch
from scripts.benchmarks.engine import read_starts
from scripts.benchmarks.processes import BIN, BenchError, Program, Programs
from scripts.benchmarks.runs import IN_FLIGHT, Ran, Run
from scripts.cluster import Cluster, Nats
from scripts.market import UNLIMITED

SLOTS = 64
SETTINGS = {**UNLIMITED, "DCP_LOG_LEVEL": "warning"}
BALANCE_HALALA = 1_000_000_000
READY_SECONDS = 15.0
# At rest, nothing is asked while a job is on its way to its start.
FIRST_POLL_SECONDS = 0.03
POLL_SECONDS = 0.005
LONGEST_POLL_SECONDS = 0.08
# PostgreSQL's processes report what they counted this long after it, at most.
COUNTED_SECONDS = 1.2
HERE, ELSEWHERE = 0, 1
SERVERS, POSTGRES, NATS = "the servers", "PostgreSQL", "NATS"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run of jobs has caused."""

    messages_in: int
    messages_out: int
    """What NATS got, and what it delivered."""
    bytes_in: int
    bytes_out: int
    wal_bytes: int
    wal_syncs: int
    """PostgreSQL's write-ahead log, of all databases."""

    def __sub__(self, before: Counts) -> Counts:
        names = [each.name for each in fields(self)]
        return Counts(*(getattr(self, name) - getattr(before, name) for name in names))


class Site:
    """A cluster with its renter and its daemons; ``daemons`` of them, given to the servers in turn."""

    def __init__(
        self, programs: Programs, url: str, name: str, *, servers: int, daemons: int, nats: Nats | None
    ) -> None:
        self.name = name
        self.servers = servers
        self.nats = nats
        self.jobs = 0
        self._programs = programs
        self._folder = programs.folder / name.replace(" ", "-")
        self._folder.mkdir()
        self._count = daemons
        self._daemons: list[Program] = []
        self._provider_ids: list[int] = []
        self.cluster = Cluster(
            self._folder,
            new_database(url),
            servers=servers,
            gateways=servers,
            bus=nats.url if nats else "",
            apart=True,
            settings=SETTINGS,
        )
        with psycopg.connect(url) as connection:
            self._postgres = psutil.Process(psutil.Process(connection.info.backend_pid).ppid())
        self._url = url

    @contextlib.contextmanager
    def running(self) -> Iterator[Site]:
        """Starts everything, and ends it. Raises BenchError."""
        with self.cluster:
            # One renter's jobs are submitted and settled one after the other, so each in flight has its own.
            self.keys = [self._new_renter(number) for number in range(IN_FLIGHT)]
            self.key = self.keys[0]
            for number in range(self._count):
                self._start_daemon(number)
            for daemon in self._daemons:
                daemon.wait_for("^(ready)")
            self._wait_until_known()
            yield self
            if ended := [program for program in self.cluster.server_programs if not program.is_running]:
                raise BenchError(f"a server has ended:\n{ended[0].last_words()}")
            self._check()

    @property
    def admin(self) -> dict[str, str]:
        """The headers of an operator."""
        return {"x-admin-token": self.cluster.admin_token}

    def gateway(self, number: int) -> str:
        """The URL of the gateway that calls only the server of that number."""
        return self.cluster.markets[number].url

    def server(self, number: int) -> str:
        """The address of a server."""
        return self.cluster.server_programs[number].address

    async def ask(
        self, client: aiohttp.ClientSession, path: str, body: object, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A POST of the renter, or with the headers of another. Raises BenchError unless it succeeds."""
        async with client.post(path, json=body, headers=headers or {"x-renter-key": self.key}) as answer:
            return _checked(path, answer.status, await answer.read())

    async def look(self, client: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        """A GET of the renter. Raises BenchError unless it succeeds."""
        async with client.get(path, headers={"x-renter-key": self.key}) as answer:
            return _checked(path, answer.status, await answer.read())

    def new_provider(self) -> tuple[int, str]:
        """Registers a provider and vouches for it, so that all its slots count; its id and its key."""
        market = self.cluster.markets[0]
        provider_id, key = market.register_provider("Bench", f"{secrets.token_hex(6)}@example.com")
        body = {"vouched": True, "reason": "Of the bench."}
        market.post(f"/api/admin/providers/{provider_id}/vouch", body, **self.admin)
        return provider_id, key

    def cpu_seconds(self) -> dict[str, float]:
        """What the programs of this cluster, and the PostgreSQL of all clusters, have used."""
        processes = [psutil.Process(program.process.pid) for program in self.cluster.server_programs]
        found = {
            SERVERS: sum(map(_cpu_seconds, processes)),
            POSTGRES: sum(map(_cpu_seconds, (self._postgres, *self._postgres.children()))),
        }
        if self.nats is not None:
            found[NATS] = _cpu_seconds(psutil.Process(self.nats.process.pid))
        return found

    def counts(self) -> Counts:
        """What was counted until now."""
        time.sleep(COUNTED_SECONDS)
        told: dict[str, Any] = self.nats.counters() if self.nats is not None else {}
        with psycopg.connect(self._url) as connection:
            row = connection.execute(
                "SELECT pg_current_wal_insert_lsn() - '0/0',"
                " (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal')"
            ).fetchone()
        assert row is not None
        names = ("in_msgs", "out_msgs", "in_bytes", "out_bytes")
        return Counts(*(int(told.get(name, 0)) for name in names), *map(int, row))

    async def at_rest(self, count: int) -> dict[bool, list[float]]:
        """Seconds from submit to started at rest, by whether the job was submitted at another server.

        Each job is for a daemon of the first server. The gateways take turns.
        """
        ran: dict[bool, list[Ran]] = {False: [], True: []}
        job = json.dumps(json.loads(dispatch.JOB) | {"provider_id": self._provider_ids[0]})
        async with contextlib.AsyncExitStack() as stack:
            opened = [aiohttp.ClientSession(self.gateway(number)) for number in (HERE, ELSEWHERE)]
            clients = [await stack.enter_async_context(client) for client in opened]
            for turn in range(2 * count):
                number = turn % 2
                ran[number == ELSEWHERE].append(
                    await dispatch.one_job(
                        clients[number],
                        self.key,
                        POLL_SECONDS,
                        LONGEST_POLL_SECONDS,
                        first_poll_seconds=FIRST_POLL_SECONDS,
                        job=job,
                    )
                )
                await asyncio.sleep(dispatch.REST_SECONDS)
        self.jobs += 2 * count
        starts = self._starts()
        return {which: list(Run.of(jobs, starts, 0.0, {}).to_started) for which, jobs in ran.items()}

    async def in_flight(self, count: int) -> Run:
        """Runs several jobs at once, at all gateways in turn."""
        left = iter(range(count))
        ran: list[Ran] = []

        async def work(number: int, key: str) -> None:
            async with aiohttp.ClientSession(self.gateway(number % self.servers)) as client:
                for _ in left:
                    ran.append(await dispatch.one_job(client, key, POLL_SECONDS, LONGEST_POLL_SECONDS))

        used, begun = self.cpu_seconds(), time.monotonic()
        await asyncio.gather(*(work(number, key) for number, key in enumerate(self.keys)))
        seconds = time.monotonic() - begun
        cpu_seconds = {name: value - used[name] for name, value in self.cpu_seconds().items()}
        self.jobs += count
        return Run.of(ran, self._starts(), seconds, cpu_seconds)

    @contextlib.contextmanager
    def pinned(self, cores: Collection[int]) -> Iterator[None]:
        """All servers together have only these cores."""
        pids = [program.process.pid for program in self.cluster.server_programs]
        before = os.sched_getaffinity(0)
        _pin(pids, cores)
        try:
            yield
        finally:
            _pin(pids, before)

    def _new_renter(self, number: int) -> str:
        market = self.cluster.markets[0]
        renter_id, key = market.register_renter("Bench", f"bench-{number}@example.com")
        market.credit(renter_id, BALANCE_HALALA)
        return key

    def _start_daemon(self, number: int) -> None:
        provider_id, key = self.new_provider()
        self._provider_ids.append(provider_id)
        folder = self._folder / f"daemon-{number}"
        folder.mkdir()
        address = self.cluster.server_programs[number % self.servers].address
        module = (BIN / "python", "-m", "scripts.benchmarks.daemon")
        command: list[str | Path] = [*module, address, folder / "starts", str(SLOTS)]
        name = f"{self._folder.name}-daemon-{number}"
        self._daemons.append(self._programs.start(name, command, {"DCP_PROVIDER_KEY": key}))

    def _wait_until_known(self) -> None:
        """Waits until each server knows all daemons."""
        end = time.monotonic() + READY_SECONDS
        for market in self.cluster.markets:
            while len(market.get("/api/renters/available-providers")["providers"]) < self._count:
                if time.monotonic() > end:
                    raise BenchError(f"{self.name}: a server does not know the daemons at another one")
                time.sleep(0.05)

    def _starts(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for number in range(self._count):
            found |= read_starts(self._folder / f"daemon-{number}" / "starts")
        return found

    def _check(self) -> None:
        """Raises BenchError unless all jobs completed and the ledger balances: else the figures are void."""
        market = self.cluster.markets[0]
        proof = market.prove_ledger()
        if not proof["balanced"] or proof["open_holds"]:
            raise BenchError(f"{self.name}: the ledger does not balance: {proof}")
        states = market.get("/api/admin/dashboard", **self.admin)["jobs_by_state"]
        if states.get("completed", 0) != self.jobs:
            raise BenchError(f"{self.name}: not all {self.jobs} jobs completed: {json.dumps(states)}")


def _checked(path: str, status: int, answer: bytes) -> dict[str, Any]:
    if not 200 <= status < 300:
        raise BenchError(f"{path} answered {status}: {answer[:300]!r}")
    return dict(json.loads(answer))


def new_database(url: str) -> str:
    """Creates an empty database on a server and returns its URL."""
    name = f"dcp_{secrets.token_hex(8)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return url.replace("/postgres?", f"/{name}?")


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _pin(pids: Collection[int], cores: Collection[int]) -> None:
    """Gives all threads of these processes the cores; a new thread has those of the one that began it."""
    for pid in pids:
        for thread in psutil.Process(pid).threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, cores)
