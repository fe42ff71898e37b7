"""Work on many items, of which one that fails holds up no other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from server.domain.errors import STORE_FAULTS, DomainError

log = logging.getLogger(__name__)
Item = TypeVar("Item")


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
