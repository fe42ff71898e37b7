"""A provider's terms: hours by local time, temperature with hysteresis, bounds of own rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.errors import DomainError
from server.domain.jobs import JobType
from server.domain.terms import (
    DAY_MINUTES,
    HORIZON_DAYS,
    Settings,
    Weekday,
    Window,
    bounds,
    check_rate,
    is_timezone,
    opening_words,
    time_of_day,
    window,
)

MINUTE_MS = 60_000
NIGHT = window([Weekday.FRIDAY], "22:00", "06:00")


def local_ms(zone: str, text: str, fold: int = 0) -> int:
    """A local time in this zone, as milliseconds since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("hours", "zone", "text", "is_open"),
    [
        # 2026-01-02 is a Friday.
        ((), "", "2026-01-02T12:00", True),
        ((NIGHT,), "Asia/Riyadh", "2026-01-02T21:59", False),
        ((NIGHT,), "Asia/Riyadh", "2026-01-02T22:00", True),
        ((NIGHT,), "Asia/Riyadh", "2026-01-03T05:59", True),
        ((NIGHT,), "Asia/Riyadh", "2026-01-03T06:00", False),
        ((NIGHT,), "Asia/Riyadh", "2026-01-02T03:00", False),  # this night began on a Thursday
        ((window([Weekday.SUNDAY], "23:00", "01:00"),), "UTC", "2026-01-05T00:30", True),  # week wrap
        ((window([], "00:00", "24:00"),), "UTC", "2026-01-04T23:59", True),
        ((window([Weekday.SATURDAY], "00:00", "24:00"),), "UTC", "2026-01-04T00:00", False),
        ((window([Weekday.SATURDAY], "22:00", "22:00"),), "UTC", "2026-01-04T21:59", True),  # round the clock
        ((window([Weekday.SATURDAY], "22:00", "22:00"),), "UTC", "2026-01-04T22:00", False),
        ((window([], "09:00", "10:00"), NIGHT), "UTC", "2026-01-05T09:30", True),
    ],
)
def test_hours_follow_local_time(hours: tuple[Window, ...], zone: str, text: str, is_open: bool) -> None:
    assert Settings(hours, zone).is_open(local_ms(zone or "UTC", text)) is is_open


@pytest.mark.parametrize(
    ("hours", "zone", "now", "words"),
    [
        (("08:00", "17:00"), "Asia/Riyadh", "2026-01-02T07:00", "at 08:00 Asia/Riyadh"),
        (("08:00", "17:00"), "Asia/Riyadh", "2026-01-02T17:00", "on Saturday at 08:00 Asia/Riyadh"),
        # Berlin's clocks leave out 02:00 to 03:00 on 2026-03-29: hours that would begin then begin at 03:00.
        (("02:30", "05:00"), "Europe/Berlin", "2026-03-29T01:00", "at 03:00 Europe/Berlin"),
        # They show 02:00 to 03:00 twice on 2026-10-25: hours from 02:30 begin twice.
        (("02:30", "03:00"), "Europe/Berlin", "2026-10-25T01:00", "at 02:30 Europe/Berlin"),
    ],
)
def test_next_opening_is_described_in_words(hours: tuple[str, str], zone: str, now: str, words: str) -> None:
    schedule = Settings((window([], *hours),), zone)
    now_ms = local_ms(zone, now)
    assert opening_words(schedule.opens(now_ms), zone, now_ms) == words


def test_hours_within_a_repeated_clock_hour_begin_twice() -> None:
    schedule = Settings((window([], "02:30", "02:45"),), "Europe/Berlin")
    first, second = (local_ms("Europe/Berlin", "2026-10-25T02:30", fold) for fold in (0, 1))
    assert second - first == 60 * MINUTE_MS
    between = first + 20 * MINUTE_MS
    assert (schedule.is_open(first), schedule.is_open(between), schedule.is_open(second)) == (
        True,
        False,
        True,
    )
    opens = schedule.opens(between)
    assert opens is not None
    assert round(opens.timestamp() * 1000) == second


def test_hours_within_a_skipped_clock_hour_have_no_opening() -> None:
    """The only Sunday within the next eight days is the one on which the clocks skip these minutes."""
    schedule = Settings((window([Weekday.SUNDAY], "02:00", "02:30"),), "Europe/Berlin")
    opens = schedule.opens(local_ms("Europe/Berlin", "2026-03-22T12:00"))
    assert opens is None
    assert opening_words(None, schedule.timezone, 0) == "within its hours, Europe/Berlin"


