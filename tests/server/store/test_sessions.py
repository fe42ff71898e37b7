"""Sessions have increasing epochs, and an older heartbeat never replaces a newer one."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.store import providers, sessions
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.sessions import Beat
from tests.server.store.rows import NOW_MS, OPENED, Rows
from tests.support import databases
from tests.support.databases import Postgres, fetch_one


async def provider_row(database: Database, provider_id: int) -> ProviderRow:
    row = await database.read(lambda: providers.get(provider_id))
    assert row is not None
    return row


async def test_every_session_has_the_next_epoch(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    training = replace(OPENED, job_types=frozenset({JobType.TRAINING}))
    epochs = [await database.run(lambda: sessions.begin(provider_id, training, NOW_MS)) for _ in range(3)]
    assert epochs == [2, 3, 4]
    row = await provider_row(database, provider_id)
    assert (row.connected, row.job_types) == (True, frozenset({JobType.TRAINING}))


async def test_end_of_an_older_session_changes_nothing(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    await database.run(lambda: sessions.begin(provider_id, OPENED, NOW_MS))
    await database.run(lambda: sessions.end(provider_id, 1))
    await database.run(lambda: sessions.set_draining(provider_id, 1))
    row = await provider_row(database, provider_id)
    assert (row.connected, row.draining) == (True, False)
    await database.run(lambda: sessions.set_draining(provider_id, 2))
    assert (await provider_row(database, provider_id)).draining
    await database.run(lambda: sessions.end(provider_id, 2))
    row = await provider_row(database, provider_id)
    assert (row.connected, row.draining) == (False, False)


async def test_older_heartbeat_changes_nothing(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    await database.run(lambda: sessions.write_beats([Beat(provider_id, 200, GpuReport(gpu_name="new"))]))
    await database.run(lambda: sessions.write_beats([Beat(provider_id, 100, GpuReport(gpu_name="old"))]))
    row = await provider_row(database, provider_id)
    assert (row.last_heartbeat_ms, row.gpu_model) == (200, "new")


async def test_heartbeat_without_a_status_keeps_the_last_one(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    report = GpuReport(gpu_name="NVIDIA RTX 4090", gpu_vram_mib=24576)
    await database.run(lambda: sessions.write_beats([Beat(provider_id, 100, report)]))
    await database.run(lambda: sessions.write_beats([Beat(provider_id, 200, None)]))
    row = await provider_row(database, provider_id)
    assert (row.last_heartbeat_ms, row.report, row.gpu_vram_mib) == (200, report, 24576)


async def test_server_that_starts_ends_the_sessions_of_the_one_before(database: Database, rows: Rows) -> None:
    drained, connected = await rows.provider(), await rows.provider()
    await database.run(lambda: sessions.set_draining(drained, 1))
    await database.run(sessions.end_all)
    for provider_id in (drained, connected):
        row = await provider_row(database, provider_id)
        assert (row.connected, row.draining) == (False, False)


async def test_two_transactions_do_not_lease_to_one_provider_at_once(postgres: Postgres) -> None:
    """The second waits for the first; on SQLite there is one writer."""
    async with databases.opened(postgres.empty_database()) as database:
        provider_id = await Rows(database).provider()
        entered, release = threading.Event(), threading.Event()

        def first() -> None:
            assert providers.lock(provider_id) == 1
            entered.set()
            assert release.wait(20)

        def waiting() -> int:
            query = (
                "SELECT COUNT(*) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return int(fetch_one(database, query)[0])

        leasing = asyncio.create_task(database.run(first))
        await asyncio.to_thread(entered.wait, 20)
        second = asyncio.create_task(database.run(lambda: providers.lock(provider_id)))
        while not second.done() and not await database.read(waiting):
            await asyncio.sleep(0)
        assert not second.done()
        release.set()
        await leasing
        assert await second == 1
