"""Work on many items: one that fails holds up no other, and is not forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from server.domain.errors import DomainError, Reason
from server.services.each import each, raise_if_all, together
from server.store.database import Database, PartError
from server.store.models import Provider
from tests.server.store.rows import Rows


async def test_item_that_fails_holds_up_no_other_and_its_error_is_raised_at_the_end() -> None:
    done: list[int] = []

    async def act(item: int) -> None:
        if item % 2:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="1"):
        await each("a number", range(5), act)
    assert done == [0, 2, 4]


async def test_store_that_cannot_be_reached_ends_the_work() -> None:
    done: list[int] = []

    async def act(item: int) -> None:
        done.append(item)
        raise DomainError(Reason.STORE_UNAVAILABLE, "down")

    with pytest.raises(DomainError, match="down"):
        await each("a number", range(5), act)
    assert done == [0]


class Names:
    """Writes new names of providers, which must be in a state that the database allows."""

    def __init__(self, database: Database, broken: Sequence[int]) -> None:
        self._database = database
        self._broken = broken
        self.writes: list[list[int]] = []

    def __call__(self, ids: Sequence[int]) -> None:
        self.writes.append(list(ids))
        for id_ in ids:
            state = "no such state" if id_ in self._broken else "active"
            Provider.update(name="new", state=state).where(Provider.id == id_).execute()

    async def written(self) -> list[int]:
        query = Provider.select(Provider.id).where(Provider.name == "new").order_by(Provider.id)
        return await self._database.read(lambda: [row.id for row in query])


@pytest.fixture
async def ids(database: Database) -> list[int]:
    rows = Rows(database)
    return [await rows.provider() for _ in range(4)]


async def test_item_that_cannot_be_written_holds_up_no_other(
    database: Database, ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    write = Names(database, ids[1:2])
    known: dict[int, PartError] = {}
    for _ in range(2):
        known = await together(database, "a name", ids, write, known)
        assert list(known) == ids[1:2]
    assert await write.written() == [ids[0], *ids[2:]]
    assert len([text for text in caplog.messages if "what=a name" in text]) == 1
    # First all, then each; the second time the broken one apart, so that it does not undo the others.
    assert write.writes == [ids, *([id_] for id_ in ids), [ids[0], *ids[2:]], ids[1:2]]


async def test_items_that_can_be_written_are_written_at_once(database: Database, ids: list[int]) -> None:
    write = Names(database, [])
    assert await together(database, "a name", ids, write) == {}
    assert (await write.written(), write.writes) == (ids, [ids])


async def test_fault_that_meets_every_item_is_raised(database: Database, ids: list[int]) -> None:
    write = Names(database, ids)
    failed = await together(database, "a name", ids, write)
    with pytest.raises(PartError):
        raise_if_all(failed, ids)
    assert await write.written() == []


async def test_fault_of_the_database_ends_the_writing_of_items(database: Database, ids: list[int]) -> None:
    done: list[Sequence[int]] = []

    def write(some: Sequence[int]) -> None:
        done.append(some)
        raise DomainError(Reason.STORE_UNAVAILABLE, "down")

    with pytest.raises(DomainError, match="down"):
        await together(database, "a name", ids, write)
    assert done == [ids]
