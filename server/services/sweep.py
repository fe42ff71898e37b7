"""What time does to jobs: offers expire, silent daemons lose their leases, overruns are ended.

``tick`` does it once; the loop that calls it every second is in server.loops.
"""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.domain.jobs import FailureReason, JobEvent
from server.domain.leases import (
    LOST_AFTER_SECONDS,
    OFFER_SECONDS,
    OVERRUN_GRACE_SECONDS,
    Lease,
    LeaseOutcome,
    LeaseRef,
)
from server.domain.sessions import CancelRun
from server.services.dispatch import Dispatch
from server.services.fleet import Fleet
from server.services.providers import Providers
from server.services.sessions import give_up
from server.services.settlement import settle
from server.store import jobs
from server.store.database import Database

log = logging.getLogger(__name__)
BATCH = 500


class Sweep:
    """The rules of time, applied once a second."""

    def __init__(
        self,
        database: Database,
        dispatch: Dispatch,
        fleet: Fleet,
        providers: Providers,
        clock: Clock,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._fleet = fleet
        self._providers = providers
        self._clock = clock
        self._started_ms = ms(clock)

    async def tick(self) -> None:
        """Writes waiting heartbeats, ends what time has ended, offers what waits."""
        await self._providers.write_beats()
        now_ms = ms(self._clock)
        self._fleet.forget_before(now_ms - int(LOST_AFTER_SECONDS * 1000))
        if await self._database.read(lambda: self._is_due(now_ms)):
            for lease in await self._database.run(lambda: self._apply(now_ms)):
                ref = LeaseRef(lease.job_id, lease.lease_epoch, b"")
                self._dispatch.cancel(lease.provider_id, CancelRun(ref))
                await self._dispatch.fill(lease.provider_id)
        await self._dispatch.fill_all()

    def _is_due(self, now_ms: int) -> bool:
        """A look before the write, so that an idle market writes nothing."""
        return bool(
            jobs.offers_before(now_ms - _ms(OFFER_SECONDS), 1)
            or (self._may_judge(now_ms) and jobs.leases_of_silent(now_ms - _ms(LOST_AFTER_SECONDS), 1))
            or jobs.overrun(now_ms, _ms(OVERRUN_GRACE_SECONDS), 1)
        )

    def _apply(self, now_ms: int) -> list[Lease]:
        """Returns the leases that it ended; their daemons, where connected, are to stop."""
        ended = []
        for lease in jobs.offers_before(now_ms - _ms(OFFER_SECONDS), BATCH):
            log.warning("an offer expired job_id=%s lease_epoch=%d", lease.job_id, lease.lease_epoch)
            give_up(lease, now_ms, "nobody answered", LeaseOutcome.EXPIRED)
            ended.append(lease)
        if self._may_judge(now_ms):
            for lease in jobs.leases_of_silent(now_ms - _ms(LOST_AFTER_SECONDS), BATCH):
                log.warning("an attempt was lost job_id=%s lease_epoch=%d", lease.job_id, lease.lease_epoch)
                give_up(lease, now_ms, "its provider went silent")
                ended.append(lease)
        return ended + self._end_overruns(now_ms)

    def _end_overruns(self, now_ms: int) -> list[Lease]:
        """The daemon should have stopped these; the server does it, at the limit's price."""
        stopped = []
        for job in jobs.overrun(now_ms, _ms(OVERRUN_GRACE_SECONDS), BATCH):
            lease = jobs.lease(job.job_id, job.lease_epoch)
            assert lease is not None
            jobs.end_lease(lease, LeaseOutcome.FAILED, now_ms, detail="overrun", run_ms=job.limit_ms)
            settle(
                job,
                JobEvent.FAIL,
                now_ms,
                billed_ms=job.limit_ms,
                failure_reason=FailureReason.DURATION_LIMIT,
                failure_message="it reached its duration limit and its provider did not stop it",
            )
            stopped.append(lease)
        return stopped

    def _may_judge(self, now_ms: int) -> bool:
        """No lost verdict within one lost period after a server start: the server itself was silent."""
        return now_ms - self._started_ms >= _ms(LOST_AFTER_SECONDS)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
