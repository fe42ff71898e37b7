"""Running servers for the tests of exported and deleted accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Market]:
    """A running server on each kind of database, with top-ups, webhooks and a file store."""
    async with running_server.running(
        database_url,
        clock,
        webhooks_allow_private=True,
        sandbox_topup=True,
        blob_store=f"file:{tmp_path / 'blobs'}",
    ) as market:
        yield market


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Market]:
    """A running server on SQLite, with top-ups, webhooks and a file store."""
    async with running_server.running(
        sqlite_url,
        clock,
        webhooks_allow_private=True,
        sandbox_topup=True,
        blob_store=f"file:{tmp_path / 'blobs'}",
    ) as market:
        yield market
