"""Pages by key: each continues where the previous page ended, even if rows were added in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...


T = TypeVar("T")
N = TypeVar("N", bound=_Numbered)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows in the order of their ids, and the id with which the next page continues; None at the end."""

    rows: list[T]
    next_id: int | None


def read_page(query: Callable[..., list[N]], *arguments: Any, limit: int) -> Page[N]:
    """Reads one page, and one row more, which shows whether another page follows."""
    return first_page(query(*arguments, limit + 1), limit)


def first_page(rows: list[N], limit: int) -> Page[N]:
    """The page of rows that were read with one row more."""
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)
