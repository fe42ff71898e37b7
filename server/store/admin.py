"""Rows that only the operator looks at: withdrawals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import peewee as pw

from server.store.models import Withdrawal, tuples


@dataclass(frozen=True, slots=True)
class WithdrawalRow:
    """A withdrawal request as stored."""

    id: int
    provider_id: int
    amount_halala: int
    state: str
    iban_last4: str
    created_ms: int


def pending_withdrawals(limit: int) -> list[WithdrawalRow]:
    """Those that wait for an operator, oldest first."""
    query = Withdrawal.select().where(Withdrawal.state == "pending")
    return _rows(query.order_by(Withdrawal.id).limit(limit))


def withdrawals(offset: int, limit: int) -> list[WithdrawalRow]:
    """One page of all, newest first."""
    return _rows(Withdrawal.select().order_by(Withdrawal.id.desc()).offset(offset).limit(limit))


def withdrawal_totals() -> dict[str, tuple[int, int]]:
    """How many there are and what they sum to, in halala, by state."""
    query = Withdrawal.select(
        Withdrawal.state, pw.fn.COUNT(Withdrawal.id), pw.fn.SUM(Withdrawal.amount_halala)
    ).group_by(Withdrawal.state)
    return {state: (int(count), int(amount)) for state, count, amount in tuples(query)}


def _rows(query: Iterable[Withdrawal]) -> list[WithdrawalRow]:
    return [
        WithdrawalRow(row.id, row.provider_id, row.amount_halala, row.state, row.iban_last4, row.created_ms)
        for row in query
    ]
