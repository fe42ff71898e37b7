"""Removes the texts of jobs that ended long ago: prompts, parameters, input files, outputs and logs.

What the bill needs stays, and so does the digest of the request: its Idempotency-Key still returns the job.
"""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.domain.storage import StorageLimits
from server.services.each import raise_if_all, together
from server.store import storage
from server.store.database import Database, PartError

log = logging.getLogger(__name__)

# A batch is one transaction, which also deletes all output of its jobs.
BATCH = 50
BATCHES = 40


class Retention:
    """Applies the time limit of texts, every half minute."""

    def __init__(self, database: Database, clock: Clock, limits: StorageLimits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._refused: dict[tuple[str, int], PartError] = {}

    async def tick(self) -> None:
        """Removes the texts of the jobs that are due, in batches, and leaves the rest to the next tick."""
        now_ms = ms(self._clock)
        removed = 0
        for _ in range(BATCHES):
            due = await self._database.read(lambda: storage.with_texts(now_ms - self._limits.text_ms, BATCH))
            if due:
                self._refused = await together(
                    self._database,
                    "the texts of a job",
                    due,
                    lambda jobs: storage.remove_texts(jobs, now_ms),
                    self._refused,
                )
                raise_if_all(self._refused, due)
                removed += len(due) - len(self._refused)
            if len(due) < BATCH:
                break
        if removed:
            log.info("removed the texts of ended jobs count=%d", removed)