ZONES = ["UTC", "Asia/Riyadh", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe"]
MINUTES = st.integers(0, DAY_MINUTES - 1)
WINDOWS = st.builds(
    lambda days, start, length: Window(days, start, (start + length) % DAY_MINUTES or DAY_MINUTES),
    st.frozensets(st.sampled_from(Weekday), min_size=1),
    MINUTES,
    st.integers(1, DAY_MINUTES - 1),
)
# Around the clock changes of 2026, and days without a change.
MOMENTS = st.builds(
    lambda day, minutes: round((day + timedelta(minutes=minutes)).timestamp() * 1000),
    st.sampled_from(
        [
            datetime(2026, month, day, tzinfo=UTC)
            for month, day in [
                (1, 1),
                (3, 6),
                (3, 27),
                (4, 2),
                (4, 23),
                (10, 2),
                (10, 23),
                (10, 30),
                (12, 29),
            ]
        ]
    ),
    st.integers(0, 4 * DAY_MINUTES),
)


@settings(max_examples=40)
@given(st.lists(WINDOWS, min_size=1, max_size=3), st.sampled_from(ZONES), MOMENTS)
def test_next_opening_is_the_first_open_minute(hours: list[Window], zone: str, now_ms: int) -> None:
    """Also across clock changes: the result is that of a search minute by minute."""
    schedule = Settings(tuple(hours), zone)
    opens = schedule.opens(now_ms)
    if schedule.is_open(now_ms):
        assert opens is None
        return
    later = range(now_ms + MINUTE_MS, now_ms + (HORIZON_DAYS - 1) * DAY_MINUTES * MINUTE_MS, MINUTE_MS)
    first = next((minute for minute in later if schedule.is_open(minute)), None)
    assert opens is not None or first is None
    if first is not None:
        assert opens is not None
        assert round(opens.timestamp() * 1000) == first


@given(st.lists(WINDOWS, min_size=1, max_size=3), st.integers(0, 7 * DAY_MINUTES - 1), st.integers(1, 4))
def test_hours_repeat_every_week(hours: list[Window], minute: int, weeks: int) -> None:
    """In a zone without clock changes, whichever day the window began."""
    schedule = Settings(tuple(hours), "Asia/Riyadh")
    now_ms = local_ms("Asia/Riyadh", "2026-01-05T00:00") + minute * MINUTE_MS
    assert schedule.is_open(now_ms) is schedule.is_open(now_ms + weeks * 7 * DAY_MINUTES * MINUTE_MS)
    weekday, of_day = divmod(minute, DAY_MINUTES)
    expected = False
    for window_ in hours:
        length = (window_.end_minute - window_.start_minute) % DAY_MINUTES or DAY_MINUTES
        starts = [day * DAY_MINUTES + window_.start_minute for day in window_.days]
        now = weekday * DAY_MINUTES + of_day
        expected |= any((now - start) % (7 * DAY_MINUTES) < length for start in starts)
    assert schedule.is_open(now_ms) is expected


@given(MINUTES)
def test_time_of_day_is_read_back_as_written(minute: int) -> None:
    assert window([], time_of_day(minute), "24:00").start_minute == minute


@pytest.mark.parametrize("name", ["Mars/Base", "../etc/passwd", "Asia", "localtime", "asia/riyadh", "+03:00"])
def test_text_that_is_not_a_time_zone_is_refused(name: str) -> None:
    assert not is_timezone(name)
    assert is_timezone("Asia/Riyadh")


@pytest.mark.parametrize(
    ("readings", "too_hot"),
    [
        ([80], [False]),
        ([80.5], [True]),
        ([81, 80, 76, 75, 79, 80], [True, True, True, False, False, False]),
        ([None, 90, None], [False, True, False]),
    ],
)
def test_hot_gpu_has_to_cool_down_by_five_degrees(readings: list[float | None], too_hot: list[bool]) -> None:
    limited, is_too_hot, states = Settings(max_temp_c=80), False, []
    for reading in readings:
        is_too_hot = limited.is_too_hot(is_too_hot, reading)
        states.append(is_too_hot)
    assert states == too_hot
    assert not Settings().is_too_hot(True, 120)


@pytest.mark.parametrize(("platform_rate", "least", "most"), [(150, 75, 450), (101, 51, 303), (1, 1, 3)])
def test_own_rates_are_between_half_and_three_times_the_platforms_rate(
    platform_rate: int, least: int, most: int
) -> None:
    assert bounds(platform_rate) == (least, most)
    for rate in (least, most):
        check_rate(JobType.TRAINING, rate, platform_rate)
    for rate in (least - 1, most + 1):
        with pytest.raises(DomainError, match=rf"from {least} to {most} .* training|training .*{least}"):
            check_rate(JobType.TRAINING, rate, platform_rate)
