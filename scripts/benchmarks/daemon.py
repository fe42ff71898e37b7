"""A real daemon with a no-op engine: ``python -m scripts.benchmarks.daemon SERVER FILE SLOTS``.

The benchmarks start it. DCP_PROVIDER_KEY is the provider's key; the start times of jobs are written to FILE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from daemon.app import Daemon, Options
from daemon.journal.disk import FileDisk
from daemon.journal.journal import Journal
from daemon.link import ServerAddress
from scripts.benchmarks.engine import NoopEngine
from scripts.benchmarks.market import MODEL


async def serve(server: str, starts: Path, slots: int) -> None:
    """Runs until SIGTERM."""
    daemon = Daemon(
        ServerAddress(server),
        os.environ["DCP_PROVIDER_KEY"],
        [NoopEngine(MODEL, starts, slots)],
        Journal(FileDisk(starts.with_name("journal"))),
        options=Options(on_ready=lambda provider_id: print("ready", provider_id, flush=True)),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.drain)
    await daemon.run()


def main() -> int:
    """Reads the arguments and serves."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    server, starts, slots = sys.argv[1:]
    asyncio.run(serve(server, Path(starts), int(slots)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
