"""Providers: registration, own profile, heartbeats, and the market that renters see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.hindrances import Hindrance, Minimums, hindrances
from server.domain.jobs import Job, JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.ledger import TransferKind
from server.domain.placement import Model, Obstacle
from server.domain.providers import (
    AccountDecision,
    AccountState,
    ProviderStatus,
    is_live,
    next_state,
    status,
)
from server.domain.reliability import TrackRecord
from server.domain.statements import DAY_MS, day_of, first_day_of_week
from server.domain.terms import Settings, Terms
from server.services import keys
from server.services.fleet import Fleet, Presence
from server.services.honesty import Honesty
from server.services.metrics import Metrics
from server.services.terms import closure_of
from server.store import jobs, ledger, providers, rates, reliability, sessions, terms
from server.store.database import Database
from server.store.providers import ProviderRow
from server.store.reliability import PastAttempt

RECENT_JOBS = 20
ANY_VERSION = Minimums()


@dataclass(frozen=True, slots=True)
class Registration:
    """A new account's id and its key, which is shown this once."""

    id: int
    api_key: str


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """A provider as its owner sees it. Money in halala."""

    provider: ProviderRow
    status: ProviderStatus
    last_heartbeat_ms: int | None
    total_jobs: int
    earned_halala: int
    earned_today_halala: int
    earned_this_week_halala: int
    claimable_halala: int
    models: list[Model]
    recent_jobs: list[Job]
    record: TrackRecord
    settings: Settings
    hindrances: tuple[Hindrance, ...]


@dataclass(frozen=True, slots=True)
class Offering:
    """A live provider as renters see it."""

    provider: ProviderRow
    models: list[Model]
    rates: dict[JobType, int]
    """Its own where it has some, else the platform's, in halala per minute."""
    record: TrackRecord
    vram_for_jobs_mib: int
    is_accepting: bool
    opens_ms: int | None
    """When its hours begin, while it is outside them."""
    hindrances: tuple[Hindrance, ...]
    runs_plain_processes: bool
    """A job that brings an image runs without it there, so only one that names the provider does."""


