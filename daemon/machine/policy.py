"""Owns the provider's own rules: when this machine may take a job, whatever the server thinks.

Pure: readings and the time of day are arguments. A rule that cannot be judged,
because a reading is missing, keeps jobs out. It must not know where rules come from.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from dcp.v1 import gpus_pb2, terms_pb2

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES = 24 * 60
_WINDOW = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? )?(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")


@dataclass(frozen=True)
class Window:
    """A span of the week that recurs; one that ends before it starts goes on into the next day."""

    days: frozenset[int]
    """The days on which it starts; 0 is Monday."""
    start: int
    """Minutes after midnight."""
    end: int
    """Minutes after midnight, to 1440; not within the window any more."""

    def contains(self, local: datetime) -> bool:
        """Whether the window is open at this local time."""
        minute = local.hour * 60 + local.minute
        today = local.weekday() in self.days
        if self.start < self.end:
            return today and self.start <= minute < self.end
        yesterday = (local.weekday() - 1) % 7 in self.days
        return (today and minute >= self.start) or (yesterday and minute < self.end)


@dataclass(frozen=True)
class Schedule:
    """When jobs are taken: in any of the windows, by the clocks of one place."""

    windows: tuple[Window, ...]
    zone: tzinfo = UTC

    def is_open(self, now: datetime) -> bool:
        """Whether jobs are taken at this moment; `now` knows its time zone."""
        local = now.astimezone(self.zone)
        return any(window.contains(local) for window in self.windows)


@dataclass(frozen=True)
class Rules:
    """What must hold for a job to be taken. Nothing set: nothing is asked."""

    max_temp_c: float | None = None
    """A GPU hotter than this takes no new job."""
    vram_reserve_mib: int = 0
    """So much memory stays free on each GPU that a job would use."""
    schedules: tuple[Schedule, ...] = ()
    """Each of them must be open."""
    yield_to_owner: bool = False
    """A GPU that programs other than the daemon's use takes no job, and its jobs are given back."""


def stricter(*all_rules: Rules) -> Rules:
    """What satisfies everybody: the lowest cap, the largest reserve, the hours that all have open."""
    caps = [rules.max_temp_c for rules in all_rules if rules.max_temp_c is not None]
    return Rules(
        max_temp_c=min(caps, default=None),
        vram_reserve_mib=max((rules.vram_reserve_mib for rules in all_rules), default=0),
        schedules=tuple(schedule for rules in all_rules for schedule in rules.schedules),
        yield_to_owner=any(rules.yield_to_owner for rules in all_rules),
    )


def rules_of(settings: terms_pb2.ProviderSettings) -> Rules:
    """The rules that the owner set on the server. Hours in a zone unknown here are left to the server."""
    schedules: tuple[Schedule, ...] = ()
    with contextlib.suppress(KeyError, ValueError, OSError):
        windows = tuple(_window_of(hours) for hours in settings.hours)
        if windows:
            schedules = (Schedule(windows, ZoneInfo(settings.timezone or "UTC")),)
    return Rules(
        max_temp_c=settings.max_temp_c if settings.HasField("max_temp_c") else None,
        vram_reserve_mib=settings.vram_reserve_mib,
        schedules=schedules,
    )


def _window_of(hours: terms_pb2.WeeklyHours) -> Window:
    start, end = _minutes(hours.start), _minutes(hours.end)
    days = frozenset(day - terms_pb2.WEEKDAY_MONDAY for day in hours.days) or frozenset(range(7))
    return Window(days, start, end)


def _minutes(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def refusal(
    rules: Rules,
    status: gpus_pb2.GpuStatus | None,
    now: datetime,
    *,
    vram_required_mib: int = 0,
    gpu_count: int = 1,
) -> str:
    """Why no job with these needs may be taken now, for a person; empty when one may.

    `status` is a reading of the GPUs; None: there is none that is fresh.
    """
    if not all(schedule.is_open(now) for schedule in rules.schedules):
        return "it is outside the hours in which this provider takes jobs"
    return _too_hot(rules, status) or _too_full(rules, status, vram_required_mib, max(1, gpu_count))


def _too_hot(rules: Rules, status: gpus_pb2.GpuStatus | None) -> str:
    if rules.max_temp_c is None or _has_no_gpu(status):
        return ""
    if status is None or not status.all_gpus:
        return "the GPU's temperature cannot be read, and this provider has set a cap"
    for gpu in status.all_gpus:
        if not gpu.HasField("temp_c"):
            return f"the temperature of GPU {gpu.index} cannot be read, and this provider has set a cap"
        if gpu.temp_c > rules.max_temp_c:
            return f"GPU {gpu.index} has {gpu.temp_c:g} °C; this provider's cap is {rules.max_temp_c:g}"
    return ""


def _too_full(rules: Rules, status: gpus_pb2.GpuStatus | None, required_mib: int, gpu_count: int) -> str:
    if not rules.vram_reserve_mib or _has_no_gpu(status):
        return ""
    needed = required_mib + rules.vram_reserve_mib
    gpus = status.all_gpus if status else []
    free = [gpu.free_vram_mib for gpu in gpus if gpu.HasField("free_vram_mib")]
    if sum(mib >= needed for mib in free) >= gpu_count:
        return ""
    if len(free) < max(1, len(gpus)):
        unread = [f"of GPU {gpu.index}" for gpu in gpus if not gpu.HasField("free_vram_mib")]
        where = ", ".join(unread) or "of the GPU"
        return f"the free memory {where} cannot be read, and this provider keeps some for its owner"
    return f"{needed} MiB of GPU memory must be free, {rules.vram_reserve_mib} of them for its owner"


def _has_no_gpu(status: gpus_pb2.GpuStatus | None) -> bool:
    # A machine whose driver is gone reports no count; a machine without GPUs reports zero.
    return status is not None and status.HasField("gpu_count") and status.gpu_count == 0


def parse_schedule(text: str, zone: tzinfo) -> Schedule:
    """`Mon-Fri 20:00-08:00, Sat 00:00-24:00`; without days: every day. Raises ValueError."""
    return Schedule(tuple(_window(part.strip()) for part in text.split(",") if part.strip()), zone)


def _window(text: str) -> Window:
    match = _WINDOW.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not like Mon-Fri 20:00-08:00")
    first, last, *times = match.groups()
    start_hour, start_minute, end_hour, end_minute = map(int, times)
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if start_minute > 59 or end_minute > 59 or start >= MINUTES or end > MINUTES:
        raise ValueError(f"{text!r} has a time that is not from 00:00 to 24:00")
    return Window(_days(first, last), start, end)


def _days(first: str | None, last: str | None) -> frozenset[int]:
    for day in (first, last):
        if day is not None and day not in DAYS:
            raise ValueError(f"{day!r} is not one of {', '.join(DAYS)}")
    if first is None:
        return frozenset(range(7))
    start = DAYS.index(first)
    length = (DAYS.index(last) - start) % 7 if last else 0
    return frozenset((start + step) % 7 for step in range(length + 1))
