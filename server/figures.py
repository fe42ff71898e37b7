"""Measures a running server: its duties, and the state of the market, money and database as it changes.

Without telemetry it does nothing at all. It reads only what others keep, and decides nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from common.telemetry import Telemetry
from server.clock import Clock, ms
from server.domain.jobs import OPEN, JobState, JobType
from server.domain.reads import Purpose, reading_for
from server.loops import Duty, Loop
from server.services.operators.proofs import Proofs
from server.store.database import Database
from server.store.operators import tally
from server.wiring import Services

MEMORY_SECONDS = 5.0
JOBS_SECONDS = 10.0
PROOF_SECONDS = 60.0


def measured(
    loops: tuple[Loop, ...], telemetry: Telemetry, services: Services, database: Database, clock: Clock
) -> tuple[Loop, ...]:
    """The loops, with each duty measured, and those that measure the rest; the same ones if nothing is."""
    if not telemetry.is_on:
        return loops
    figures = Figures(telemetry, services, database, clock)
    own = (
        Loop(MEMORY_SECONDS, (Duty("measure memory", figures.read_memory),)),
        Loop(JOBS_SECONDS, (Duty("measure open jobs", figures.read_jobs),)),
        Loop(JOBS_SECONDS, (Duty("prove the ledger's changes", figures.prove),)),
    )
    return tuple(
        replace(loop, duties=tuple(_timed(duty, telemetry) for duty in loop.duties))
        for loop in (*loops, *own)
    )


def _timed(duty: Duty, telemetry: Telemetry) -> Duty:
    tick: Callable[[], Awaitable[None]] = duty.tick
    telemetry.count("dcp_duty_failures_total", duty.name, by=0)

    async def timed() -> None:
        with telemetry.timed("dcp_duty_duration_seconds", duty.name):
            try:
                await tick()
            except Exception:
                telemetry.count("dcp_duty_failures_total", duty.name)
                raise

    return Duty(duty.name, timed)


class Figures:
    """What is read again and again, rather than counted when it happens."""

    def __init__(self, telemetry: Telemetry, services: Services, database: Database, clock: Clock) -> None:
        self._telemetry = telemetry
        self._services = services
        self._database = database
        self._clock = clock
        self._proofs: Proofs = services.proofs
        self._counted: Counter[tuple[str, ...]] = Counter()
        self._prove_at = 0.0

    async def read_memory(self) -> None:
        """What is in memory: sessions, heartbeats, queues of the database."""
        services, telemetry = self._services, self._telemetry
        present = services.fleet.all()
        used = sum(presence.used_slots for presence in present)
        telemetry.set("dcp_sessions_open", len(present))
        telemetry.set("dcp_slots", used, "used")
        telemetry.set("dcp_slots", max(0, sum(presence.slots for presence in present) - used), "free")
        telemetry.set("dcp_heartbeats_unwritten", services.heartbeats.unwritten)
        self._count_up(services.heartbeats.recorded, "dcp_heartbeats_total")
        for kind, number in services.discards.counts.items():
            self._count_up(number, "dcp_discards_total", kind.value)
        for queue, length in self._database.waiting.items():
            telemetry.set("dcp_database_queue_length", length, queue)
        telemetry.set("dcp_database_damaged", self._database.faults.is_damaged)

    async def read_jobs(self) -> None:
        """The open jobs, which the database has; whether it answers."""
        try:
            with reading_for(Purpose("metrics", may_grow=True)):
                found = await self._database.read(tally.open_jobs)
        except Exception:
            self._telemetry.set("dcp_database_up", 0)
            raise
        self._telemetry.set("dcp_database_up", 1)
        now_ms = ms(self._clock)
        numbers: dict[tuple[str, ...], float] = {
            (state.value, kind.value): 0 for state in OPEN for kind in JobType
        }
        ages: dict[tuple[str, ...], float] = defaultdict(float, {(kind.value,): 0 for kind in JobType})
        known = {kind.value for kind in JobType}
        for state, kind, number, oldest_ms in found:
            label = kind if kind in known else "other"  # of a newer release
            numbers[state, label] = numbers.get((state, label), 0) + number
            if state == JobState.QUEUED.value:
                ages[label,] = max(ages[label,], (now_ms - oldest_ms) / 1000)
        self._telemetry.fill("dcp_jobs_open", numbers)
        self._telemetry.fill("dcp_job_queue_oldest_seconds", ages)

    async def prove(self) -> None:
        """The proof of the ledger's changes: soon after the start, then once in a while."""
        now = self._clock.now()
        if now < self._prove_at:
            return
        self._prove_at = now + PROOF_SECONDS
        with reading_for(Purpose("metrics", may_grow=True)):
            proof = await self._proofs.recent(PROOF_SECONDS)
        self._telemetry.set("dcp_ledger_balanced", proof.is_balanced)
        self._telemetry.set("dcp_ledger_discrepancies", len(proof.discrepancies))
        self._telemetry.set("dcp_provider_debt_micros", proof.debt_micros)
        self._telemetry.set("dcp_ledger_proof_timestamp_seconds", ms(self._clock) / 1000)

    def _count_up(self, now: int, name: str, *labels: str) -> None:
        """Brings a counter up to a count that somebody else keeps."""
        key = (name, *labels)
        self._telemetry.count(name, *labels, by=now - self._counted[key])
        self._counted[key] = now
