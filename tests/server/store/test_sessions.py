"""Sessions have increasing epochs, and an older heartbeat never replaces a newer one."""

from __future__ import annotations

from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.store import providers, sessions
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.sessions import Beat
from tests.server.store.rows import NOW_MS, Rows


async def provider_row(database: Database, provider_id: int) -> ProviderRow:
    row = await database.read(lambda: providers.get(provider_id))
    assert row is not None
    return row


async def test_every_session_has_the_next_epoch(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    epochs = [
        await database.run(lambda: sessions.begin(provider_id, [JobType.TRAINING], NOW_MS)) for _ in range(3)
    ]
    assert epochs == [2, 3, 4]
    row = await provider_row(database, provider_id)
    assert (row.connected, row.job_types) == (True, frozenset({JobType.TRAINING}))


async def test_end_of_an_older_session_changes_nothing(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    await database.run(lambda: sessions.begin(provider_id, JobType, NOW_MS))
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
