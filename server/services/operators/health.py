"""How the marketplace is doing now: one cheap reading, shared by all who ask within a few seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.incidents import LOST_WITHIN_SECONDS, Incident, Room
from server.domain.jobs import JobState
from server.domain.leases import LIVE_SECONDS
from server.domain.placement import Obstacle
from server.domain.queue import JobCondition
from server.domain.recent_calls import CallFigures, RecentCalls
from server.services.explain import glance
from server.services.fleet import Fleet
from server.services.operators.incidents import Incidents
from server.services.operators.proofs import Proofs
from server.store import incidents, queue
from server.store.database import Database
from server.store.operators import oversight
from server.store.operators.oversight import ENDED_LIMIT, EndedJob
from server.store.queue import WaitingKind

KEPT_SECONDS = 5.0
"""How long an answer is kept."""
QUEUES_LIMIT = 20
HOUR_MS = 3_600_000
MOST_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queue, and why its first job waits."""

    kind: WaitingKind
    condition: JobCondition
    message: str
    obstacles: Counter[Obstacle]


@dataclass(frozen=True, slots=True)
class JobFigures:
    """The jobs that ended within the last hour."""

    by_state: Counter[str]
    failures: list[tuple[str, int]]
    waited_ms: list[int]
    """How long those that started had waited, in order."""
    has_more: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How the marketplace is doing; times in ms, money in micros."""

    as_of_ms: int
    queues: list[Waiting]
    has_more_queues: bool
    live: int
    lost: int
    slots_used: int
    slots: int
    calls: CallFigures
    jobs: JobFigures
    rooms: tuple[Room, ...]
    incidents: list[Incident]
    payouts: tuple[int, int, int | None]
    """Open withdrawal requests: their number, their sum, and when the oldest was made."""
    open_disputes: int
    is_balanced: bool | None
    """None before the first proof."""


class MarketHealth:
    """Reads it at most once in ``KEPT_SECONDS``."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        watching: Incidents,
        proofs: Proofs,
        calls: RecentCalls,
        clock: Clock,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._watching = watching
        self._proofs = proofs
        self._calls = calls
        self._clock = clock
        self._kept: Health | None = None
        self._lock = asyncio.Lock()

    async def now(self) -> Health:
        """The health as of at most ``KEPT_SECONDS`` ago."""
        async with self._lock:
            now_ms = ms(self._clock)
            if self._kept is None or now_ms - self._kept.as_of_ms >= KEPT_SECONDS * 1000:
                self._kept = await self._database.read(lambda: self._read(now_ms))
            return self._kept

    def _read(self, now_ms: int) -> Health:
        queues, has_more = queue.waiting_kinds(QUEUES_LIMIT)
        present = self._fleet.all()
        proof = self._proofs.newest
        return Health(
            now_ms,
            [Waiting(kind, *glance(kind, self._fleet, now_ms)) for kind in queues],
            has_more,
            len(present),
            incidents.away_since(now_ms - LOST_WITHIN_SECONDS * 1000, now_ms - int(LIVE_SECONDS * 1000)),
            sum(presence.used_slots for presence in present),
            sum(presence.slots for presence in present),
            self._calls.figures(self._clock.now()),
            _figures(oversight.ended_since(now_ms - HOUR_MS)),
            self._watching.rooms,
            [incident for incident in incidents.standing().values() if incident.began_ms is not None],
            incidents.waiting_payouts(now_ms),
            oversight.open_disputes(),
            proof.is_balanced if proof is not None else None,
        )


def percentile(ordered: list[int], percent: int) -> int | None:
    """The value that so many of a hundred do not exceed; None without values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def _figures(ended: list[EndedJob]) -> JobFigures:
    counted = ended[:ENDED_LIMIT]
    failed = (job.failure_reason or "" for job in counted if job.state == JobState.FAILED.value)
    return JobFigures(
        Counter(job.state for job in counted),
        Counter(failed).most_common(MOST_FAILURES),
        sorted(max(0, job.started_ms - job.created_ms) for job in counted if job.started_ms is not None),
        len(ended) > len(counted),
    )
