"""GPU metrics in the database: bounded batches, several servers, and the deletion of old rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.domain.errors import DomainError, Reason
from server.domain.gpus import GpuReport
from server.domain.metrics import (
    COARSE_SECONDS,
    FINE_SECONDS,
    KEEP_SECONDS,
    Closed,
    MetricsRange,
    Series,
    sampled,
)
from server.services.metrics import BATCH, FORGET_EVERY_MS, Metrics
from server.store import metrics
from server.store.database import Database
from server.store.models import GpuMetrics
from tests.server.store.rows import Rows
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock


async def count(database: Database) -> int:
    return int(await database.read(lambda: GpuMetrics.select().count()))


def samples(curve: Series) -> list[int]:
    """The number of samples of each point."""
    return [tally.count for point in curve.points for tally in point.figures.values()]


async def test_buckets_are_stored_in_batches_and_never_counted_twice(
    database: Database, rows: Rows, clock: ManualClock
) -> None:
    service, providers = Metrics(database, clock), [await rows.provider() for _ in range(3)]
    clock.advance(COARSE_SECONDS - clock.now() % COARSE_SECONDS)
    for _ in range(241):
        for provider_id in providers:
            service.record(provider_id, GpuReport(temp_c=1))
        clock.advance(FINE_SECONDS)
    stored = [0]
    for _ in range(4):
        for provider_id in providers:
            (curve,) = await service.series(provider_id, MetricsRange.SIX_HOURS)
            assert sum(samples(curve)) == 241
        await service.tick()
        stored.append(await count(database))
    # Of each of three providers: 241 fine buckets and 20 closed coarse buckets.
    assert stored == [0, BATCH, 783, 783, 783]


async def test_samples_of_a_daemon_at_two_servers_add_up(
    database: Database, rows: Rows, clock: ManualClock
) -> None:
    provider_id = await rows.provider()
    servers = Metrics(database, clock), Metrics(database, clock)
    for server, temp_c in zip(servers, (50, 70), strict=True):
        server.record(provider_id, GpuReport(temp_c=temp_c))
    clock.advance(FINE_SECONDS)
    for server in servers:
        await server.tick()
    for server in servers:
        (curve,) = await server.series(provider_id, MetricsRange.HOUR)
        (tally,) = curve.points[0].figures.values()
        assert (tally.count, tally.average, tally.greatest) == (2, 60, 70)


class LosesAnAnswer:
    """A database that commits its first transaction and then raises, as if its answer were lost."""

    def __init__(self, database: Database) -> None:
        self.read = database.read
        self._run = database.run
        self._lost = False

    async def run(self, work: Callable[[], Any]) -> Any:
        answer = await self._run(work)
        if not self._lost:
            self._lost = True
            raise DomainError(Reason.STORE_UNAVAILABLE, "the answer was lost")
        return answer


async def test_batch_whose_answer_was_lost_is_written_again_and_counted_once(
    database: Database, rows: Rows, clock: ManualClock
) -> None:
    provider_id = await rows.provider()
    service = Metrics(LosesAnAnswer(database), clock)  # type: ignore[arg-type]
    service.record(provider_id, GpuReport(temp_c=1))
    clock.advance(COARSE_SECONDS)
    with pytest.raises(DomainError, match="the answer was lost"):
        await service.tick()
    for _ in range(2):  # stored but still waiting, then stored again
        assert await count(database) == 2
        for metrics_range in (MetricsRange.HOUR, MetricsRange.DAY):
            (curve,) = await service.series(provider_id, metrics_range)
            assert samples(curve) == [1]
        await service.tick()


async def test_old_rows_are_deleted_in_bounded_batches(
    database: Database, rows: Rows, clock: ManualClock
) -> None:
    provider_id = await rows.provider()
    now_ms = round(clock.now() * 1000)
    closed = [
        Closed(provider_id, width, now_ms - keep * 1000 - past, sampled(GpuReport(temp_c=1)))
        for width, keep in KEEP_SECONDS.items()
        for past in (-1, 0, *range(1, BATCH + 2))
    ]
    await database.run(lambda: metrics.write(1, closed))
    service = Metrics(database, clock)
    left = []
    for _ in range(3):
        await service.tick()
        left.append(await count(database))
    assert left == [len(closed) - 2 * BATCH, 4, 4]
    clock.advance(FORGET_EVERY_MS / 1000)
    await service.tick()
    assert await count(database) == 0


async def test_buckets_wait_in_memory_while_the_database_is_unavailable(
    database: Database, rows: Rows, clock: ManualClock
) -> None:
    provider_id = await rows.provider()
    service = Metrics(database, clock)
    service.record(provider_id, GpuReport(temp_c=1))
    clock.advance(COARSE_SECONDS)
    await database.run(lambda: execute(database, "ALTER TABLE gpu_metrics RENAME TO away"))
    try:
        with pytest.raises(Exception, match=r"gpu_metrics|cannot"):
            await service.tick()
    finally:
        await database.run(lambda: execute(database, "ALTER TABLE away RENAME TO gpu_metrics"))
    (curve,) = await service.series(provider_id, MetricsRange.HOUR)
    assert samples(curve) == [1]
    await service.tick()
    assert await count(database) == 2
