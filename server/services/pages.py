"""Pages by key: each continues where the previous page ended, even if rows were added in between."""

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
    """Rows, newest first, and the ``before_id`` of the next page; None at the end."""

    rows: list[T]
    next_before_id: int | None


def read_page(query: Callable[..., list[T]], *arguments: Any, limit: int) -> Page[T]:
    """Reads one page, and one row more, which shows whether another page follows."""
    rows = query(*arguments, limit + 1)
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)
