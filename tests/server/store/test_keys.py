"""Keys are found by their digest."""

from __future__ import annotations

from server.store import keys
from server.store.database import Database
from server.store.keys import KeyOwner
from tests.server.store.rows import NOW_MS


async def test_key_is_found_only_by_its_digest(database: Database) -> None:
    await database.run(lambda: keys.add("renter", 7, b"d" * 32, "last", NOW_MS))
    assert await database.read(lambda: keys.find(b"d" * 32)) == KeyOwner("renter", 7, 1)
    assert await database.read(lambda: keys.find(b"e" * 32)) is None
