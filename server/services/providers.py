"""Accounts of providers: registration, the own profile, status and pauses.

Heartbeats are in server.services.heartbeats, what renters see is in server.services.market.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.hindrances import TWO_DAEMONS, Hindrance, Minimums, hindrances
from server.domain.jobs import Job
from server.domain.ledger import ProviderMoney
from server.domain.payouts import PayoutTerms, Period
from server.domain.placement import Model
from server.domain.providers import (
    AccountDecision,
    AccountState,
    ProviderStatus,
    is_live,
    next_state,
    status,
)
from server.domain.reliability import TrackRecord
from server.domain.statements import day_of, first_day_of_week
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.domain.terms import Settings
from server.services.fleet import Fleet
from server.store import day_sums, jobs, ledger, providers, reliability, standing, statements, storage, terms
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.standing import StandingRow

RECENT_JOBS = 20
ANY_VERSION = Minimums()
PAYOUT_TERMS = PayoutTerms()


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """A provider as its owner sees it. Money in micros."""

    provider: ProviderRow
    status: ProviderStatus
    last_heartbeat_ms: int | None
    total_jobs: int
    earned_micros: int
    earned_today_micros: int
    earned_this_week_micros: int
    money: ProviderMoney
    maturing_ms: int | None
    """How long its payouts mature now; None while they do not."""
    models: list[Model]
    recent_jobs: list[Job]
    record: TrackRecord
    standing: StandingRow | None
    settings: Settings
    hindrances: tuple[Hindrance, ...]
    stored_bytes: int
    stored_bytes_limit: int
    """0: no limit."""


class Providers:
    """The use cases of providers' accounts."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        clock: Clock,
        minimums: Minimums = ANY_VERSION,
        storage_limits: StorageLimits = STORAGE_LIMITS,
        period: Period = PAYOUT_TERMS.everybody_is_new,
    ) -> None:
        self._database = database
        self._period = period
        self._fleet = fleet
        self._clock = clock
        self._minimums = minimums
        self._storage_limits = storage_limits

    async def profile(self, provider_id: int) -> ProviderProfile:
        """The provider's own profile."""

        def read() -> ProviderProfile:
            provider = existing(provider_id)
            last_ms = self._fleet.last_heartbeat_ms(provider_id, provider.last_heartbeat_ms)
            if report := self._fleet.newest_report(provider_id, provider.last_heartbeat_ms):
                provider = replace(provider, report=report)
            today = day_of(ms(self._clock))
            monday = first_day_of_week(today)
            of_today, of_week = statements.earned_since(provider_id, today, monday)
            return ProviderProfile(
                provider,
                self._status(provider, last_ms),
                last_ms,
                day_sums.ran(provider_id),
                day_sums.earned(provider_id),
                of_today,
                of_week,
                ledger.of_provider(provider_id),
                self._period(provider_id),
                providers.models_of([provider_id])[provider_id],
                jobs.newest_of_provider(provider_id, RECENT_JOBS),
                reliability.track_record(provider_id),
                standing.of([provider_id]).get(provider_id),
                terms.of(provider_id).settings,
                self.own_hindrances(provider),
                storage.of_provider(provider_id),
                self._storage_limits.provider_bytes,
            )

        return await self._database.read(read)

    async def status(self, provider_id: int) -> ProviderStatus:
        """A provider's current status. Raises PROVIDER_NOT_FOUND."""
        provider = await self._database.read(lambda: existing(provider_id))
        last_ms = self._fleet.last_heartbeat_ms(provider_id, provider.last_heartbeat_ms)
        return self._status(provider, last_ms)

    async def pause(self, provider_id: int, decision: AccountDecision) -> ProviderStatus:
        """Begins or ends a pause at the owner's request; returns the provider's status after that.

        Raises PROVIDER_SUSPENDED, PROVIDER_NOT_APPROVED.
        """

        def decide() -> AccountState:
            before = existing(provider_id).state
            refuse_shut_out(before)
            after = next_state(before, decision)
            assert after is not None, "a provider that is not shut out may pause and resume"
            if not providers.set_state(provider_id, before, after):
                refuse_shut_out(existing(provider_id).state)  # an operator changed the state meanwhile
            return after

        self._fleet.set_state(provider_id, await self._database.run(decide))
        self._fleet.announce(provider_id)
        return await self.status(provider_id)

    def hindrances(self, provider: ProviderRow) -> tuple[Hindrance, ...]:
        """The hindrances of a provider, from its newest report and self-tests."""
        return hindrances(provider.report, provider.self_tests, self._minimums)

    def own_hindrances(self, provider: ProviderRow) -> tuple[Hindrance, ...]:
        """The same as its owner and operators see it: also what keeps no job away now, but will."""
        is_contested = self._fleet.is_contested(provider.id, ms(self._clock))
        return (*self.hindrances(provider), *((TWO_DAEMONS,) if is_contested else ()))

    def _status(self, provider: ProviderRow, last_ms: int | None) -> ProviderStatus:
        return status(provider.state, is_live(last_ms, ms(self._clock)), provider.draining)


def refuse_shut_out(state: AccountState) -> None:
    """Raises PROVIDER_SUSPENDED or PROVIDER_NOT_APPROVED if an operator does not admit the provider."""
    if state is AccountState.SUSPENDED:
        raise DomainError(Reason.PROVIDER_SUSPENDED, "this provider is suspended; write to the operator")
    if state is AccountState.PENDING_APPROVAL:
        raise DomainError(Reason.PROVIDER_NOT_APPROVED, "this provider waits for an operator's approval")


def existing(provider_id: int) -> ProviderRow:
    """One provider. Raises PROVIDER_NOT_FOUND."""
    provider = providers.get(provider_id)
    if provider is None:
        raise DomainError(
            Reason.PROVIDER_NOT_FOUND, f"provider_id: no provider {provider_id}", field="provider_id"
        )
    return provider
