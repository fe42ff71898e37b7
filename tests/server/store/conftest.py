"""Fixtures of the store's tests: accounts, jobs and leases as rows."""

from __future__ import annotations

import pytest

from server.store.database import Database
from tests.server.store.rows import Rows


@pytest.fixture
def rows(database: Database) -> Rows:
    """Creates rows in the test's database."""
    return Rows(database)
