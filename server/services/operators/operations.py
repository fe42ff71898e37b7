"""Operators' searches of accounts and jobs, requeues of jobs, and changes of the platform's rates."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.hindrances import Hindrance
from server.domain.jobs import FINAL, Job, JobState, JobType
from server.domain.pricing import per_minute
from server.domain.providers import ProviderStatus, is_live, status
from server.services import endings
from server.services.dispatch import Dispatch, hasten
from server.services.fleet import Fleet
from server.services.operators.audit import Operator
from server.services.pages import Page, read_page
from server.services.providers import Providers
from server.services.repeats import once
from server.store import jobs, prices, providers, renters, standing
from server.store.database import Database
from server.store.operators import operations
from server.store.prices import Kind
from server.store.providers import ProviderRow
from server.store.renters import RenterRow
from server.store.standing import StandingRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListedProvider:
    """A provider, its status, and the time of its last heartbeat."""

    row: ProviderRow
    status: ProviderStatus
    last_heartbeat_ms: int | None
    hindrances: tuple[Hindrance, ...]
    """What keeps jobs of whole types away from it."""
    standing: StandingRow | None

    @property
    def id(self) -> int:
        """The id by which pages continue."""
        return self.row.id


@dataclass(frozen=True, slots=True)
class ListedRenter:
    """A renter and its wallet's balance, in micros."""

    row: RenterRow
    balance_micros: int

    @property
    def id(self) -> int:
        """The id by which pages continue."""
        return self.row.id


class Operations:
    """The use cases of operations."""

    def __init__(
        self, database: Database, dispatch: Dispatch, fleet: Fleet, providers: Providers, clock: Clock
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._fleet = fleet
        self._providers = providers
        self._clock = clock

    async def providers(self, search: str, before_id: int | None, limit: int) -> Page[ListedProvider]:
        """One page of the providers that match a search text, newest first."""

        def query(search: str, before_id: int | None, limit: int) -> list[ListedProvider]:
            rows = providers.by_ids(operations.provider_ids(search, before_id, limit))
            granted = standing.of([row.id for row in rows])
            return [self._listed(row, granted.get(row.id)) for row in reversed(rows)]

        return await self._database.read(lambda: read_page(query, search, before_id, limit=limit))

    async def renters(self, search: str, before_id: int | None, limit: int) -> Page[ListedRenter]:
        """One page of the renters that match a search text, newest first."""

        def query(search: str, before_id: int | None, limit: int) -> list[ListedRenter]:
            ids = operations.renter_ids(search, before_id, limit)
            wallets = operations.wallets(ids)
            rows = renters.by_ids(ids)
            return [ListedRenter(row, wallets.get(row.id, 0)) for row in reversed(rows)]

        return await self._database.read(lambda: read_page(query, search, before_id, limit=limit))

    async def jobs(
        self,
        *,
        state: JobState | None,
        search: str,
        renter_id: int | None,
        provider_id: int | None,
        before_job_id: str | None,
        limit: int,
    ) -> tuple[list[Job], str | None]:
        """One page of all jobs, newest first, and the job after which the next page begins.

        Raises JOB_NOT_FOUND if ``before_job_id`` is not a job.
        """

        def read() -> list[Job]:
            before = jobs.get(before_job_id) if before_job_id is not None else None
            if before_job_id is not None and before is None:
                raise DomainError(
                    Reason.JOB_NOT_FOUND,
                    "before_job_id: is not a job; send next_before_job_id of the last page",
                    field="before_job_id",
                )
            return operations.job_page(
                state=state,
                search=search,
                renter_id=renter_id,
                provider_id=provider_id,
                before=before,
                limit=limit + 1,
            )

        found = await self._database.read(read)
        return found[:limit], found[limit - 1].job_id if len(found) > limit else None

    async def requeue(self, operator: Operator, job_id: str, reason: str) -> Job:
        """Takes a job back from its provider, without a charge, and queues it again.

        Raises JOB_NOT_FOUND, JOB_ALREADY_FINAL, and WRONG_STATE if it is queued or its cancel was requested.
        """
        now_ms = ms(self._clock)
        taken_from: list[tuple[int, int]] = []

        def take_back() -> Job:
            before = jobs.lock(job_id)
            if before is None:
                raise DomainError(Reason.JOB_NOT_FOUND, f"job_id: no job {job_id!r}", field="job_id")
            _refuse_to_requeue(before)
            lease = endings.take_back(before, reason or "an operator took it back", now_ms)
            after = jobs.get(job_id)
            assert after is not None
            facts: dict[str, object] = {"status": before.state.value, "provider_id": lease.provider_id}
            operator.note("job.requeue", job_id, facts, _facts_after(after, reason), now_ms)
            taken_from[:] = [(lease.provider_id, lease.lease_epoch)]
            return after

        job = await self._database.run(once(take_back, now_ms))
        for provider_id, lease_epoch in taken_from:
            log.info("requeued job_id=%s provider_id=%d", job_id, provider_id)
            self._dispatch.cancel(provider_id, job_id, lease_epoch)
            await hasten(self._dispatch.lease_ended(provider_id))
        return job

    async def rates(self) -> dict[JobType, int]:
        """The platform's rates, in halala per minute."""
        return await self._database.read(_rates)

    async def change_rate(self, operator: Operator, kind: JobType, rate: int) -> dict[JobType, int]:
        """Sets a platform's rate for new jobs and returns all of them, in halala per minute."""
        now_ms = ms(self._clock)

        def change() -> dict[JobType, int]:
            stored = prices.change(Kind.JOB_TYPE, kind.value, per_minute(rate), now_ms)
            before = stored.halala_per_minute if stored is not None else None
            if before != rate:
                unit = "halala_per_minute"
                operator.note("rate.change", kind.value, {unit: before}, {unit: rate}, now_ms)
            return _rates()

        return await self._database.run(change)

    def _listed(self, row: ProviderRow, granted: StandingRow | None) -> ListedProvider:
        last_ms = self._fleet.last_heartbeat_ms(row.id, row.last_heartbeat_ms)
        now = status(row.state, is_live(last_ms, ms(self._clock)), row.draining)
        return ListedProvider(row, now, last_ms, self._providers.own_hindrances(row), granted)


def _refuse_to_requeue(job: Job) -> None:
    state = job.state.value
    if job.state in FINAL:
        raise DomainError(
            Reason.JOB_ALREADY_FINAL,
            f"job {job.job_id} is {state} already; nothing was changed",
            status=state,
        )
    if job.state is JobState.QUEUED or job.cancel_requested:
        why = "is queued already" if job.state is JobState.QUEUED else "is about to be cancelled"
        raise DomainError(Reason.WRONG_STATE, f"job {job.job_id} {why}; nothing was changed", status=state)


def _facts_after(after: Job, reason: str) -> dict[str, object]:
    return {"status": after.state.value, **({"reason": reason} if reason else {})}


def _rates() -> dict[JobType, int]:
    return dict(prices.card().prices.rates)