class Providers:
    """The use cases of providers."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        metrics: Metrics,
        clock: Clock,
        needs_approval: bool = False,
        minimums: Minimums = ANY_VERSION,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._metrics = metrics
        self._clock = clock
        self._needs_approval = needs_approval
        self._minimums = minimums
        self._honesty = Honesty(database, fleet, clock)
        self.store_is_up = True
        """The last batch of heartbeats was written. While it is not, no renewal is acknowledged."""

    async def register(
        self, *, name: str, email: str, email_key: str, gpu_model: str, os: str, phone: str
    ) -> Registration:
        """A new provider and its key. Raises EMAIL_TAKEN."""
        now_ms = ms(self._clock)

        def create() -> Registration:
            provider_id = providers.create(
                name=name,
                email=email,
                email_key=email_key,
                gpu_model=gpu_model,
                os=os,
                phone=phone,
                now_ms=now_ms,
                state=AccountState.PENDING_APPROVAL if self._needs_approval else AccountState.ACTIVE,
            )
            return Registration(provider_id, keys.issue(keys.PROVIDER, provider_id, now_ms))

        return await self._database.run(create)

    async def profile(self, provider_id: int) -> ProviderProfile:
        """The provider's own profile."""

        def read() -> ProviderProfile:
            provider = existing(provider_id)
            last_ms = self._fleet.last_heartbeat_ms(provider_id, provider.last_heartbeat_ms)
            own = rules.provider(provider_id)
            today = day_of(ms(self._clock))
            monday = first_day_of_week(today)
            return ProviderProfile(
                provider,
                self._status(provider, last_ms),
                last_ms,
                jobs.count_ended_of_provider(provider_id),
                ledger.turnover(TransferKind.PAYOUT, own),
                ledger.turnover(TransferKind.PAYOUT, own, since_ms=today * DAY_MS),
                ledger.turnover(TransferKind.PAYOUT, own, since_ms=monday * DAY_MS),
                ledger.balance(own),
                providers.models_of([provider_id])[provider_id],
                jobs.newest_of_provider(provider_id, RECENT_JOBS),
                reliability.track_record(provider_id),
                terms.of(provider_id).settings,
                self.hindrances(provider),
            )

        return await self._database.read(read)

    async def status(self, provider_id: int) -> ProviderStatus:
        """What a provider is doing. Raises PROVIDER_NOT_FOUND."""
        provider = await self._database.read(lambda: existing(provider_id))
        last_ms = self._fleet.last_heartbeat_ms(provider_id, provider.last_heartbeat_ms)
        return self._status(provider, last_ms)

    async def pause(self, provider_id: int, decision: AccountDecision) -> ProviderStatus:
        """Begins or ends a pause, at the owner's wish; returns what the provider is doing then.

        Raises PROVIDER_SUSPENDED, PROVIDER_NOT_APPROVED.
        """

        def decide() -> AccountState:
            before = existing(provider_id).state
            refuse_shut_out(before)
            after = next_state(before, decision)
            assert after is not None, "who is not shut out may pause and resume"
            if not providers.set_state(provider_id, before, after):
                refuse_shut_out(existing(provider_id).state)  # an operator was faster
            return after

        self._fleet.set_state(provider_id, await self._database.run(decide))
        return await self.status(provider_id)

    async def read_states(self) -> None:
        """Learns what was decided elsewhere, or while a session opened, about who is connected here."""
        if self._fleet.all():
            self._fleet.set_states(await self._database.read(providers.inactive_connected))

    async def heartbeat(self, provider_id: int, gpu_status: dict[str, Any]) -> ProviderStatus:
        """A heartbeat by POST. Raises PROVIDER_SUSPENDED, PROVIDER_NOT_APPROVED."""
        provider = await self._database.read(lambda: existing(provider_id))
        refuse_shut_out(provider.state)
        await self.record_beat(provider_id, gpu_status, renews=False)
        return self._status(provider, ms(self._clock))

    async def record_beat(self, provider_id: int, gpu_status: dict[str, Any] | None, *, renews: bool) -> None:
        """Notes a heartbeat, by stream or POST alike; only one by stream ``renews`` the leases.

        It is written with the next batch; only the one that makes a provider live again is written
        at once, so that everybody sees it come.
        """
        now_ms = ms(self._clock)
        was_live = is_live(self._fleet.last_heartbeat_ms(provider_id, None), now_ms)
        self._fleet.beat(provider_id, now_ms, gpu_status, renews=renews)
        if gpu_status:
            self._metrics.record(provider_id, gpu_status)
        if not was_live:
            await self.write_beats()
        if gpu_status:
            if presence := self._fleet.get(provider_id):
                self.hinder(presence, gpu_status)
            await self._honesty.reported(provider_id, gpu_status)

    def hinder(self, presence: Presence, gpu_status: dict[str, Any]) -> None:
        """What keeps jobs away from a session by its self-tests and this report."""
        presence.hindrances = hindrances(gpu_status, presence.self_tests, self._minimums)

    def hindrances(self, provider: ProviderRow) -> tuple[Hindrance, ...]:
        """What keeps jobs away from a provider, by its newest report and self-tests."""
        return hindrances(provider.gpu_status, provider.self_tests, self._minimums)

    async def write_beats(self) -> None:
        """Writes all heartbeats that wait, in one transaction; keeps them when that fails."""
        beats = self._fleet.take_beats()
        if not beats:
            return
        try:
            await self._database.run(lambda: sessions.write_beats(beats))
            self.store_is_up = True
        except Exception:
            self.store_is_up = False
            self._fleet.put_back(beats)
            raise

    async def available(
        self,
        *,
        gpu_model: str | None,
        min_vram_mib: int | None,
        model: str | None,
        page: int,
        page_size: int,
        verified: bool = False,
    ) -> tuple[list[Offering], int]:
        """One page of the live providers, by id, and how many there are on all pages."""
        now_ms = ms(self._clock)
        since_ms = now_ms - int(LIVE_SECONDS * 1000)

        def read() -> tuple[list[Offering], int]:
            rows, total = providers.live(
                since_ms=since_ms,
                gpu_model=gpu_model,
                min_vram_mib=min_vram_mib,
                model=model,
                offset=(page - 1) * page_size,
                limit=page_size,
                verified=verified,
            )
            ids = [row.id for row in rows]
            models, own = (providers.models_of(ids), terms.of_all(ids)) if rows else ({}, {})
            card, known = rates.card(), reliability.track_records(ids)
            return [
                self._offering(row, models[row.id], own[row.id], card, known[row.id], now_ms) for row in rows
            ], total

        return await self._database.read(read)

    async def history(
        self, provider_id: int, before: tuple[int, int] | None, limit: int
    ) -> tuple[list[PastAttempt], tuple[int, int] | None]:
        """One page of a provider's ended attempts, newest first, and the end and number to go on with.

        Raises PROVIDER_NOT_FOUND.
        """

        def read() -> list[PastAttempt]:
            existing(provider_id)
            return reliability.page(provider_id, before, limit + 1)

        found = await self._database.read(read)
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], (last.ended_ms, last.number) if last is not None else None

    def _offering(
        self,
        row: ProviderRow,
        models: list[Model],
        own: Terms,
        card: dict[JobType, int],
        known: TrackRecord,
        now_ms: int,
    ) -> Offering:
        closed, _ = closure_of(row, own.settings, self._fleet, now_ms)
        opens = own.settings.opens(now_ms)
        presence = self._fleet.get(row.id)
        return Offering(
            row,
            models,
            card | dict(own.rates),
            known,
            max(0, row.gpu_vram_mib - own.settings.vram_reserve_mib),
            row.connected and not row.draining and closed is Obstacle.NONE,
            int(opens.timestamp() * 1000) if opens is not None else None,
            self.hindrances(row),
            presence is not None and presence.runs_plain_processes,
        )

    def _status(self, provider: ProviderRow, last_ms: int | None) -> ProviderStatus:
        return status(provider.state, is_live(last_ms, ms(self._clock)), provider.draining)


def refuse_shut_out(state: AccountState) -> None:
    """Raises when an operator keeps the provider out."""
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
