"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.store.database import Database
from tests.support import databases, running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A started database of each kind."""
    async with databases.opened(database_url) as database:
        yield database


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on SQLite."""
    async with running_server.running(sqlite_url, clock) as market:
        yield market


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database."""
    async with running_server.running(database_url, clock) as market:
        yield market


@pytest.fixture(autouse=True)
def no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is drawn for the newcomers, unless a test says so."""
    monkeypatch.setattr("server.services.jobs.secrets.randbelow", lambda _: 99)
