"""The queue: a job's position, its estimated start, and why it waits.

Pure; times are milliseconds from now. The order is priority, then age. Two jobs compete if some provider
can run both. The estimate assumes that every job runs to its limit, so jobs usually start earlier.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.domain.jobs import JobState
from server.domain.placement import Candidate, Obstacle, Wants, can_run


class JobCondition(StrEnum):
    """Why a job waits, or how it ended."""

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
    """The condition of a job; ``obstacles`` are those of the providers that a queued job may run on."""
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
        """Equal for jobs that the same providers can run."""
        return self.named_provider_id, self.wants


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A connected provider, and when each of its slots becomes free."""

    candidate: Candidate
    free_in_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prospect:
    """A queued job's position, from 1, and its estimated start; None if it cannot be estimated."""

    position: int | None = None
    start_in_ms: int | None = None


def free_in_ms(slots: int, left_ms: Iterable[int]) -> tuple[int, ...]:
    """When each of ``slots`` becomes free, given the remaining time of each open lease."""
    left = sorted(left_ms)
    return (0,) * (slots - len(left)) + tuple(left[max(0, len(left) - slots) :])


def prospect(job: Waiting, before: Sequence[Waiting], present: Iterable[Occupancy]) -> Prospect:
    """A job's prospect, given the jobs ``before`` it in the queue and the providers that are ``present``."""
    able = [occupancy for occupancy in present if _suits(occupancy.candidate, job)]
    if not able:
        return Prospect(1 + sum(other.needs == job.needs for other in before))
    slots = [(at, number) for number, occupancy in enumerate(able) for at in occupancy.free_in_ms]
    heapq.heapify(slots)
    takers: dict[object, frozenset[int]] = {}
    position = 1
    for other in before:
        if other.needs not in takers:
            takers[other.needs] = frozenset(
                number for number, occupancy in enumerate(able) if _suits(occupancy.candidate, other)
            )
        if takers[other.needs]:
            position += 1
            _take(slots, takers[other.needs], other.limit_ms)
    return Prospect(position, slots[0][0] if slots else None)


def _suits(candidate: Candidate, job: Waiting) -> bool:
    return job.named_provider_id in (None, candidate.provider_id) and can_run(candidate, job.wants)


def _take(slots: list[tuple[int, int]], takers: frozenset[int], limit_ms: int) -> None:
    """Occupies the first slot that becomes free at one of the takers for ``limit_ms``."""
    skipped = []
    while slots and slots[0][1] not in takers:
        skipped.append(heapq.heappop(slots))
    if slots:
        at, number = slots[0]
        heapq.heapreplace(slots, (at + limit_ms, number))
    for slot in skipped:
        heapq.heappush(slots, slot)
