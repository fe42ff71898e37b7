"""Every daemon comes back at once: the server is killed, and stopped in order, with thousands connected.

The daemons wait as real ones do, see daemon/protocol/backoff.py, and the server starts again at once.
"""

from __future__ import annotations

import asyncio
import signal
import time

from scripts.benchmarks.figures import Figure, at_least, at_most
from scripts.benchmarks.fleet import register
from scripts.benchmarks.loads import SPARE_FILES, Loads
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import cpu_seconds_of, raise_open_files, say, workplace
from scripts.benchmarks.sizes import Sizes

SETTLE_SECONDS = 2.0
BACK_SECONDS = 90.0
STOP_SECONDS = 60.0


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError if the daemons do not come back."""
    daemons = sizes.storm_daemons
    raise_open_files(daemons + SPARE_FILES)
    with workplace() as programs:
        market = Market(programs)
        market.start_server()
        say(f"registering {daemons:,} providers")
        keys = asyncio.run(register(market.server_address, daemons))
        cpu_before = market.server.cpu_seconds
        loads = Loads(programs, market, keys, sizes)
        figures = loads.opened(cpu_before)
        for number in (signal.SIGKILL, signal.SIGTERM):
            time.sleep(SETTLE_SECONDS)
            figures += _storm(market, loads, daemons, number)
        return figures


def _storm(market: Market, loads: Loads, daemons: int, number: signal.Signals) -> list[Figure]:
    say(f"{number.name} to the server of {daemons:,} daemons")
    loads.send(signal.SIGUSR2)
    loads.reports("braced")
    load_cpu_seconds, begun = cpu_seconds_of(loads.programs), time.monotonic()
    market.stop_server(number, STOP_SECONDS)
    stopped = time.monotonic()
    market.start_server()
    ready = time.monotonic()
    reports = loads.reports("back", BACK_SECONDS)
    seconds = max(r["done"] for r in reports) - begun
    setups, refused, unreachable, unanswered = (
        int(sum(r[name] for r in reports)) for name in ("setups", "refused", "unreachable", "unanswered")
    )
    rate = setups / (max(r["done"] for r in reports) - min(r["first"] for r in reports))
    load_cpu_seconds = cpu_seconds_of(loads.programs) - load_cpu_seconds
    goals = (at_most(30), at_most(10)) if daemons >= 10_000 else (None, None)
    name = number.name
    return [
        Figure(f"{name}: all daemons back after", seconds, "s", *goals),
        Figure(f"{name}: of it until the server has ended", stopped - begun, "s"),
        Figure(f"{name}: of it until the server is ready again", ready - stopped, "s"),
        Figure(
            f"{name}: sessions set up, from the first to the last", rate, "1/s", at_least(500), at_least(1000)
        ),
        Figure(f"{name}: streams that the server refused", refused, "", at_most(0)),
        Figure(f"{name}: streams that ended without an answer", unanswered, "", at_most(0)),
        Figure(f"{name}: tries while no server listened, a daemon", unreachable / daemons, ""),
        Figure(f"{name}: Hello to Welcome, p99", max(r["setup_p99"] for r in reports) * 1000, "ms"),
        Figure(f"{name}: server's CPU per set-up", market.server.cpu_seconds / setups * 1e6, "us"),
        Figure(f"{name}: load's CPU per set-up", load_cpu_seconds / setups * 1e6, "us"),
    ]
