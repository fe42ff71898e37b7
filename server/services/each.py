"""Work on many items, of which one that fails holds up no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from server.domain.errors import STORE_FAULTS, DomainError
from server.store.database import Database, PartError, apart

log = logging.getLogger(__name__)

# As many as there are connections to PostgreSQL.
AT_ONCE = 8
Item = TypeVar("Item")
T = TypeVar("T")


async def each(what: str, items: Iterable[Item], act: Callable[[Item], Awaitable[object]]) -> None:
    """Acts on every item, then raises the first error, so that the caller's duty counts as failed.

    A fault of the database is raised at once: it would meet every item.
    """
    first: Exception | None = None
    for item in items:
        try:
            await act(item)
        except Exception as error:
            if isinstance(error, DomainError) and error.reason in STORE_FAULTS:
                raise
            log.warning("passed over one that failed what=%s item=%s error=%r", what, item, error)
            first = first or error
    if first is not None:
        raise first


async def side_by_side(what: str, items: Iterable[Item], act: Callable[[Item], Awaitable[object]]) -> None:
    """As ``each``, on several items at once: what waits for the database shares its syncs."""
    waiting = iter(items)
    ended = await asyncio.gather(*(each(what, waiting, act) for _ in range(AT_ONCE)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


def each_apart(
    what: str, works: Iterable[tuple[Item, Callable[[], T]]], known: Collection[Item] = ()
) -> tuple[list[T], dict[Item, PartError]]:
    """Does each work as a part of a write transaction: the values of those done, the errors of the others.

    Failures of ``known`` items were logged before, and are not logged again.
    """
    done: list[T] = []
    failed: dict[Item, PartError] = {}
    for item, work in works:
        try:
            done.append(apart(work))
        except PartError as error:
            if item not in known:
                log.warning("passed over one that failed what=%s item=%s error=%s", what, item, error)
            failed[item] = error
    return done, failed


async def together(
    database: Database,
    what: str,
    items: Sequence[Item],
    write: Callable[[Sequence[Item]], object],
    known: Collection[Item] = (),
) -> dict[Item, PartError]:
    """Writes items in one transaction; if the fault of one undoes it, each apart.

    Returns the errors of the items that could not be written; see ``raise_if_all``. Raises every fault of
    the database. Items that failed before, the ``known``, are written apart at once, and their failure is
    not logged again.
    """

    def write_apart(some: Iterable[Item]) -> dict[Item, PartError]:
        return each_apart(what, ((item, partial(write, [item])) for item in some), known)[1]

    def write_together() -> dict[Item, PartError]:
        write([item for item in items if item not in known])
        return write_apart(item for item in items if item in known)

    try:
        failed = await database.run(write_together)
    except DomainError:
        raise
    except Exception:
        failed = await database.run(lambda: write_apart(items))
    return failed


def raise_if_all(failed: Mapping[Item, PartError], items: Sequence[Item]) -> None:
    """Raises the first error if no item could be written, as then the fault may not be an item's."""
    if failed and len(failed) == len(items):
        raise next(iter(failed.values()))
