"""Withdrawals: a provider requests its earnings; an operator processes, pays or rejects the request."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.ledger import ProviderMoney
from server.domain.mailboxes import refuse_unproven
from server.domain.money import whole_halala
from server.domain.withdrawals import Withdrawal, WithdrawalAction, WithdrawalState, next_state
from server.services.operators.audit import Operator
from server.services.pages import Page, read_page
from server.services.payouts import settle_debt
from server.services.providers import existing, refuse_shut_out
from server.services.repeats import once
from server.store import ledger, withdrawals
from server.store.database import Database

log = logging.getLogger(__name__)
PENDING_LIMIT = 200
CANCELLED = "cancelled by the provider"


@dataclass(frozen=True, slots=True)
class Overview:
    """The pending requests, one page of all requests, and the totals by state (count, micros)."""

    pending: list[Withdrawal]
    page: Page[Withdrawal]
    totals: dict[WithdrawalState, tuple[int, int]]


class Withdrawals:
    """The use cases of withdrawals."""

    def __init__(self, database: Database, clock: Clock, *, needs_proof: bool = False) -> None:
        """``needs_proof``: who withdraws must have proven its e-mail address."""
        self._database = database
        self._clock = clock
        self._needs_proof = needs_proof

    async def request(self, provider_id: int, amount_micros: int, iban: str) -> tuple[Withdrawal, int]:
        """Creates a request and reserves its amount; returns it, and what can still be withdrawn, in micros.

        Raises WITHDRAWAL_OPEN, EARNINGS_TOO_LOW, PROVIDER_SUSPENDED, PROVIDER_NOT_APPROVED,
        EMAIL_NOT_VERIFIED.
        """
        now_ms = ms(self._clock)

        def reserve() -> tuple[Withdrawal, int]:
            provider = existing(provider_id)
            refuse_shut_out(provider.state)
            refuse_unproven(self._needs_proof, provider.email_verified_ms)
            # The row comes first: of two concurrent requests, the second waits here and is refused.
            withdrawal = existing_request(withdrawals.insert(provider_id, amount_micros, iban, now_ms))
            money = settle_debt(provider_id, now_ms)
            if money.claimable_micros < amount_micros:
                raise _too_low(money, amount_micros)
            ledger.apply([rules.withdrawal_transfer(withdrawal)], now_ms)
            return withdrawal, money.claimable_micros - amount_micros

        withdrawal, claimable = await self._database.run(once(reserve, now_ms))
        log.info("requested a withdrawal id=%d provider_id=%d", withdrawal.id, provider_id)
        return withdrawal, claimable

    async def own(self, provider_id: int, before_id: int | None, limit: int) -> Page[Withdrawal]:
        """One page of a provider's requests, newest first."""
        return await self._database.read(
            lambda: read_page(withdrawals.of_provider, provider_id, before_id, limit=limit)
        )

    async def cancel(self, provider_id: int, withdrawal_id: int) -> Withdrawal:
        """Takes an own request back before an operator processes it.

        Raises WITHDRAWAL_NOT_FOUND, also for a request of somebody else, and WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def move() -> Withdrawal:
            before = existing_request(withdrawal_id, provider_id)
            return _moved(before, WithdrawalAction.CANCEL, now_ms, reason=CANCELLED)

        after = await self._database.run(once(move, now_ms))
        log.info("withdrawal cancelled id=%d provider_id=%d", after.id, provider_id)
        return after

    async def get(self, withdrawal_id: int) -> Withdrawal:
        """One request, for an operator. Raises WITHDRAWAL_NOT_FOUND."""
        return await self._database.read(lambda: existing_request(withdrawal_id))

    async def overview(self, before_id: int | None, page: int, page_size: int) -> Overview:
        """All requests, for an operator."""
        return await self._database.read(
            lambda: Overview(
                withdrawals.pending(PENDING_LIMIT),
                read_page(withdrawals.page, before_id, (page - 1) * page_size, limit=page_size),
                withdrawals.totals(),
            )
        )

    async def act(
        self,
        operator: Operator,
        withdrawal_id: int,
        action: WithdrawalAction,
        *,
        reference: str | None = None,
        reason: str | None = None,
    ) -> Withdrawal:
        """Applies an operator's action to a request: its state, its money, and an audit entry.

        Raises WITHDRAWAL_NOT_FOUND, and WRONG_STATE if the request's state does not allow the action.
        """
        now_ms = ms(self._clock)

        def move() -> Withdrawal:
            before = existing_request(withdrawal_id)
            after = _moved(before, action, now_ms, reference=reference, reason=reason)
            operator.note(
                f"withdrawal.{action}", withdrawal_id, _audit_facts(before), _audit_facts(after), now_ms
            )
            return after

        after = await self._database.run(once(move, now_ms))
        log.info("withdrawal %s id=%d provider_id=%d", after.state, after.id, after.provider_id)
        return after


def _moved(
    before: Withdrawal,
    action: WithdrawalAction,
    now_ms: int,
    *,
    reference: str | None = None,
    reason: str | None = None,
) -> Withdrawal:
    """A request after an action, with its money. Raises WRONG_STATE if its state does not allow that."""
    state = next_state(before.state, action)
    if state is None or not withdrawals.move(before, state, now_ms, reference=reference, reason=reason):
        raise _wrong_state(existing_request(before.id), action)
    after = dataclasses.replace(before, state=state, updated_ms=now_ms, reference=reference, reason=reason)
    if state is not WithdrawalState.PROCESSING:
        ledger.apply([rules.withdrawal_transfer(after)], now_ms)
    return after


def _audit_facts(withdrawal: Withdrawal) -> dict[str, object]:
    """What the audit log records of a request: its state, its amount, and the operator's texts."""
    texts = {"reference": withdrawal.reference, "reason": withdrawal.reason}
    return {
        "status": withdrawal.state.value,
        "amount_halala": whole_halala(withdrawal.amount_micros),
        **{name: value for name, value in texts.items() if value is not None},
    }


def existing_request(withdrawal_id: int, provider_id: int | None = None) -> Withdrawal:
    """A request: any, or only one of a provider's own."""
    found = withdrawals.get(withdrawal_id)
    if found is None or provider_id not in (None, found.provider_id):
        raise DomainError(
            Reason.WITHDRAWAL_NOT_FOUND,
            f"withdrawal_id: no withdrawal request {withdrawal_id}",
            field="withdrawal_id",
        )
    return found


def _wrong_state(withdrawal: Withdrawal, action: WithdrawalAction) -> DomainError:
    state = withdrawal.state.value
    return DomainError(
        Reason.WRONG_STATE,
        f"withdrawal {withdrawal.id} is {state}, which does not allow {action}; nothing was changed",
        status=state,
    )


def _too_low(money: ProviderMoney, required: int) -> DomainError:
    claimable, maturing = whole_halala(money.claimable_micros), whole_halala(money.maturing_micros)
    required = whole_halala(required)
    later = f", or wait: {maturing} halala mature" if maturing else ""
    return DomainError(
        Reason.EARNINGS_TOO_LOW,
        f"amount_halala: {claimable} halala can be withdrawn and the request is for {required}; "
        f"request less{later}",
        field="amount_halala",
        balance_halala=claimable,
        required_halala=required,
        shortfall_halala=required - claimable,
    )
