"""What time does to jobs: offers expire, silent daemons lose their leases, overruns are ended.

``tick`` does it once; the loop that calls it every second is in server.loops.
"""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.domain import pricing
from server.domain.artifacts import UPLOAD_GRACE_SECONDS
from server.domain.jobs import LOST_AFTER_SECONDS, FailureReason, Job, JobEvent, JobState
from server.domain.leases import (
    OFFER_SECONDS,
    OVERRUN_GRACE_SECONDS,
    PREPARE_SECONDS,
    Lease,
    LeaseOutcome,
    LeaseRef,
)
from server.domain.messages import CancelRun
from server.domain.providers import is_live
from server.services.attempts import give_up
from server.services.dispatch import Dispatch
from server.services.fleet import Fleet
from server.services.keys import Keys
from server.services.metrics import Metrics
from server.services.privacy.deletion import Deletion
from server.services.providers import Providers
from server.services.repeats import KEEP_MS
from server.services.sessions import Sessions
from server.services.settlement import settle
from server.services.terms import OwnTerms
from server.store import artifacts, jobs, leases, repeats
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
        sessions: Sessions,
        keys: Keys,
        deletion: Deletion,
        metrics: Metrics,
        terms: OwnTerms,
        clock: Clock,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._fleet = fleet
        self._providers = providers
        self._sessions = sessions
        self._keys = keys
        self._deletion = deletion
        self._metrics = metrics
        self._terms = terms
        self._clock = clock
        self._started_ms = ms(clock)

    async def tick(self) -> None:
        """Writes what waits of heartbeats, uses of keys and metrics, ends what time has ended, offers what
        waits, checks open streams, goes on with erasing what deleted accounts had.
        """
        await self._providers.write_beats()
        if self._fleet.all():
            await self._providers.read_states()
            await self._terms.read_changes()
        now_ms = ms(self._clock)
        self._fleet.forget_before(now_ms - int(LOST_AFTER_SECONDS * 1000))
        if await self._database.read(lambda: self._is_due(now_ms)):
            for lease in await self._database.run(lambda: self._apply(now_ms)):
                ref = LeaseRef(lease.job_id, lease.lease_epoch, b"")
                self._dispatch.cancel(lease.provider_id, CancelRun(ref))
                await self._dispatch.lease_ended(lease.provider_id)
        await self._dispatch.fill_all()
        await self._sessions.check_credentials()
        await self._keys.write_uses()
        await self._deletion.tick()
        await self._metrics.tick()

    def _is_due(self, now_ms: int) -> bool:
        """A look before the write, so that an idle market writes nothing."""
        return bool(
            leases.offers_before(now_ms - _ms(OFFER_SECONDS), 1)
            or leases.of_silent(now_ms, self._awake_ms(now_ms), 1)
            or jobs.unstarted(now_ms, 1)
            or leases.preparing_since(now_ms - _ms(PREPARE_SECONDS), 1)
            or jobs.running_past(now_ms, _ms(OVERRUN_GRACE_SECONDS), 1)
            or repeats.any_before(now_ms - KEEP_MS)
        )

    def _apply(self, now_ms: int) -> list[Lease]:
        """Returns the leases that it ended; their daemons, where connected, are to stop."""
        ended = []
        for lease in leases.offers_before(now_ms - _ms(OFFER_SECONDS), BATCH):
            give_up(lease, now_ms, "nobody answered the offer", LeaseOutcome.EXPIRED)
            ended.append(lease)
        for lease, renewed_ms in leases.of_silent(now_ms, self._awake_ms(now_ms), BATCH):
            give_up(lease, now_ms, "its provider went silent", renewed_ms=renewed_ms)
            ended.append(lease)
        for lease in leases.preparing_since(now_ms - _ms(PREPARE_SECONDS), BATCH):
            give_up(lease, now_ms, "its provider did not start it")
            ended.append(lease)
        for job_id, provider_id in jobs.running_past(now_ms, _ms(OVERRUN_GRACE_SECONDS), BATCH):
            if self._is_settled_in(provider_id, now_ms) and (over := self._end_overrun(job_id, now_ms)):
                ended.append(over)
        for job_id in jobs.unstarted(now_ms, BATCH):
            _end_unstarted(job_id, now_ms)
        repeats.forget_before(now_ms - KEEP_MS)
        return ended

    def _end_overrun(self, job_id: str, now_ms: int) -> Lease | None:
        """Ends a run that its connected daemon should have ended, at the price of when it should have."""
        job = jobs.lock(job_id)
        if job is None or job.state is not JobState.RUNNING or _still_sends(job, now_ms):
            return None
        lease = leases.get(job_id, job.lease_epoch)
        assert lease is not None
        assert lease.started_ms is not None
        if job.cancel_requested_ms is not None:
            event, reason, outcome = JobEvent.CANCEL, FailureReason.CANCELLED, LeaseOutcome.CANCELLED
            billed, message = job.cancel_requested_ms - lease.started_ms, "cancelled while it ran"
        else:
            event, reason, outcome = JobEvent.FAIL, FailureReason.DURATION_LIMIT, LeaseOutcome.FAILED
            billed, message = job.limit_ms, "it reached its duration limit"
        billed = pricing.billed_ms(billed, now_ms - lease.started_ms, job.limit_ms)
        if not leases.end(
            lease,
            outcome,
            now_ms,
            detail=f"{message}; ended by the server",
            failure_reason=reason if outcome is LeaseOutcome.FAILED else None,
            run_ms=billed,
        ):
            return None
        settle(job, event, now_ms, billed_ms=billed, failure_reason=reason, failure_message=message)
        return lease

    def _is_settled_in(self, provider_id: int, now_ms: int) -> bool:
        """The daemon is live in a session that is old enough for its results to have arrived.

        Of any other, what it did is not known yet: it comes back with its results, or it is lost.
        """
        presence = self._fleet.get(provider_id)
        last_ms = self._fleet.last_heartbeat_ms(provider_id, None)
        return (
            presence is not None
            and is_live(last_ms, now_ms)
            and now_ms - presence.joined_ms >= _ms(OVERRUN_GRACE_SECONDS)
        )

    def _awake_ms(self, now_ms: int) -> int:
        """How long this server has been able to hear daemons."""
        return now_ms - self._started_ms


def _end_unstarted(job_id: str, now_ms: int) -> None:
    """Fails a job that nobody started in time; all that was held returns."""
    job = jobs.lock(job_id)
    if job is None or job.state is not JobState.QUEUED or job.start_by_ms > now_ms:
        return
    within = job.start_within_ms // 1000
    settle(
        job,
        JobEvent.FAIL,
        now_ms,
        failure_reason=FailureReason.START_DEADLINE,
        failure_message=f"no provider started it within {within} s; submit it again, or let it wait longer",
    )


def _still_sends(job: Job, now_ms: int) -> bool:
    """Whether the files of a run that is over arrive: they are waited for, for a time, free of charge."""
    assert job.started_ms is not None
    over_ms = min(job.started_ms + job.limit_ms, job.cancel_requested_ms or now_ms)
    if now_ms - over_ms >= _ms(UPLOAD_GRACE_SECONDS):
        return False
    return artifacts.is_arriving(job.job_id, job.lease_epoch, now_ms - _ms(OVERRUN_GRACE_SECONDS))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
