"""Measures several servers on one PostgreSQL: what it takes that another server has the daemon or the key.

"Same" is asked at the server that has the daemon's session, "across" at another one. Clusters of 1, 2 and
more servers take turns with the same jobs, daemons and cores, and so does one without NATS. Before that each
connection to PostgreSQL prepares its statements: until then a job costs twice as much there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import aiohttp

from scripts.benchmarks import dispatch, looks
from scripts.benchmarks.cluster_site import (
    ELSEWHERE,
    HERE,
    NATS,
    POSTGRES,
    SERVERS,
    Counts,
    Site,
    new_database,
)
from scripts.benchmarks.figures import Figure, at_most, latencies, percentile, ratio
from scripts.benchmarks.processes import BenchError, Programs, say, workplace
from scripts.benchmarks.runs import IN_FLIGHT, Run
from scripts.benchmarks.scripted_session import session
from scripts.benchmarks.sizes import Sizes
from scripts.cluster import Nats
from scripts.market import NotReadyError
from scripts.postgres import postgres_server

LONG_MODEL = "bench/long"
LONG_JOB = json.loads(dispatch.JOB) | {"params": {"model": LONG_MODEL, "prompt": "go on", "max_tokens": 1}}
LOOK_SECONDS = 0.002
STATE_SECONDS = 15.0
NO_BUS = "2 servers without NATS"


@dataclass
class Busy:
    """The runs of a cluster with several jobs in flight."""

    runs: list[Run] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """How many there were."""
        return sum(len(run.ran) for run in self.runs)

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / sum(run.seconds for run in self.runs)

    def counted(self, name: str) -> float:
        """What was counted under a name, for each job."""
        return float(sum(getattr(counts, name) for counts in self.counts)) / self.jobs

    def cpu_us(self, program: str) -> float:
        """Microseconds of CPU of a program, for each job."""
        return sum(run.cpu_seconds.get(program, 0.0) for run in self.runs) / self.jobs * 1e6


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    try:
        with contextlib.ExitStack() as stack:
            programs = stack.enter_context(workplace())
            url = stack.enter_context(postgres_server(in_memory=False))
            sites = [
                stack.enter_context(_site(programs, url, name, servers, sizes.cluster_daemons, has_nats))
                for name, servers, has_nats in _kinds(sizes.cluster_servers)
            ]
            figures = _measured(sites, sizes)
        with postgres_server(in_memory=False) as url:
            return [*figures, *looks.run(new_database(url), sizes.cluster_elsewhere)]
    except NotReadyError as error:
        raise BenchError(str(error)) from None


def _kinds(most: int) -> list[tuple[str, int, bool]]:
    """The clusters: name, servers, whether there is NATS."""
    with_nats = [
        ("1 server" if count == 1 else f"{count} servers", count, True) for count in range(1, most + 1)
    ]
    return [*with_nats, (NO_BUS, 2, False)]


@contextlib.contextmanager
def _site(
    programs: Programs, url: str, name: str, servers: int, daemons: int, has_nats: bool
) -> Iterator[Site]:
    say(f"starting {name}, {daemons} daemons")
    with contextlib.ExitStack() as stack:
        nats = None
        if has_nats:
            folder = programs.folder / f"nats-{servers}"
            folder.mkdir()
            nats = Nats(folder)
            stack.callback(nats.stop)
        site = Site(programs, url, name, servers=servers, daemons=daemons, nats=nats)
        yield stack.enter_context(site.running())


def _measured(sites: list[Site], sizes: Sizes) -> list[Figure]:
    (pair,) = (site for site in sites if site.servers == 2 and site.nats is not None)
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: max(1, len(cores) // 2)]
    waits: dict[bool, list[float]] = {False: [], True: []}
    busy = {site.name: Busy() for site in sites}
    for site in sites:
        say(f"{sizes.cluster_jobs} jobs for each server of {site.name}, not measured")
        asyncio.run(site.in_flight(sizes.cluster_jobs * site.servers))
    for number in range(1, sizes.cluster_rounds + 1):
        turn = f"round {number} of {sizes.cluster_rounds}, {sizes.cluster_jobs} jobs"
        say(f"{turn} at either server, at rest")
        for is_across, seconds in asyncio.run(pair.at_rest(sizes.cluster_jobs)).items():
            waits[is_across] += seconds
        for site in sites:
            say(f"{turn} in flight: {site.name}")
            before = site.counts()
            with site.pinned(cores):
                busy[site.name].runs.append(asyncio.run(site.in_flight(sizes.cluster_jobs)))
            busy[site.name].counts.append(site.counts() - before)
    say(f"{sizes.cluster_hints} cancels, revoked keys and suspensions at another server")
    hints = asyncio.run(_hints(pair, sizes.cluster_hints))
    return [*_rest_figures(waits), *hints, *_busy_figures(busy)]


def _rest_figures(waits: dict[bool, list[float]]) -> list[Figure]:
    same, across = percentile(waits[False], 50), percentile(waits[True], 50)
    name = "submit to started, at rest"
    figures = [*latencies(f"same server: {name}", waits[False]), *latencies(f"across: {name}", waits[True])]
    figures = [replace(each, goal=at_most(15)) if each.name.endswith("p50") else each for each in figures]
    return [*figures, Figure(f"{name}, p50, across : same server", ratio(across, same), "", at_most(2))]


async def _hints(site: Site, count: int) -> list[Figure]:
    async with aiohttp.ClientSession(site.gateway(ELSEWHERE)) as client:
        cancels = await _cancels(site, client, count)
        keys = [await _revoked(site, client) for _ in range(count)]
        suspensions = [await _suspended(site, client) for _ in range(count)]
    return [
        *_hint("across: cancel to the daemon's message", cancels),
        *_hint("across: revoked key to its first refusal", keys),
        *_hint("across: suspension to the end of the session", suspensions),
    ]


def _hint(name: str, seconds: list[float]) -> list[Figure]:
    """p50, and the worst in seconds, which has the goal: a hint that is lost shows there."""
    return [
        Figure(f"{name}, p50", percentile(seconds, 50) * 1000, "ms"),
        Figure(f"{name}, the longest", max(seconds) * 1000, "ms", at_most(1000)),
    ]


async def _cancels(site: Site, client: aiohttp.ClientSession, count: int) -> list[float]:
    """Seconds from a cancel at the other server to the message that ends the run at the daemon."""
    _, key = site.new_provider()
    seconds = []
    async with (
        aiohttp.ClientSession(site.gateway(HERE)) as home,
        session(site.server(HERE), key, LONG_MODEL) as daemon,
    ):
        for _ in range(count):
            job = (await site.ask(home, "/api/jobs/submit", LONG_JOB))["job"]["job_id"]
            offer, _ = await daemon.next("job_offer")
            await daemon.begin(offer.job_offer.lease)
            await _until_running(site, client, job)
            sent = time.monotonic()
            await site.ask(client, f"/api/jobs/{job}/cancel", {})
            _, heard = await daemon.next("cancel_run")
            seconds.append(heard - sent)
            await daemon.end_cancelled(offer.job_offer.lease)
    return seconds


async def _until_running(site: Site, client: aiohttp.ClientSession, job_id: str) -> None:
    end = time.monotonic() + STATE_SECONDS
    while (await site.look(client, f"/api/jobs/{job_id}"))["job"]["status"] != "running":
        if time.monotonic() > end:
            raise BenchError(f"{job_id} is not running after {STATE_SECONDS:.0f} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _revoked(site: Site, client: aiohttp.ClientSession) -> float:
    """Seconds from the revocation of a key at a server to the first refusal at the one that has cached it."""
    async with aiohttp.ClientSession(site.gateway(HERE)) as home:
        made = await site.ask(home, "/api/renters/keys", {"name": "bench", "scopes": ["read"]})
        headers = {"x-renter-key": made["api_key"]}
        if await _status(client, headers) != 200:
            raise BenchError("a new key is refused")
        sent = time.monotonic()
        revoking = asyncio.ensure_future(site.ask(home, f"/api/renters/keys/{made['key']['id']}/revoke", {}))
        while await _status(client, headers) != 401:
            if time.monotonic() > sent + STATE_SECONDS:
                raise BenchError(f"a revoked key is not refused after {STATE_SECONDS:.0f} s")
            await asyncio.sleep(LOOK_SECONDS)
        refused = time.monotonic()
        await revoking
    return refused - sent


async def _status(client: aiohttp.ClientSession, headers: dict[str, str]) -> int:
    async with client.get("/api/renters/me", headers=headers) as answer:
        await answer.read()
        return answer.status


async def _suspended(site: Site, client: aiohttp.ClientSession) -> float:
    """Seconds from the suspension of a provider at a server to the end of its session at another one."""
    provider_id, key = site.new_provider()
    async with session(site.server(HERE), key, LONG_MODEL) as daemon:
        sent = time.monotonic()
        path = f"/api/admin/providers/{provider_id}/suspend"
        await site.ask(client, path, {"reason": "Of the bench."}, site.admin)
        _, ended = await daemon.next("refusal")
        return ended - sent


def _busy_figures(busy: dict[str, Busy]) -> list[Figure]:
    figures = []
    for name, found in busy.items():
        figures += [
            Figure(
                f"{name}: jobs/s, {IN_FLIGHT} in flight",
                found.rate,
                "jobs/s",
            ),
            *(
                Figure(f"{name}: CPU of {each}, a job", found.cpu_us(each), "us/job")
                for each in (SERVERS, POSTGRES, NATS)
                if any(each in run.cpu_seconds for run in found.runs)
            ),
            Figure(f"{name}: write-ahead log of PostgreSQL, a job", found.counted("wal_bytes"), "bytes"),
            Figure(f"{name}: syncs of PostgreSQL, a job", found.counted("wal_syncs"), ""),
        ]
        if name != NO_BUS:
            figures += [
                Figure(f"{name}: messages to NATS, a job", found.counted("messages_in"), ""),
                Figure(f"{name}: messages from NATS, a job", found.counted("messages_out"), ""),
                Figure(f"{name}: bytes through NATS, a job",
                       found.counted("bytes_in") + found.counted("bytes_out"), "bytes"),
            ]  # fmt: skip
    one = busy["1 server"]
    for name, found in busy.items():
        if found is not one:
            figures.append(Figure(f"jobs/s, {name} : 1 server", ratio(found.rate, one.rate), ""))
    pair, alone = busy["2 servers"], busy[NO_BUS]
    used = ratio(pair.cpu_us(SERVERS), alone.cpu_us(SERVERS))
    return [*figures, Figure("CPU of 2 servers, a job, with NATS : without", used, "")]
