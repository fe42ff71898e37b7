"""Operators' decisions about accounts: approving, suspending and unsuspending them."""

from __future__ import annotations

import logging

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.providers import AccountDecision, AccountState, ProviderStatus, next_state
from server.services.endings import take_back_offers
from server.services.fleet import Fleet
from server.services.keys import PROVIDER, RENTER, Credentials
from server.services.operators.audit import Operator
from server.services.providers import Providers, existing
from server.services.renters import existing as existing_renter
from server.services.streams import Streams
from server.store import log_ins, providers, renters, standing
from server.store.database import Database

log = logging.getLogger(__name__)


class Accounts:
    """Decisions about accounts; each is recorded in the audit log."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        providers: Providers,
        streams: Streams,
        known: Credentials,
        clock: Clock,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._providers = providers
        self._streams = streams
        self._known = known
        self._clock = clock

    async def decide_provider(
        self, operator: Operator, provider_id: int, decision: AccountDecision, reason: str = ""
    ) -> ProviderStatus:
        """Applies a decision to a provider, and returns its status after that.

        A suspended provider loses the offers that it has not accepted. The jobs that it has accepted
        continue; its session ends after them, and its log-ins at once.

        Raises PROVIDER_NOT_FOUND, WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def decide() -> tuple[AccountState, list[bytes]]:
            before = existing(provider_id).state
            after = next_state(before, decision)
            if after is None or not providers.set_state(provider_id, before, after):
                raise _wrong_state("provider", provider_id, existing(provider_id).state, decision)
            if decision is AccountDecision.SUSPEND:
                take_back_offers(provider_id, now_ms)
            standing.make_due([provider_id])
            _note(operator, f"provider.{decision}", provider_id, before, after, reason, now_ms)
            return after, _ended_log_ins(PROVIDER, provider_id, after, now_ms)

        state, ended = await self._database.run(decide)
        for sha256 in ended:
            self._known.forget(sha256)
        self._fleet.set_state(provider_id, state)
        self._fleet.announce(provider_id)
        if state is AccountState.SUSPENDED:
            self._streams.recheck(provider_id, state)
        log.info("provider %s provider_id=%d", state, provider_id)
        return await self._providers.status(provider_id)

    async def read_states(self) -> None:
        """Applies decisions about connected providers that another server stored, or a new session missed."""
        if self._fleet.all():
            for changed in self._fleet.set_states(await self._database.read(providers.inactive_connected)):
                self._streams.recheck(changed.provider_id, changed.state)

    async def decide_renter(
        self, operator: Operator, renter_id: int, decision: AccountDecision, reason: str = ""
    ) -> AccountState:
        """Applies a decision to a renter, and returns its new state. Its jobs continue in any case.

        A suspended one is logged out everywhere. Raises RENTER_NOT_FOUND, WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def decide() -> tuple[AccountState, list[bytes]]:
            before = existing_renter(renter_id).state
            after = next_state(before, decision)
            if after is None or not renters.set_state(renter_id, before, after):
                raise _wrong_state("renter", renter_id, existing_renter(renter_id).state, decision)
            _note(operator, f"renter.{decision}", renter_id, before, after, reason, now_ms)
            return after, _ended_log_ins(RENTER, renter_id, after, now_ms)

        state, ended = await self._database.run(decide)
        for sha256 in ended:
            self._known.forget(sha256)
        log.info("renter %s renter_id=%d", state, renter_id)
        return state


def _ended_log_ins(role: str, account_id: int, state: AccountState, now_ms: int) -> list[bytes]:
    """Logs out an account that is suspended now; returns the digests of the log-ins that ended."""
    return log_ins.end_all(role, account_id, now_ms) if state is AccountState.SUSPENDED else []


def _note(
    operator: Operator,
    action: str,
    object_id: int,
    before: AccountState,
    after: AccountState,
    reason: str,
    now_ms: int,
) -> None:
    after_facts = {"status": after.value} | ({"reason": reason} if reason else {})
    operator.note(action, object_id, {"status": before.value}, after_facts, now_ms)


def _wrong_state(kind: str, object_id: int, state: AccountState, decision: AccountDecision) -> DomainError:
    return DomainError(
        Reason.WRONG_STATE,
        f"{kind} {object_id} is {state.value}, which does not allow {decision}; nothing was changed",
        status=state.value,
    )
