"""What uploads and downloads have in common: how many of an account run at once, and a store that is away."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from server.domain.errors import DomainError, Reason

T = TypeVar("T")
RETRY_SECONDS = 5


@contextlib.contextmanager
def slot(taken: Counter[T], owner: T, most: int, kind: str) -> Iterator[None]:
    """Occupies one of the ``most`` slots of ``owner``. Raises OVERLOADED."""
    if taken[owner] >= most:
        raise DomainError(
            Reason.OVERLOADED,
            f"{most} {kind} of this account are in progress, the most at once; wait until one has ended",
            retry_after_seconds=RETRY_SECONDS,
        )
    taken[owner] += 1
    try:
        yield
    finally:
        taken[owner] -= 1
        if not taken[owner]:
            del taken[owner]


def unavailable() -> DomainError:
    """The error of a store of files that cannot be used now."""
    return DomainError(
        Reason.STORE_UNAVAILABLE, "the store of files cannot be used now; nothing was changed, try again"
    )
