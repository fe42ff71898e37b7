"""GPU metrics: the samples of heartbeats are added up in memory, stored in batches, read as series, deleted.

Nothing else depends on them: samples that a killed server had not stored are a gap in a curve.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from server.clock import Clock, ms
from server.domain.gpus import GpuReport
from server.domain.metrics import KEEP_SECONDS, Bucket, MetricsBuffer, MetricsRange, Series, sampled, series
from server.services.each import raise_if_all, together
from server.store import metrics
from server.store.database import Database

log = logging.getLogger(__name__)
# Rows that one transaction writes or deletes at most: 500 a second suffice for 27,000 providers.
BATCH = 500
MAX_WAITING = 100_000
FORGET_EVERY_MS = 60_000
# Reading a week of 64 GPUs takes a second of CPU: such requests must not occupy all readers of the database.
MAX_READS = 2


class Metrics:
    """The GPUs of all providers over time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._buffer = MetricsBuffer(MAX_WAITING)
        self._writer = secrets.randbits(62)
        self._forget_at_ms = 0
        self._reads = asyncio.Semaphore(MAX_READS)

    def record(self, provider_id: int, report: GpuReport) -> None:
        """Adds the sample of a heartbeat, in memory only, at the current time."""
        if sample := sampled(report):
            self._buffer.record(provider_id, sample, ms(self._clock))

    async def tick(self) -> None:
        """Stores a batch of closed buckets and deletes a batch of buckets that are too old."""
        now_ms = ms(self._clock)
        if lost := self._buffer.close(now_ms):
            log.warning("gave up metrics that could not be stored buckets=%d", lost)
        await self._store()
        if now_ms >= self._forget_at_ms and not await self._database.run(lambda: _forget(now_ms)):
            self._forget_at_ms = now_ms + FORGET_EVERY_MS

    async def store_all(self) -> None:
        """Stores everything, also open buckets, when the server stops."""
        self._buffer.close(ms(self._clock), also_open=True)
        while await self._store():
            pass

    async def _store(self) -> int:
        """Stores a batch; one that cannot be stored is given up if others can be."""
        batch = {(one.provider_id, one.width_seconds, one.start_ms): one for one in self._buffer.batch(BATCH)}

        def write(keys: Sequence[tuple[int, int, int]]) -> None:
            metrics.write(self._writer, [batch[key] for key in keys])

        if batch:
            failed = await together(self._database, "a bucket of metrics", list(batch), write)
            raise_if_all(failed, list(batch))
            self._buffer.stored(batch.values())
        return len(batch)

    async def series(self, provider_id: int, wanted: MetricsRange) -> list[Series]:
        """A provider's GPUs over a range of time up to now.

        Lacks what another server has not stored yet: its open buckets, and closed ones that wait for a batch.
        """
        async with self._reads:
            now_ms = ms(self._clock)
            unstored = self._buffer.unstored(provider_id, wanted.stored_seconds)
            return await self._database.read(lambda: self._series(provider_id, wanted, now_ms, unstored))

    def _series(
        self, provider_id: int, wanted: MetricsRange, now_ms: int, unstored: dict[int, Bucket]
    ) -> list[Series]:
        rows = metrics.since(provider_id, wanted.stored_seconds, wanted.first_ms(now_ms))
        stored = [
            (start_ms, bucket)
            for writer, start_ms, bucket in rows
            # Skips a bucket that was stored after ``unstored`` was read: it counts once.
            if writer != self._writer or start_ms not in unstored
        ]
        return series([*stored, *unstored.items()], wanted, now_ms)


def _forget(now_ms: int) -> bool:
    """Deletes a batch of each width; returns whether more may be left."""
    deleted = [
        metrics.forget_before(width, now_ms - keep * 1000, BATCH) for width, keep in KEEP_SECONDS.items()
    ]
    return BATCH in deleted
