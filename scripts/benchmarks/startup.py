"""Each program from its start until it is ready: seconds, CPU seconds, and what it imports until then."""

from __future__ import annotations

import asyncio
import re
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.figures import Figure, at_most, percentile
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import BIN, Program, Programs, say, workplace
from scripts.benchmarks.sizes import Sizes

STOP_SECONDS = 30.0
GOAL_SECONDS = 0.5
# Python writes a line for each module that it imports, with the microseconds that the module itself took.
PROFILE = {"PYTHONPROFILEIMPORTTIME": "1"}
_IMPORTED = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)


@dataclass
class Started:
    """The starts of one program."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def add(self, program: Program) -> None:
        """Counts a program that has just become ready."""
        self.seconds.append(time.monotonic() - program.started)
        self.cpu_seconds.append(program.cpu_seconds)


def run(sizes: Sizes) -> list[Figure]:
    """Runs the measurement and returns its figures. Raises BenchError."""
    with workplace() as programs:
        market = Market(programs)
        embedded = Market(programs, "embedded", embedded=True)
        for each in (market, embedded):  # migrates the empty databases
            each.start()
        provider = {"name": "Bench node", "email": "bench-node@example.com"}
        key = asyncio.run(market.call("POST", "/api/providers/register", provider))["api_key"]
        stop(embedded.server)
        starts: dict[str, Callable[[dict[str, str]], Program]] = {
            "dcp-server": lambda settings: _server(programs, market.database, settings),
            "dcp-gateway": lambda settings: _gateway(programs, market, settings),
            "dcp-daemon": lambda settings: _daemon(programs, market, key, settings),
            "dcp-market": lambda settings: _embedded(programs, embedded.database, settings),
        }
        figures = []
        for name, start in starts.items():
            say(f"{sizes.startup_rounds} starts of {name}")
            if name == "dcp-server":
                stop(market.server)
            started = Started()
            for _ in range(sizes.startup_rounds):
                program = start({})
                started.add(program)
                stop(program)
            profiled = start(PROFILE)
            imported = [int(us) for us in _IMPORTED.findall(profiled.errors)]
            stop(profiled)
            if name == "dcp-server":
                market.start_server()
            figures += _figures(name, started, imported)
        return figures


def _figures(name: str, started: Started, imported: list[int]) -> list[Figure]:
    return [
        Figure(f"{name}: until ready, p50", percentile(started.seconds, 50), "s", at_most(GOAL_SECONDS)),
        Figure(f"{name}: CPU until ready, mean", statistics.fmean(started.cpu_seconds), "s"),
        Figure(f"{name}: modules imported until ready", len(imported), ""),
        Figure(f"{name}: seconds of imports, while they are measured", sum(imported) / 1e6, "s"),
    ]


def stop(program: Program) -> None:
    """Ends a program in order. Raises BenchError if it does not end."""
    program.send(signal.SIGTERM)
    program.wait(STOP_SECONDS)


def _server(programs: Programs, database: Path, settings: dict[str, str]) -> Program:
    market = Market(programs, "started", settings=settings)
    market.database = database
    return market.start_server()


def _embedded(programs: Programs, database: Path, settings: dict[str, str]) -> Program:
    market = Market(programs, "started", embedded=True, settings=settings)
    market.database = database
    market.start()
    return market.server


def _gateway(programs: Programs, of: Market, settings: dict[str, str]) -> Program:
    market = Market(programs, "started", settings=settings)
    market.server_address = of.server_address
    return market.start_gateway()


def _daemon(programs: Programs, market: Market, key: str, settings: dict[str, str]) -> Program:
    program = programs.start(
        "started-dcp-daemon",
        [BIN / "dcp-daemon", "run"],
        {
            "HOME": str(programs.folder),  # so that it does not read the settings file of the user
            "DCP_SERVER": market.server_address,
            "DCP_PROVIDER_KEY": key,
            "DCP_STATE_DIR": str(programs.folder / "daemon"),
            **settings,
        },
    )
    program.wait_for(r"^(ready) ")
    return program
