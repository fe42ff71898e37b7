"""Payouts mature: what is old enough moves to its provider's claimable account, which also repays debts.

Settlements only credit the maturing account; everything here happens beside the path of jobs.
"""

from __future__ import annotations

from functools import partial

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.ledger import ProviderMoney
from server.domain.payouts import Period, matured
from server.services.each import each
from server.store import disputes, ledger, payouts
from server.store.database import Database

# Providers that one tick looks at; those that are left follow in the next.
PROVIDERS_AT_ONCE = 200


class Payouts:
    """The duty that matures payouts. ``period`` says how long those of a provider take."""

    def __init__(self, database: Database, clock: Clock, period: Period) -> None:
        self._database = database
        self._clock = clock
        self._period = period

    async def tick(self) -> None:
        """Moves what is old enough, one transfer for each provider, and repays debts."""
        now_ms = ms(self._clock)
        due = await self._database.read(lambda: payouts.due(now_ms, PROVIDERS_AT_ONCE))
        await each(
            "maturing payouts", due, lambda id_: self._database.run(partial(self._mature, id_, now_ms))
        )
        owing = await self._database.read(lambda: payouts.with_debt(PROVIDERS_AT_ONCE))
        await each("a debt", owing, lambda id_: self._database.run(partial(settle_debt, id_, now_ms)))

    def _mature(self, provider_id: int, now_ms: int) -> None:
        through_id = payouts.lock_cursor(provider_id)
        ledger.lock(rules.accounts_of(provider_id))
        found = matured(payouts.after(provider_id, through_id), through_id, self._period(provider_id), now_ms)
        if amount := found.amount_micros - _refunded(provider_id, through_id, found.amount_micros):
            ledger.apply([rules.matured_transfer(provider_id, amount)], now_ms)
        payouts.move_cursor(provider_id, found.through_id, found.due_ms)


def _refunded(provider_id: int, through_id: int, most_micros: int) -> int:
    """How much of the payouts after a locked cursor went into refunds of other jobs, up to a sum.

    The oldest payouts bear it, as a debt is repaid first: no younger money matures in their place.
    """
    if not most_micros or not disputes.any_upheld(provider_id):
        return 0
    is_there = ledger.of_provider(provider_id).maturing_micros
    return min(most_micros, max(0, payouts.waiting_micros(provider_id, through_id) - is_there))


def settle_debt(provider_id: int, now_ms: int) -> ProviderMoney:
    """Repays what a provider owes from what it could withdraw; locks its accounts and returns its money."""
    ledger.lock(rules.accounts_of(provider_id))
    money = ledger.of_provider(provider_id)
    if repayment := rules.repayment(provider_id, money):
        ledger.apply(repayment, now_ms)
        money = ledger.of_provider(provider_id)
    return money
