"""What a server knows of the sessions on record, beside what its own streams tell."""

from __future__ import annotations

from server.store import providers
from server.store.models import Provider
from tests.support import running_server
from tests.support.databases import Postgres
from tests.support.manual_clock import ManualClock


async def test_session_whose_stream_never_came_ends_after_two_looks(
    postgres: Postgres, clock: ManualClock
) -> None:
    """Its Hello was stored, but nobody learned of it, since the answer to its COMMIT was lost."""
    async with running_server.running(postgres.empty_database(), clock) as market:
        lost, well = await market.provider(), await market.provider()
        await market.daemon(well)
        services = market.server.services

        def store() -> None:
            Provider.update(connected=True, server_id=services.servers.id).where(
                Provider.id == lost.id
            ).execute()

        await market.sql(store)
        connected = {}
        for look in range(3):
            await services.neighbours._look()
            rows = await market.sql(lambda: providers.by_ids([lost.id, well.id]))
            connected[look] = [row.connected for row in rows]
        assert connected[2] == [False, True]
