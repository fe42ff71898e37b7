"""The time limits of jobs: offers expire, silent daemons lose their leases, overruns are ended.

This module finds the leases and jobs that are due; server.services.endings ends them. The loop that calls
``tick`` each second is in server.loops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from server.clock import Clock, ms
from server.domain.errors import STORE_FAULTS, DomainError
from server.domain.jobs import LOST_AFTER_SECONDS
from server.domain.leases import (
    OFFER_SECONDS,
    OVERRUN_GRACE_SECONDS,
    PREPARE_SECONDS,
    Lease,
    LeaseOutcome,
)
from server.domain.providers import is_live
from server.services.dispatch import Dispatch
from server.services.each import each, each_apart
from server.services.endings import end_overrun, end_unstarted, give_up
from server.services.explain import last_obstacle
from server.services.fleet import Fleet
from server.services.heartbeats import Heartbeats
from server.services.repeats import KEEP_MS
from server.store import jobs, leases, repeats
from server.store.database import Database, PartError, apart

log = logging.getLogger(__name__)
BATCH = 500


class Sweep:
    """Applies the time limits of jobs, once a second."""

    def __init__(
        self,
        database: Database,
        dispatch: Dispatch,
        fleet: Fleet,
        heartbeats: Heartbeats,
        clock: Clock,
        payouts_mature: bool = True,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._fleet = fleet
        self._heartbeats = heartbeats
        self._clock = clock
        self._payouts_mature = payouts_mature
        self._hearing_since_ms: int | None = ms(clock)
        """Since when this server can receive and store heartbeats; None while it cannot."""

    async def tick(self) -> None:
        """Ends the leases and jobs that are due, notifies the daemons, and offers jobs to the freed slots.

        Raises STORE_UNAVAILABLE while the database cannot be reached.
        """
        try:
            await self._tick(ms(self._clock))
        except DomainError as error:
            if error.reason in STORE_FAULTS:
                self._hearing_since_ms = None
            raise

    async def _tick(self, now_ms: int) -> None:
        if not self._heartbeats.store_is_up:
            self._hearing_since_ms = None
        elif self._hearing_since_ms is None:
            self._hearing_since_ms = now_ms
        self._fleet.forget_before(now_ms - _ms(LOST_AFTER_SECONDS))
        self._heartbeats.forget_gone()
        if await self._database.read(lambda: self._is_due(now_ms)):
            why = await self._database.read(lambda: self._last_obstacles(now_ms))
            ended, failed = await self._database.run(lambda: self._apply(now_ms, why))
            await each("a provider's free slot", ended, self._stop)
            if failed is not None:
                raise failed

    async def _stop(self, lease: Lease) -> None:
        """Ends the run of an ended lease, and offers its provider the next jobs."""
        self._dispatch.cancel(lease.provider_id, lease.job_id, lease.lease_epoch)
        await self._dispatch.lease_ended(lease.provider_id)

    def _is_due(self, now_ms: int) -> bool:
        """Whether anything is due. Reads before any write, so that an idle market writes nothing."""
        return bool(
            leases.offers_before(now_ms - _ms(OFFER_SECONDS), 1)
            or self._silent(now_ms, 1)
            or jobs.unstarted(now_ms, 1)
            or leases.preparing_since(now_ms - _ms(PREPARE_SECONDS), 1)
            or jobs.running_past(now_ms, _ms(OVERRUN_GRACE_SECONDS), 1)
            or repeats.any_before(now_ms - KEEP_MS)
        )

    def _apply(self, now_ms: int, why: dict[str, str]) -> tuple[list[Lease], PartError | None]:
        """Ends what is due; returns the ended leases, whose daemons must stop, and the first error."""
        ended, failed = each_apart("the end of a job", self._due(now_ms, why))
        repeats.forget_before(now_ms - KEEP_MS)
        return [lease for lease in ended if lease is not None], next(iter(failed.values()), None)

    def _due(self, now_ms: int, why: dict[str, str]) -> Iterator[tuple[str, Callable[[], Lease | None]]]:
        """The jobs that are due, each with the function that ends it."""
        for lease in leases.offers_before(now_ms - _ms(OFFER_SECONDS), BATCH):
            text = "its provider did not answer the offer"
            yield lease.job_id, partial(_given_up, lease, now_ms, text, outcome=LeaseOutcome.EXPIRED)
        for lease, renewed_ms in self._silent(now_ms, BATCH):
            text = "its provider went silent"
            end = partial(_given_up, lease, now_ms, text, renewed_ms=renewed_ms, matures=self._payouts_mature)
            yield lease.job_id, end
        for lease in leases.preparing_since(now_ms - _ms(PREPARE_SECONDS), BATCH):
            if self._is_settled_in(lease.provider_id, now_ms):
                yield lease.job_id, partial(_given_up, lease, now_ms, "its provider did not start it")
        for job_id, provider_id in jobs.running_past(now_ms, _ms(OVERRUN_GRACE_SECONDS), BATCH):
            if self._is_settled_in(provider_id, now_ms):
                yield job_id, partial(end_overrun, job_id, now_ms, matures=self._payouts_mature)
        for job_id, sentence in why.items():
            yield job_id, partial(end_unstarted, job_id, now_ms, sentence)

    def _last_obstacles(self, now_ms: int) -> dict[str, str]:
        """The jobs that were not started in time, and why; read before the write, which is kept short."""
        return {job_id: self._last_obstacle(job_id, now_ms) for job_id in jobs.unstarted(now_ms, BATCH)}

    def _last_obstacle(self, job_id: str, now_ms: int) -> str:
        """Why a job was not started. One whose obstacle cannot be found out holds up no other."""
        unknown = "submit it again, or raise start_within_seconds"

        def read() -> str:
            job = jobs.get(job_id)
            return last_obstacle(job, self._fleet, now_ms) if job is not None else unknown

        try:
            return apart(read)
        except PartError as error:
            log.warning("could not explain a job job_id=%s error=%s", job_id, error)
            return unknown

    def _is_settled_in(self, provider_id: int, now_ms: int) -> bool:
        """Whether the daemon is live in a session that is old enough for its results to have arrived.

        For any other daemon the outcome is still unknown: it reconnects with its results, or it is lost.
        """
        presence = self._fleet.get(provider_id)
        last_ms = self._fleet.last_heartbeat_ms(provider_id, None)
        return (
            presence is not None
            and is_live(last_ms, now_ms)
            and now_ms - presence.joined_ms >= _ms(OVERRUN_GRACE_SECONDS)
        )

    def _silent(self, now_ms: int, limit: int) -> list[tuple[Lease, int]]:
        """The leases that were not renewed for their ``lost_after``, each with its last renewal.

        Silence counts only while this server can receive and store heartbeats: no lease is lost before the
        server and its database have been up for that period. A provider that is heard is not silent, even if
        its heartbeats cannot be stored.
        """
        if self._hearing_since_ms is None:
            return []
        heard = [
            provider_id
            for provider_id in self._heartbeats.refused
            if is_live(self._fleet.last_heartbeat_ms(provider_id, None), now_ms)
        ]
        return leases.of_silent(now_ms, now_ms - self._hearing_since_ms, limit, heard)


def _given_up(
    lease: Lease,
    now_ms: int,
    detail: str,
    *,
    outcome: LeaseOutcome = LeaseOutcome.LOST,
    renewed_ms: int = 0,
    matures: bool = True,
) -> Lease:
    give_up(lease, now_ms, detail, outcome, renewed_ms=renewed_ms, matures=matures)
    return lease


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
