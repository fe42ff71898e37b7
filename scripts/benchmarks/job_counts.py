"""What one job costs in statements, commits, syncs and messages, by the counters that the tests use.

Counts do not depend on the machine. They are of one job with one piece of output, in a market that does
nothing else; several jobs at once share commits and syncs.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from scripts.benchmarks.engine import NoopEngine
from scripts.benchmarks.figures import Figure, at_most
from tests.support.counted_market import counted_market
from tests.support.counter import Counter
from tests.support.fake_engine import DEFAULT_MODEL

OF_HEARTBEATS = ("> heartbeat", "< heartbeat_ack")


def run() -> list[Figure]:
    """Runs two jobs and counts the second; the first prepares statements."""
    with tempfile.TemporaryDirectory(prefix="dcp-bench-") as folder:
        return asyncio.run(_run(Path(folder)))


async def _run(folder: Path) -> list[Figure]:
    engine = NoopEngine(DEFAULT_MODEL, folder / "starts", 1)
    async with counted_market(folder) as market, market.daemon(folder / "daemon", engine) as daemon:
        await daemon.job(200)
        await daemon.heartbeat()
        await market.stack.get("/api/renters/me", market.renter)  # keys are cached for ten seconds
        market.counter.clear()
        await daemon.job(200)
        await daemon.heartbeat()
        return _figures(market.counter)


def _figures(counter: Counter) -> list[Figure]:
    database = counter.database()
    messages = sum(count for kind, count in counter.messages.items() if kind not in OF_HEARTBEATS)
    return [
        Figure("one job: statements", database["statements"], "", at_most(40), at_most(25)),
        Figure("one job: write transactions", database["write transactions"], "", at_most(3), at_most(2)),
        Figure("one job: read transactions", database["read transactions"], ""),
        Figure("one job: syncs of the server", database["syncs"], "", at_most(3), at_most(2)),
        Figure("one job: syncs of the daemon", counter.journal_syncs, "", at_most(2), at_most(1)),
        Figure("one job: messages on the stream", messages, "", at_most(5), at_most(4)),
        Figure("one job: calls of the gateway", counter.calls.methods.total(), ""),
    ]
