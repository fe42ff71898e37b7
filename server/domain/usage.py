"""Usage as plain values: what a renter's charged jobs used, by day, key and model. Money is in micros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from server.domain.errors import invalid_field, no_page

DEFAULT_DAYS = 30
MAX_DAYS = 400


class UsageGroup(StrEnum):
    """What rows can be by, in the order in which they are sorted."""

    DAY = "day"
    KEY = "key"
    MODEL = "model"


# The position of a row: its day, key and model, as far as the rows are by them.
Position: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What some jobs used."""

    position: Position
    key_name: str | None
    jobs: int
    input_tokens: int
    output_tokens: int
    billed_ms: int
    charge_micros: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The days, from the first to the last, counted from 1970, and what the rows are by."""

    first_day: int
    last_day: int
    groups: tuple[UsageGroup, ...]


def select(
    first_day: int | None, last_day: int | None, groups: Sequence[UsageGroup], today: int
) -> Selection:
    """The selection of a request, with its defaults. Raises INVALID_FIELD."""
    last = today if last_day is None else last_day
    first = last - DEFAULT_DAYS + 1 if first_day is None else first_day
    if first > last:
        raise invalid_field("from", "is later than `to`, whose default is today; send an earlier day")
    if last - first >= MAX_DAYS:
        raise invalid_field(
            "from", f"is {last - first + 1} days before the end of `to`; at most {MAX_DAYS} are allowed"
        )
    return Selection(first, last, tuple(group for group in UsageGroup if group in groups or not groups))


def write_position(position: Position) -> str:
    """A position as a text for clients."""
    return ":".join(map(str, position))


def read_position(text: str, groups: Sequence[UsageGroup]) -> Position | None:
    """The position of a text; None of an empty one. Raises PAGE_NOT_FOUND."""
    if not text:
        return None
    parts = text.split(":", len(groups) - 1)
    numbers = [part for part, group in zip(parts, groups, strict=False) if group is not UsageGroup.MODEL]
    if len(parts) != len(groups) or not all(_is_number(part) for part in numbers):
        raise no_page("after")
    pairs = zip(parts, groups, strict=True)
    return tuple(part if group is UsageGroup.MODEL else int(part) for part, group in pairs)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
