"""Carries the journal's work out in a thread of its own, so that no sync holds the event loop.

What arrives while one batch is being synced shares the next sync. It must not
know what the entries mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from daemon.journal.journal import Journal
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import History

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0


class JournalWriter:
    """Writes entries in the order in which they come."""

    def __init__(self, journal: Journal, on_done: Callable[[Persist, OSError | None], None]) -> None:
        """`on_done` is called on the event loop for each Persist, in order, with its error."""
        self._journal = journal
        self._on_done = on_done
        self._waiting: list[Persist | Forget] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def recover(self) -> list[History]:
        """What an earlier process left. Raises JournalError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.recover)

    def put(self, entry: Persist | Forget) -> None:
        """Has the entry carried out soon."""
        self._waiting.append(entry)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    @property
    def waiting(self) -> int:
        """How many entries wait to be written."""
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """The size of the journal on the disk."""
        return self._journal.size_bytes

    async def flush(self) -> None:
        """Carries out what waits, for up to five seconds: a disk may hang."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=FLUSH_SECONDS)

    async def close(self) -> None:
        """Flushes, then ends."""
        await self.flush()
        self._thread.shutdown(wait=False)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            errors = await self._write_batch(batch)
            for entry, error in zip(batch, errors, strict=True):
                if isinstance(entry, Persist):
                    self._tell(entry, error)
                elif error is not None:
                    logger.warning("the journal kept what it should forget error=%s", error)
        self._writing = None

    def _tell(self, entry: Persist, error: OSError | None) -> None:
        try:
            self._on_done(entry, error)
        except Exception:
            # A bug at one job must not keep the others from being saved.
            logger.exception("what follows from a write failed unexpectedly")

    async def _write_batch(self, batch: Sequence[Persist | Forget]) -> Sequence[OSError | None]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._journal.write, batch)
        except Exception as error:
            # A bug in the journal must not stop the daemon from reporting its results.
            logger.exception("the journal failed unexpectedly")
            return [OSError(f"{type(error).__name__}")] * len(batch)
