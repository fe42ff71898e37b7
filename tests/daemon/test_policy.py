"""The provider's own rules: windows of the week, heat, memory that stays free."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from dcp.v1 import gpus_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.policy import MINUTES, Rules, Schedule, Window, parse_schedule, refusal, stricter

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
NOON = MONDAY + timedelta(hours=12)
RIYADH = ZoneInfo("Asia/Riyadh")

minutes = st.integers(0, MINUTES - 1)
windows = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    minutes,
    st.integers(1, MINUTES),
).filter(lambda window: window.start != window.end)
moments = st.integers(0, 7 * MINUTES - 1).map(lambda minute: MONDAY + timedelta(minutes=minute))


def gpu(index: int = 0, **figures: float) -> gpus_pb2.GpuDevice:
    return gpus_pb2.GpuDevice(index=index, **figures)  # type: ignore[arg-type]


def status(*gpus: gpus_pb2.GpuDevice) -> gpus_pb2.GpuStatus:
    return gpus_pb2.GpuStatus(gpu_count=len(gpus), all_gpus=gpus)


@given(windows, moments)
def test_window_is_open_in_the_minutes_that_follow_its_starts(window: Window, moment: datetime) -> None:
    """Told in another way: by walking from each start of the week, for as long as the window lasts."""
    length = (window.end - window.start) % MINUTES or MINUTES
    now = moment.weekday() * MINUTES + moment.hour * 60 + moment.minute
    expected = any((now - (day * MINUTES + window.start)) % (7 * MINUTES) < length for day in window.days)
    assert window.contains(moment) is expected


@given(windows, moments, st.integers(-14, 14))
def test_schedule_follows_the_clocks_of_its_place(window: Window, moment: datetime, hours: int) -> None:
    from datetime import timezone

    there = timezone(timedelta(hours=hours))
    local = moment.replace(tzinfo=there)
    assert Schedule((window,), there).is_open(local.astimezone(UTC)) is window.contains(local)


@given(st.lists(windows, min_size=1), st.lists(windows, min_size=1), moments)
def test_stricter_is_open_only_when_both_are(
    mine: list[Window], theirs: list[Window], moment: datetime
) -> None:
    one, other = (Rules(schedules=(Schedule(tuple(some)),)) for some in (mine, theirs))
    both = not refusal(one, None, moment) and not refusal(other, None, moment)
    assert (not refusal(stricter(one, other), None, moment)) is both


@given(
    st.one_of(st.none(), st.floats(30, 120)),
    st.one_of(st.none(), st.floats(30, 120)),
    st.integers(0, 90_000),
    st.integers(0, 90_000),
    st.floats(20, 130),
    st.integers(0, 90_000),
)
def test_what_the_stricter_takes_each_takes(
    cap: float | None, other_cap: float | None, reserve: int, other_reserve: int, temp: float, free: int
) -> None:
    one, other = Rules(cap, reserve), Rules(other_cap, other_reserve)
    reading = status(gpu(temp_c=temp, free_vram_mib=free))
    refused = [bool(refusal(rules, reading, NOON)) for rules in (one, other)]
    assert bool(refusal(stricter(one, other), reading, NOON)) is any(refused)


def test_nothing_set_takes_everything() -> None:
    for reading in (None, status(), status(gpu(temp_c=110, free_vram_mib=0))):
        assert refusal(Rules(), reading, NOON) == ""
    assert stricter() == Rules()


@pytest.mark.parametrize(
    ("text", "day", "hour", "is_open"),
    [
        ("Mon-Fri 20:00-08:00", 0, 19, False),
        ("Mon-Fri 20:00-08:00", 0, 20, True),
        ("Mon-Fri 20:00-08:00", 0, 7, False),  # Sunday's evening is not in it
        ("Mon-Fri 20:00-08:00", 5, 7, True),  # Friday's evening goes on into Saturday
        ("Mon-Fri 20:00-08:00", 5, 8, False),
        ("Sat-Mon 00:00-24:00", 6, 23, True),
        ("Sat-Mon 00:00-24:00", 1, 0, False),
        ("8:30-17:00", 3, 16, True),
        ("8:30-17:00", 3, 8, False),
        ("mon 00:00-01:00, tue 00:00-01:00", 1, 0, True),
    ],
)
def test_written_windows(text: str, day: int, hour: int, is_open: bool) -> None:
    schedule = parse_schedule(text, UTC)
    assert schedule.is_open(MONDAY + timedelta(days=day, hours=hour)) is is_open


def test_zone_moves_the_window() -> None:
    schedule = parse_schedule("20:00-22:00", RIYADH)
    assert schedule.is_open(MONDAY + timedelta(hours=17))
    assert not schedule.is_open(MONDAY + timedelta(hours=20))


@pytest.mark.parametrize(
    "text",
    [
        "always",
        "Mon",
        "Mon 8-17",
        "Mon 08:00-08:00",
        "Foo 08:00-09:00",
        "24:00-08:00",
        "08:60-09:00",
        "08:00-25:00",
    ],
)
def test_windows_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_schedule(text, UTC)


def test_hottest_gpu_decides() -> None:
    rules = Rules(max_temp_c=80)
    assert refusal(rules, status(gpu(temp_c=79.5), gpu(1, temp_c=60)), NOON) == ""
    assert refusal(rules, status(gpu(temp_c=60), gpu(1, temp_c=80)), NOON).startswith("GPU 1 has 80 °C")


def test_rule_that_cannot_be_judged_keeps_jobs_out() -> None:
    unknown = gpus_pb2.GpuStatus()  # a driver that is gone tells not even a count
    for reading in (None, unknown, status(gpu())):
        assert "cannot be read" in refusal(Rules(max_temp_c=80), reading, NOON)
        assert "must be free" in refusal(Rules(vram_reserve_mib=1), reading, NOON)


def test_machine_without_gpus_has_none_to_spare() -> None:
    assert refusal(Rules(max_temp_c=80, vram_reserve_mib=1024), status(), NOON) == ""


def test_reserve_stays_free_on_each_gpu_that_the_job_wants() -> None:
    rules = Rules(vram_reserve_mib=2000)
    reading = status(gpu(free_vram_mib=8000), gpu(1, free_vram_mib=5000))
    assert refusal(rules, reading, NOON, vram_required_mib=6000) == ""
    assert refusal(rules, reading, NOON, vram_required_mib=6001) != ""
    assert refusal(rules, reading, NOON, vram_required_mib=3000, gpu_count=2) == ""
    assert refusal(rules, reading, NOON, vram_required_mib=3001, gpu_count=2) != ""
