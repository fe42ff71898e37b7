"""The queue: where a job stands in it, when it may start, and why it waits.

Pure; time is in milliseconds from now.

The order is priority, then age. A job competes with those before it that some provider, which could
run it, could run as well. The estimate lets everything run to its limit, so that it errs on the late side.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.domain.jobs import JobState
from server.domain.placement import Candidate, Obstacle, Wants, can_run


class JobCondition(StrEnum):
    """Why a job waits or ended, in one word."""

    NEXT = "NEXT"
    ALL_BUSY = "ALL_BUSY"
    PROVIDER_BUSY = "PROVIDER_BUSY"
    PROVIDER_AWAY = "PROVIDER_AWAY"
    NO_PROVIDER = "NO_PROVIDER"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_CONDITIONS = {
    JobState.PENDING: JobCondition.STARTING,
    JobState.ASSIGNED: JobCondition.STARTING,
    JobState.RUNNING: JobCondition.RUNNING,
    JobState.COMPLETED: JobCondition.COMPLETED,
    JobState.FAILED: JobCondition.FAILED,
    JobState.CANCELLED: JobCondition.CANCELLED,
}
_AWAY = frozenset(
    {
        Obstacle.NOT_LIVE,
        Obstacle.NO_SESSION,
        Obstacle.PAUSED,
        Obstacle.DRAINING,
        Obstacle.NOT_ADMITTED,
        Obstacle.OUTSIDE_HOURS,
        Obstacle.TOO_HOT,
    }
)


def condition(state: JobState, is_named: bool, obstacles: Collection[Obstacle]) -> JobCondition:
    """Why a job is where it is; ``obstacles`` are those of the providers that a queued job may go to."""
    if state is not JobState.QUEUED:
        return _CONDITIONS[state]
    if Obstacle.NONE in obstacles or Obstacle.REFUSED in obstacles:
        return JobCondition.NEXT
    if Obstacle.BUSY in obstacles:
        return JobCondition.PROVIDER_BUSY if is_named else JobCondition.ALL_BUSY
    if is_named and not _AWAY.isdisjoint(obstacles):
        return JobCondition.PROVIDER_AWAY
    return JobCondition.NO_PROVIDER


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue: the provider that it names or None, what it needs, and how long it may run."""

    job_id: str
    named_provider_id: int | None
    wants: Wants
    limit_ms: int

    @property
    def needs(self) -> tuple[int | None, Wants]:
        """What tells whether two jobs suit the same providers."""
        return self.named_provider_id, self.wants


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A provider that is there, and when each of its slots gets free."""

    candidate: Candidate
    free_in_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prospect:
    """Where a queued job stands, from 1, and when it may start; None when nobody can tell."""

    position: int | None = None
    start_in_ms: int | None = None


def free_in_ms(slots: int, left_ms: Iterable[int]) -> tuple[int, ...]:
    """When each of ``slots`` gets free, by what is left of the limits of the open leases."""
    left = sorted(left_ms)
    return (0,) * (slots - len(left)) + tuple(left[max(0, len(left) - slots) :])


def prospect(job: Waiting, before: Sequence[Waiting], present: Iterable[Occupancy]) -> Prospect:
    """The prospect of a job, with those before it in the queue's order and the providers that are there."""
    able = [one for one in present if _suits(one.candidate, job)]
    if not able:
        return Prospect(1 + sum(other.needs == job.needs for other in before))
    slots = [(at, number) for number, one in enumerate(able) for at in one.free_in_ms]
    heapq.heapify(slots)
    takers: dict[object, frozenset[int]] = {}
    position = 1
    for other in before:
        if other.needs not in takers:
            able_too = (number for number, one in enumerate(able) if _suits(one.candidate, other))
            takers[other.needs] = frozenset(able_too)
        if takers[other.needs]:
            position += 1
            _take(slots, takers[other.needs], other.limit_ms)
    return Prospect(position, slots[0][0] if slots else None)


def _suits(candidate: Candidate, job: Waiting) -> bool:
    return job.named_provider_id in (None, candidate.provider_id) and can_run(candidate, job.wants)


def _take(slots: list[tuple[int, int]], takers: frozenset[int], limit_ms: int) -> None:
    """The first slot that gets free at one of the takers is taken for ``limit_ms``."""
    skipped = []
    while slots and slots[0][1] not in takers:
        skipped.append(heapq.heappop(slots))
    if slots:
        at, number = slots[0]
        heapq.heapreplace(slots, (at + limit_ms, number))
    for slot in skipped:
        heapq.heappush(slots, slot)
