"""The provider's own rules: weekly hours, temperature, reserved memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dcp.v1 import gpus_pb2, terms_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.machine.policy import (
    MINUTES,
    Rules,
    Schedule,
    Window,
    parse_schedule,
    refusal,
    rules_of,
    stricter,
)
from server.domain.terms import Settings, Weekday, time_of_day
from server.domain.terms import window as server_window
from server.rpc.terms import settings_message

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
def test_window_is_open_for_its_length_after_each_start(window: Window, moment: datetime) -> None:
    """The expected value is computed from each start of the week and the window's length."""
    length = (window.end - window.start) % MINUTES or MINUTES
    now = moment.weekday() * MINUTES + moment.hour * 60 + moment.minute
    expected = any((now - (day * MINUTES + window.start)) % (7 * MINUTES) < length for day in window.days)
    assert window.contains(moment) is expected


@given(windows, moments, st.integers(-14, 14))
def test_schedule_follows_local_time(window: Window, moment: datetime, hours: int) -> None:
    from datetime import timezone

    zone = timezone(timedelta(hours=hours))
    local = moment.replace(tzinfo=zone)
    assert Schedule((window,), zone).is_open(local.astimezone(UTC)) is window.contains(local)


@given(st.lists(windows, min_size=1), st.lists(windows, min_size=1), moments)
def test_stricter_rules_are_open_only_when_both_are(
    mine: list[Window], theirs: list[Window], moment: datetime
) -> None:
    own, other = (Rules(schedules=(Schedule(tuple(windows)),)) for windows in (mine, theirs))
    both = not refusal(own, None, moment) and not refusal(other, None, moment)
    assert (not refusal(stricter(own, other), None, moment)) is both


@given(
    st.one_of(st.none(), st.floats(30, 120)),
    st.one_of(st.none(), st.floats(30, 120)),
    st.integers(0, 90_000),
    st.integers(0, 90_000),
    st.floats(20, 130),
    st.integers(0, 90_000),
)
def test_stricter_rules_accept_only_what_both_accept(
    cap: float | None, other_cap: float | None, reserve: int, other_reserve: int, temp: float, free: int
) -> None:
    own, other = Rules(cap, reserve), Rules(other_cap, other_reserve)
    reading = status(gpu(temp_c=temp, free_vram_mib=free))
    refused = [bool(refusal(rules, reading, NOON)) for rules in (own, other)]
    assert bool(refusal(stricter(own, other), reading, NOON)) is any(refused)


def test_without_rules_every_job_is_accepted() -> None:
    for reading in (None, status(), status(gpu(temp_c=110, free_vram_mib=0))):
        assert refusal(Rules(), reading, NOON) == ""
    assert stricter() == Rules()


@pytest.mark.parametrize(
    ("text", "day", "hour", "is_open"),
    [
        ("Mon-Fri 20:00-08:00", 0, 19, False),
        ("Mon-Fri 20:00-08:00", 0, 20, True),
        ("Mon-Fri 20:00-08:00", 0, 7, False),  # Sunday evening does not belong to it
        ("Mon-Fri 20:00-08:00", 5, 7, True),  # Friday evening continues into Saturday
        ("Mon-Fri 20:00-08:00", 5, 8, False),
        ("Sat-Mon 00:00-24:00", 6, 23, True),
        ("Sat-Mon 00:00-24:00", 1, 0, False),
        ("8:30-17:00", 3, 16, True),
        ("8:30-17:00", 3, 8, False),
        ("mon 00:00-01:00, tue 00:00-01:00", 1, 0, True),
    ],
)
def test_windows_are_parsed(text: str, day: int, hour: int, is_open: bool) -> None:
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
        "Foo 08:00-09:00",
        "24:00-08:00",
        "08:60-09:00",
        "08:00-25:00",
    ],
)
def test_malformed_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_schedule(text, UTC)


def test_hottest_gpu_decides() -> None:
    rules = Rules(max_temp_c=80)
    assert refusal(rules, status(gpu(temp_c=79.5), gpu(1, temp_c=60)), NOON) == ""
    assert refusal(rules, status(gpu(temp_c=60), gpu(1, temp_c=80)), NOON) == ""
    assert refusal(rules, status(gpu(temp_c=60), gpu(1, temp_c=81)), NOON).startswith("GPU 1 has 81 °C")


def test_rule_that_cannot_be_checked_refuses_jobs() -> None:
    unknown = gpus_pb2.GpuStatus()  # a lost driver does not even report a count
    for reading in (None, unknown, status(gpu())):
        assert "cannot be read" in refusal(Rules(max_temp_c=80), reading, NOON)
        assert "memory of the GPU cannot be read" in refusal(
            Rules(vram_reserve_mib=1), reading, NOON
        ).replace("GPU 0", "the GPU")


def test_machine_without_gpus_cannot_meet_a_memory_reserve() -> None:
    assert refusal(Rules(max_temp_c=80, vram_reserve_mib=1024), status(), NOON) == ""


