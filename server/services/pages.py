"""Pages by key: each goes on where the one before ended, whatever was added in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...


T = TypeVar("T", bound=_Numbered)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, newest first, and the id to ask for the next page with; None at the end."""

    rows: list[T]
    next_before_id: int | None


def read_page(query: Callable[..., list[T]], *arguments: Any, limit: int) -> Page[T]:
    """Asks for one row more than fits, to know whether there is another page."""
    rows = query(*arguments, limit + 1)
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)
