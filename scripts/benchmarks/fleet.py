"""Many real daemon connections on one server process: set-up rate, memory, CPU, acknowledgements.

Separate load processes connect the daemons. While these are idle, a gateway and a daemon with a no-op engine
on the same server measure the dispatch of jobs.
"""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
from dcp.v1 import providers_pb2
from dcp.v1.providers_pb2_grpc import ProviderServiceStub

from scripts.benchmarks import dispatch
from scripts.benchmarks.figures import Figure, at_most, latencies
from scripts.benchmarks.loads import SPARE_FILES, Loads
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BenchError, Program, raise_open_files, say, workplace
from scripts.benchmarks.sizes import Sizes

REGISTERING = 16
SETTLE_SECONDS = 3.0
GOAL_DAEMONS = 10_000


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    daemons = sizes.fleet_daemons
    raise_open_files(daemons + SPARE_FILES)
    with workplace() as programs:
        market = Market(programs)
        market.start_server()
        say(f"registering {daemons:,} providers, {REGISTERING} at a time")
        begun = time.monotonic()
        keys = asyncio.run(register(market.server_address, daemons))
        figures = [Figure("registrations", daemons / (time.monotonic() - begun), "1/s")]
        rss_before, cpu_before = market.server.rss_bytes, market.server.cpu_seconds
        loads = Loads(programs, market, keys, sizes)
        figures += loads.opened(cpu_before)
        time.sleep(SETTLE_SECONDS)
        figures += _hold(market, loads, daemons, sizes.fleet_hold_seconds)
        figures += _memory(market.server, daemons, rss_before)
        if sizes.fleet_jobs:
            figures += asyncio.run(_dispatch(market, daemons, sizes.fleet_jobs))
        return figures + _end(market, loads)


async def register(address: str, count: int) -> list[str]:
    """Registers new providers and returns their keys. Raises BenchError."""
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
                if len(keys) % 2000 == 0:
                    say(f"{len(keys):,} registered")

        try:
            await asyncio.gather(*(work() for _ in range(REGISTERING)))
        except grpc.aio.AioRpcError as error:
            raise BenchError(f"registering a provider failed: {error.code()}: {error.details()}") from None
    return keys


def _hold(market: Market, loads: Loads, daemons: int, seconds: float) -> list[Figure]:
    say(f"{daemons:,} daemons beat for {seconds:.0f} s")
    loads.send(signal.SIGUSR1)
    loads.reports("count")
    begun, before = time.monotonic(), market.server.cpu_seconds
    time.sleep(seconds)
    lasted, used = time.monotonic() - begun, market.server.cpu_seconds - before
    loads.send(signal.SIGUSR1)
    reports = loads.reports("count")
    if ended := int(sum(r["ended"] for r in reports)):
        raise BenchError(f"{ended} of {daemons} streams ended unexpectedly:\n{market.server.last_words()}")
    acked = sum(r["acked"] for r in reports) / lasted
    is_full = daemons >= GOAL_DAEMONS
    p50, p99 = (max(r[name] * 1000 for r in reports) for name in ("ack_p50", "ack_p99"))
    percent = used / lasted * 100
    goals = (at_most(30), at_most(20)) if is_full else (None, None)
    return [
        Figure("daemons connected", daemons, ""),
        Figure("heartbeats acknowledged", acked, "1/s"),
        Figure("heartbeat to its ack, p50", p50, "ms"),
        Figure("heartbeat to its ack, p99", p99, "ms", at_most(20) if is_full else None),
        Figure("server's CPU while they beat", percent, "% core", *goals),
        Figure("server's CPU seconds while they beat", used, "s"),
    ]


def _memory(server: Program, daemons: int, rss_before: int) -> list[Figure]:
    now = server.rss_bytes
    goals = (at_most(520), at_most(400)) if daemons >= GOAL_DAEMONS else (None, None)
    return [
        Figure("server resident, before any connects", rss_before / 1e6, "MB"),
        Figure("server resident, all connected", now / 1e6, "MB", *goals),
        Figure("server resident, per daemon", (now - rss_before) / daemons / 1e3, "kB"),
    ]


async def _dispatch(market: Market, daemons: int, job_count: int) -> list[Figure]:
    """Runs jobs that name no provider, and that only one daemon of the fleet can run."""
    say(f"{job_count} jobs one after the other among {daemons:,} idle daemons")
    market.start_gateway()
    await market.start_daemon()
    key = (await market.new_renter()).api_key
    await dispatch.measured(market, key, dispatch.WARM_UP_JOBS, busy=False)
    run = await dispatch.measured(market, key, job_count, busy=False)
    return latencies("submit to started, fleet connected", run.to_started)


def _end(market: Market, loads: Loads) -> list[Figure]:
    loads.send(signal.SIGTERM)
    reports = loads.reports("end")
    lost = int(sum(r["sent"] - r["acked"] for r in reports))
    say(f"{int(sum(r['sent'] for r in reports)):,} heartbeats sent, {lost} not acknowledged")
    if broken := int(sum(r["ended"] + r["strays"] for r in reports)):
        say(f"{broken} streams ended or got a message that was not asked for:\n{market.server.last_words()}")
    return [
        Figure("heartbeats never acknowledged", lost, "", at_most(0)),
        Figure("streams that broke", sum(r["ended"] for r in reports), "", at_most(0)),
    ]
