"""Many real daemon connections on one server process: set-up rate, memory, CPU, acknowledgements.

Separate load processes connect the daemons. While these are idle, a gateway and a daemon with a no-op engine
on the same server measure the dispatch of jobs.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import orjson
from dcp.v1 import providers_pb2
from dcp.v1.providers_pb2_grpc import ProviderServiceStub

from scripts.benchmarks import dispatch
from scripts.benchmarks.figures import Figure, Target, latencies
from scripts.benchmarks.market import Market, open_market
from scripts.benchmarks.processes import BIN, BenchError, Program, raise_open_files, say

REGISTERING = 16
SETTLE_SECONDS = 3.0
MARK_DAEMONS, MARK_MB = 5_000, 300.0
GOAL_DAEMONS, GOAL_MB, GOAL_CORE_PERCENT = 10_000, 500.0, 20.0
SPARE_FILES = 500


def run(daemons: int, seconds: float, load_processes: int, at_once: int, job_count: int) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    if daemons + SPARE_FILES > (limit := raise_open_files()):
        raise BenchError(
            f"{daemons:,} connections exceed the limit of {limit:,} open files; raise it, or lower --daemons"
        )
    with open_market() as market:
        say(f"registering {daemons:,} providers, {REGISTERING} at a time")
        begun = time.monotonic()
        keys = asyncio.run(_register(market.server_address, daemons))
        figures = [Figure("registrations", daemons / (time.monotonic() - begun), "1/s")]
        rss_before = market.server.rss_bytes
        loads, setup = _open(market, keys, load_processes, at_once)
        figures += setup
        time.sleep(SETTLE_SECONDS)
        figures += _hold(market, loads, daemons, seconds)
        figures += _memory(market.server, daemons, rss_before)
        if job_count:
            figures += asyncio.run(_dispatch(market, daemons, job_count))
        return figures + _end(market, loads)


async def _register(address: str, count: int) -> list[str]:
    """Registers new providers and returns their keys."""
    numbers = iter(range(count))
    keys: list[str] = []
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = ProviderServiceStub(channel)

        async def work() -> None:
            for number in numbers:
                request = providers_pb2.RegisterProviderRequest(
                    name=f"Bench {number}", email=f"bench-{number}@example.com"
                )
                keys.append((await stub.RegisterProvider(request, timeout=30)).api_key)
                if len(keys) % 1000 == 0:
                    say(f"{len(keys):,} registered")

        try:
            await asyncio.gather(*(work() for _ in range(REGISTERING)))
        except grpc.aio.AioRpcError as error:
            raise BenchError(f"registering a provider failed: {error.code()}: {error.details()}") from None
    return keys


def _open(
    market: Market, keys: Sequence[str], processes: int, at_once: int
) -> tuple[list[Program], list[Figure]]:
    say(f"connecting {len(keys):,} daemons from {processes} load process(es), {at_once} at once")
    before = market.server.cpu_seconds
    loads = [
        _start_load(market, number, keys[number::processes], max(1, at_once // processes))
        for number in range(processes)
    ]
    reports = [_report(load, "open", 1, timeout_seconds=120 + len(keys) / 50) for load in loads]
    opened, failed = (int(sum(r[name] for r in reports)) for name in ("opened", "failed"))
    if failed or opened != len(keys):
        raise BenchError(f"{failed} of {len(keys)} daemons could not connect:\n{loads[0].last_words()}")
    seconds = max(r["done"] for r in reports) - min(r["begun"] for r in reports)
    server_cpu_seconds = market.server.cpu_seconds - before
    load_cpu_seconds = sum(load.cpu_seconds for load in loads)
    return loads, [
        Figure("sessions set up", opened / seconds, "1/s", None, Target(1000, at_least=True)),
        Figure("Hello to Welcome, p99", max(r["setup_p99"] for r in reports) * 1000, "ms"),
        Figure("server's CPU per set-up", server_cpu_seconds / opened * 1e6, "us"),
        Figure("load's CPU per set-up", load_cpu_seconds / opened * 1e6, "us"),
    ]


def _start_load(market: Market, number: int, keys: Sequence[str], at_once: int) -> Program:
    file: Path = market.folder / f"keys-{number}"
    file.touch(0o600)
    file.write_text("\n".join(keys), encoding="utf-8")
    command = [
        str(BIN / "python"),
        "-m",
        "scripts.benchmarks.fleet_load",
        market.server_address,
        str(file),
        str(at_once),
    ]
    return market.programs.start(f"fleet-load-{number}", command, {})


def _hold(market: Market, loads: Sequence[Program], daemons: int, seconds: float) -> list[Figure]:
    say(f"{daemons:,} daemons beat for {seconds:.0f} s")
    for load in loads:
        load.send(signal.SIGUSR1)
    for load in loads:
        _report(load, "count", 1)
    begun, before = time.monotonic(), market.server.cpu_seconds
    time.sleep(seconds)
    lasted, used = time.monotonic() - begun, market.server.cpu_seconds - before
    for load in loads:
        load.send(signal.SIGUSR1)
    reports = [_report(load, "count", 2) for load in loads]
    if ended := int(sum(r["ended"] for r in reports)):
        raise BenchError(f"{ended} of {daemons} streams ended unexpectedly:\n{market.server.last_words()}")
    percent = used / lasted * 100
    goal = Target(GOAL_CORE_PERCENT) if daemons >= GOAL_DAEMONS else None
    return [
        Figure("daemons connected", daemons, ""),
        Figure("heartbeats acknowledged", sum(r["acked"] for r in reports) / lasted, "1/s"),
        Figure("heartbeat to its ack, p50", max(_ms(r["ack_p50"]) for r in reports), "ms"),
        Figure("heartbeat to its ack, p99", max(_ms(r["ack_p99"]) for r in reports), "ms"),
        Figure("server's CPU while they beat", percent, "% core", None, goal),
        Figure("server's CPU seconds while they beat", used, "s"),
    ]


def _memory(server: Program, daemons: int, rss_before: int) -> list[Figure]:
    now = server.rss_bytes
    mark = Target(MARK_MB) if daemons >= MARK_DAEMONS else None
    goal = Target(GOAL_MB) if daemons >= GOAL_DAEMONS else None
    return [
        Figure("server resident, before any connects", rss_before / 1e6, "MB"),
        Figure("server resident, all connected", now / 1e6, "MB", mark, goal),
        Figure("server resident, per daemon", (now - rss_before) / daemons / 1e3, "kB"),
    ]


async def _dispatch(market: Market, daemons: int, job_count: int) -> list[Figure]:
    """Runs jobs that name no provider, and that only one daemon of the fleet can run."""
    say(f"{job_count} jobs one after the other among {daemons:,} idle daemons")
    market.start_gateway()
    await market.start_daemon()
    key = (await market.new_renter()).api_key
    await dispatch.at_rest(market, key, dispatch.WARM_UP_JOBS)
    ran = await dispatch.at_rest(market, key, job_count)
    seconds = dispatch.to_started(market, ran)
    goal = Target(50) if daemons >= MARK_DAEMONS else None
    return latencies("submit to started, fleet connected", seconds, goal_p99=goal)


def _end(market: Market, loads: Sequence[Program]) -> list[Figure]:
    for load in loads:
        load.send(signal.SIGTERM)
    reports = [_report(load, "end", 1) for load in loads]
    lost = int(sum(r["sent"] - r["acked"] for r in reports))
    say(f"{int(sum(r['sent'] for r in reports)):,} heartbeats sent, {lost} not acknowledged")
    if broken := int(sum(r["ended"] + r["strays"] for r in reports)):
        say(f"{broken} streams ended or got a message that was not asked for:\n{market.server.last_words()}")
    return [
        Figure("heartbeats never acknowledged", lost, "", Target(0), Target(0)),
        Figure("streams that broke", sum(r["ended"] for r in reports), "", Target(0), Target(0)),
    ]


def _report(load: Program, kind: str, number: int, timeout_seconds: float = 60.0) -> dict[str, Any]:
    """The facts in the ``number``-th line of a kind that the load process has printed."""
    pattern = rf"(?s:(?:.*?^{kind} ){{{number}}})(\{{.*\}})$"
    facts = orjson.loads(load.wait_for(pattern, timeout_seconds))
    return {name: math.nan if value is None else value for name, value in facts.items()}


def _ms(seconds: float) -> float:
    return seconds * 1000
