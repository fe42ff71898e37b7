"""The migrations of a large database: how long they take, and what an interrupted one leaves."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from scripts.benchmarks import growth_data
from scripts.benchmarks.figures import Figure, at_most
from scripts.benchmarks.growth_data import SCHEMA, Shape
from scripts.benchmarks.market import Market
from scripts.benchmarks.processes import LOOK_SECONDS, BenchError, Programs, say

MIGRATION_SECONDS = 300.0
KILL_WITHIN_SECONDS = 120.0
# The server is killed when it has written this part of the database's size to the log: in the middle.
KILL_SHARE = 0.1


def run(programs: Programs, source: Path, shape: Shape) -> tuple[Path, list[Figure]]:
    """Migrates a copy, killed once on the way; returns the copy and the figures. Raises BenchError."""
    market = Market(programs, "migrating")
    growth_data.copy(source, market.database)
    pending = len(sorted(growth_data.MIGRATIONS.glob("0*.py"))) - len(growth_data.applied(source))
    say(f"{pending} migrations of {shape.jobs:,} jobs; the server is killed once")
    size = source.stat().st_size
    killed = _kill_in_the_middle(market, size)
    before, left = growth_data.applied(source), growth_data.applied(market.database)
    stray = _strays(programs, market.database, left)
    begun = time.monotonic()
    market.start_server(MIGRATION_SECONDS)
    seconds = time.monotonic() - begun
    market.stop_server(signal.SIGTERM, 60.0)
    done = len(growth_data.applied(market.database)) - len(left)
    unit = f"s, {shape.jobs:,} jobs, {size / 1e9:.2f} GB"
    return market.database, [
        Figure(f"migrations from {SCHEMA[:4]}: until ready", seconds, unit),
        Figure("migrations in this time", done, ""),
        Figure("interrupted by SIGKILL after", killed, "s"),
        Figure("interrupted: migrations that were complete", len(left) - len(before), ""),
        Figure("interrupted: tables, indexes and triggers of an incomplete one", stray, "", at_most(0)),
    ]


def _kill_in_the_middle(market: Market, size: int) -> float:
    """Starts the server and kills it while it migrates; returns the seconds until then."""
    server = market.launch_server()
    log, end = Path(f"{market.database}-wal"), server.started + KILL_WITHIN_SECONDS
    while time.monotonic() < end:
        if log.exists() and log.stat().st_size > size * KILL_SHARE:
            break
        server.check_running()
        time.sleep(LOOK_SECONDS)
    else:
        raise BenchError(f"the server migrated nothing within {KILL_WITHIN_SECONDS:.0f} s")
    market.stop_server(signal.SIGKILL, 10.0)
    return time.monotonic() - server.started


def _strays(programs: Programs, database: Path, applied: list[str]) -> int:
    """How many schema objects differ from those of an empty database with the same migrations."""
    expected = programs.folder / "expected.sqlite3"
    growth_data.empty(expected, applied[-1])
    found, wanted = growth_data.schema_objects(database), growth_data.schema_objects(expected)
    return len(dict(found.items() ^ wanted.items()))