def test_reserve_stays_free_on_each_gpu_of_the_job() -> None:
    rules = Rules(vram_reserve_mib=2000)
    reading = status(gpu(free_vram_mib=8000), gpu(1, free_vram_mib=5000))
    assert refusal(rules, reading, NOON, vram_required_mib=6000) == ""
    assert refusal(rules, reading, NOON, vram_required_mib=6001) != ""
    assert refusal(rules, reading, NOON, vram_required_mib=3000, gpu_count=2) == ""
    assert refusal(rules, reading, NOON, vram_required_mib=3001, gpu_count=2) != ""


def test_reserve_with_a_gpu_whose_memory_is_unknown_names_that_gpu() -> None:
    rules, reading = Rules(vram_reserve_mib=2000), status(gpu(free_vram_mib=8000), gpu(1))
    assert refusal(rules, reading, NOON, vram_required_mib=6000) == ""
    sentence = refusal(rules, reading, NOON, vram_required_mib=6000, gpu_count=2)
    assert sentence == "the free memory of GPU 1 cannot be read, and this provider keeps some for its owner"


def test_memory_shared_with_the_machine_satisfies_a_reserve() -> None:
    shared = gpu(free_vram_mib=100_000, gpu_vram_mib=122_500, vram_is_shared=True)
    assert refusal(Rules(vram_reserve_mib=2000), status(shared), NOON, vram_required_mib=90_000) == ""


# --- settings that the owner stored at the server: daemon and server must agree ---

ZONES = ("UTC", "Asia/Riyadh", "Europe/Berlin", "America/St_Johns", "Pacific/Chatham")
# A week in which Berlin's clocks change: they go back on Sunday, 2026-10-25.
CHANGE = datetime(2026, 10, 22, tzinfo=UTC)


def hours(days: str, start: str, end: str) -> Settings:
    """Settings with hours on these days, by their first three letters; no day means every day."""
    names = [day for day in Weekday if day.name.lower()[:3] in days.split()]
    return Settings((server_window(names, start, end),), "UTC")


def takes_jobs(settings: Settings, moment: datetime) -> bool:
    """Whether the daemon accepts jobs under these settings, as received in a message."""
    return refusal(rules_of(settings_message(settings)), status(), moment) == ""


@pytest.mark.parametrize(
    ("settings", "is_open_at"),
    [
        (Settings(), range(7 * 24)),
        (hours("", "00:00", "24:00"), range(7 * 24)),
        (hours("", "22:00", "24:00"), [24 * day + hour for day in range(7) for hour in (22, 23)]),
        (hours("mon", "22:00", "02:00"), [22, 23, 24, 25]),
        (hours("sun", "22:00", "02:00"), [0, 1, 6 * 24 + 22, 6 * 24 + 23]),
        (hours("sat", "00:00", "24:00"), range(5 * 24, 6 * 24)),
        (hours("tue wed", "08:00", "10:00"), [24 + 8, 24 + 9, 48 + 8, 48 + 9]),
        (hours("mon", "00:01", "00:00"), range(1, 24)),
    ],
)
def test_daemon_applies_the_hours_from_the_server(settings: Settings, is_open_at: Sequence[int]) -> None:
    moments = [MONDAY + timedelta(hours=hour) for hour in range(7 * 24)]
    assert [n for n, moment in enumerate(moments) if takes_jobs(settings, moment)] == list(is_open_at)


times_apart = st.tuples(st.integers(0, MINUTES - 1), st.integers(0, MINUTES)).filter(lambda t: t[0] != t[1])
server_windows = st.builds(
    lambda days, times: server_window(days, time_of_day(times[0]), time_of_day(times[1])),
    st.frozensets(st.sampled_from(Weekday)),
    times_apart,
)


@given(
    st.lists(server_windows, max_size=4),
    st.sampled_from(ZONES),
    st.integers(0, 7 * MINUTES * 60 - 1),
)
@example([server_window([Weekday.SUNDAY], "02:00", "03:00")], "Europe/Berlin", 3 * 86400 + 5400)
def test_daemon_and_server_are_open_at_the_same_moments(windows: list[Any], zone: str, second: int) -> None:
    settings = Settings(tuple(windows), zone)
    moment = CHANGE + timedelta(seconds=second)
    assert takes_jobs(settings, moment) is settings.is_open(int(moment.timestamp() * 1000))


@given(st.one_of(st.none(), st.integers(30, 110)), st.floats(20, 120))
def test_daemon_and_server_call_the_same_gpu_too_hot(cap: int | None, temp_c: float) -> None:
    settings = Settings(max_temp_c=cap)
    reading = status(gpu(temp_c=temp_c))
    received_c = reading.all_gpus[0].temp_c  # rounded as in the message
    is_refused = refusal(rules_of(settings_message(settings)), reading, NOON) != ""
    assert is_refused is settings.is_too_hot(False, received_c)


def test_daemon_applies_the_memory_reserve_from_the_server() -> None:
    rules = rules_of(settings_message(Settings(vram_reserve_mib=4096)))
    assert rules == Rules(vram_reserve_mib=4096)
    assert refusal(rules, status(gpu(free_vram_mib=4095)), NOON) != ""


def test_daemon_leaves_hours_in_an_unknown_zone_to_the_server() -> None:
    received = terms_pb2.ProviderSettings(
        hours=[terms_pb2.WeeklyHours(start="00:00", end="00:01")], timezone="Mars/Olympus", max_temp_c=70
    )
    assert rules_of(received) == Rules(max_temp_c=70)
