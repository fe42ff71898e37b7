"""A provider's terms: its own rates, and its settings for hours, temperature and memory.

Pure: the time is an argument. Hours are local times of the provider's time zone: an hour that a change to
summer time skips does not exist on that day, and an hour that occurs twice counts twice. The bounds of own
rates are checked when a rate is set; a later change of the platform's rates does not change own rates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobType
from server.domain.pricing import NO_PRICES, Price, Prices, TimePrice, TokenPrice, words

# The bounds of an own rate, in percent of the platform's rate.
LEAST_PERCENT = 50
MOST_PERCENT = 300
# A GPU that was too hot takes jobs again when it is this many degrees below its limit.
COOL_DEGREES = 5
DAY_MINUTES = 24 * 60
# How many days ahead the next opening is searched: every weekday once, and a change of the clocks.
HORIZON_DAYS = 8


class Weekday(IntEnum):
    """The days, numbered as ``datetime`` numbers them."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


@dataclass(frozen=True, slots=True)
class Spread:
    """How some rates are spread, in halala per minute: each figure is one of them."""

    count: int
    lowest: int
    lower_quartile: int
    median: int
    upper_quartile: int
    highest: int


def spread(rates: Iterable[int]) -> Spread | None:
    """The least rates that none, a quarter, half, three quarters and all of some do not exceed."""
    ordered = sorted(rates)
    if not ordered:
        return None
    count = len(ordered)
    return Spread(count, *(ordered[max(0, -(-count * part // 4) - 1)] for part in range(5)))


@dataclass(frozen=True, slots=True)
class Window:
    """Hours that begin on each of these days; an end that is not after the start is on the next day."""

    days: frozenset[Weekday]
    start_minute: int
    end_minute: int

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether a local time is within the hours."""
        if self.start_minute < self.end_minute:
            return weekday in self.days and self.start_minute <= minute < self.end_minute
        began_today = weekday in self.days and minute >= self.start_minute
        return began_today or ((weekday - 1) % 7 in self.days and minute < self.end_minute)


@dataclass(frozen=True, slots=True)
class Settings:
    """When and under which conditions the owner lets a machine take jobs; by default without restriction."""

    hours: tuple[Window, ...] = ()
    """Empty means always."""
    timezone: str = ""
    """The time zone of the hours, as an IANA name."""
    max_temp_c: int | None = None
    vram_reserve_mib: int = 0

    def is_open(self, at_ms: int) -> bool:
        """Whether the machine takes jobs at a time (ms since 1970)."""
        return not self.hours or self._is_open(datetime.fromtimestamp(at_ms / 1000, ZoneInfo(self.timezone)))

    def _is_open(self, local: datetime) -> bool:
        minute = local.hour * 60 + local.minute
        return any(window.holds(local.weekday(), minute) for window in self.hours)

    def opens(self, at_ms: int) -> datetime | None:
        """When the machine takes jobs again, in its zone's local time; None if it does now, or never does."""
        if self.is_open(at_ms):
            return None
        zone = ZoneInfo(self.timezone)
        now = datetime.fromtimestamp(at_ms / 1000, UTC)
        later = sorted(moment for moment in self._changes(now, zone) if moment > now)
        return next((m.astimezone(zone) for m in later if self._is_open(m.astimezone(zone))), None)

    def _changes(self, now: datetime, zone: ZoneInfo) -> set[datetime]:
        """All times at which the hours may begin: their starts, and the changes of the clocks."""
        today = now.astimezone(zone).date()
        days = [today + timedelta(days=number) for number in range(HORIZON_DAYS + 1)]
        found = {
            _on(day, window.start_minute, zone, fold).astimezone(UTC)
            for day in days
            for window in self.hours
            for fold in (0, 1)
        }
        for day in days:
            if (change := _change_of_clocks(day, zone)) is not None:
                found.add(change)
        return found

    def is_too_hot(self, was_too_hot: bool, temp_c: float | None) -> bool:
        """Whether the GPU is too hot for another job; it then has to cool to 5 degrees below the limit."""
        if self.max_temp_c is None or temp_c is None:
            return False
        return temp_c > self.max_temp_c - (COOL_DEGREES if was_too_hot else 0)


NO_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Terms:
    """A provider's own prices and its settings."""

    prices: Prices = NO_PRICES
    settings: Settings = NO_SETTINGS


NO_TERMS = Terms()


def opening_words(opens: datetime | None, timezone: str, at_ms: int) -> str:
    """The next opening, for a person: `at 08:00 Asia/Riyadh`, with the weekday if it is not today."""
    if opens is None:
        return f"within its hours, {timezone}"
    same_day = opens.date() == datetime.fromtimestamp(at_ms / 1000, opens.tzinfo).date()
    day = "" if same_day else f"on {Weekday(opens.weekday()).name.capitalize()} "
    return f"{day}at {opens:%H:%M} {timezone}"


def bounds(card: int) -> tuple[int, int]:
    """The lowest and highest own amount for one of the platform, whole and within the percentages."""
    return -(-card * LEAST_PERCENT // 100), card * MOST_PERCENT // 100


def price_bounds(card: Price) -> tuple[Price, Price]:
    """The lowest and the highest own price for one of the platform, part by part."""
    if isinstance(card, TimePrice):
        least, most = bounds(card.micros_per_hour)
        return TimePrice(least), TimePrice(most)
    parts = [bounds(part) for part in (card.prompt, card.cached, card.completion)]
    return TokenPrice(*(least for least, _ in parts)), TokenPrice(*(most for _, most in parts))


def check_price(price: Price, card: Price | None, what: str) -> None:
    """Raises RATE_OUT_OF_BOUNDS if an own price is outside the bounds, or the platform has none."""
    if card is None:
        raise DomainError(
            Reason.RATE_OUT_OF_BOUNDS,
            f"{what}: the platform has no price for it, so there is no own one; GET /api/prices lists those "
            "that it has",
            field=what,
        )
    least, most = price_bounds(card)
    if not (least.is_within(price) and price.is_within(most)):
        raise DomainError(
            Reason.RATE_OUT_OF_BOUNDS,
            f"{what}: each part of an own price must be from {LEAST_PERCENT} % to {MOST_PERCENT} % of the "
            f"platform's; from {words(least)} to {words(most)}",
            field=what,
        )


def check_rate(kind: JobType, halala_per_minute: int, card_halala_per_minute: int) -> None:
    """Raises RATE_OUT_OF_BOUNDS, with the bounds, if an own rate is outside them."""
    least, most = bounds(card_halala_per_minute)
    if not least <= halala_per_minute <= most:
        raise DomainError(
            Reason.RATE_OUT_OF_BOUNDS,
            f"halala_per_minute: a rate for {kind.value} must be from {least} to {most} halala per minute, "
            f"{LEAST_PERCENT} % to {MOST_PERCENT} % of the platform's {card_halala_per_minute}",
            field="halala_per_minute",
        )


def is_timezone(name: str) -> bool:
    """Whether ``name`` is an IANA time zone."""
    return name in _zones()


def window(days: Iterable[Weekday], start: str, end: str) -> Window:
    """Hours between two times of day, on ``days`` or, if empty, on every day. Raises ValueError."""
    return Window(frozenset(days) or frozenset(Weekday), minute_of(start), minute_of(end))


def time_of_day(minute: int) -> str:
    """A minute of the day as text, such as `08:00`."""
    return f"{minute // 60:02}:{minute % 60:02}"


def minute_of(text: str) -> int:
    """The minute of a time of day such as `08:00`; `24:00` is the end of the day. Raises ValueError."""
    hours, colon, minutes = text.partition(":")
    plain = len(text) == 5 and colon and text.isascii() and hours.isdigit() and minutes.isdigit()
    minute = int(hours) * 60 + int(minutes) if plain and int(minutes) < 60 else DAY_MINUTES + 1
    if minute > DAY_MINUTES:
        raise ValueError("must be a time of day such as 08:00, from 00:00 to 24:00")
    return minute


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime"}


def _on(day: date, minute: int, zone: ZoneInfo, fold: int = 0) -> datetime:
    time = datetime.combine(day, datetime.min.time()) + timedelta(minutes=minute)
    return time.replace(tzinfo=zone, fold=fold)


def _change_of_clocks(day: date, zone: ZoneInfo) -> datetime | None:
    """When the zone's offset from UTC changes on a day, to the minute; None if it does not."""
    low, high = (_on(date_, 0, zone).astimezone(UTC) for date_ in (day, day + timedelta(days=1)))
    before = low.astimezone(zone).utcoffset()
    if high.astimezone(zone).utcoffset() == before:
        return None
    while high - low > timedelta(minutes=1):
        middle = low + (high - low) // 2
        middle = middle.replace(second=0, microsecond=0)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
