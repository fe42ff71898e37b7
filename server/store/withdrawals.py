"""Withdrawal requests, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peewee as pw

from server.domain.errors import DomainError, Reason
from server.domain.withdrawals import OPEN, Withdrawal, WithdrawalState
from server.store import models as db
from server.store import states


def insert(provider_id: int, amount_micros: int, iban: str, now_ms: int) -> int:
    """Inserts a pending request and returns its id. Raises WITHDRAWAL_OPEN while an earlier one is open."""
    try:
        row = db.Withdrawal.insert(
            provider_id=provider_id,
            amount_micros=amount_micros,
            state=states.stored(WithdrawalState.PENDING),
            iban=iban,
            iban_last4=iban[-4:],
            created_ms=now_ms,
        )
        return int(row.execute())
    except pw.IntegrityError:
        raise DomainError(
            Reason.WITHDRAWAL_OPEN,
            "a withdrawal request of yours has not ended; wait until it is paid or rejected",
        ) from None


def get(withdrawal_id: int) -> Withdrawal | None:
    """One request."""
    row = db.Withdrawal.select().where(db.Withdrawal.id == withdrawal_id).first()
    return _withdrawal(row) if row is not None else None


def move(
    withdrawal: Withdrawal, state: WithdrawalState, now_ms: int, *, reference: str | None, reason: str | None
) -> bool:
    """Changes a request's state; False if it has changed since ``withdrawal`` was read."""
    query = db.Withdrawal.update(
        state=states.stored(state), updated_ms=now_ms, reference=reference, reason=reason
    ).where(db.Withdrawal.id == withdrawal.id, states.is_in(db.Withdrawal.state, withdrawal.state))
    return bool(query.execute())


def of_provider(provider_id: int, before_id: int | None, limit: int) -> list[Withdrawal]:
    """A provider's requests, newest first, older than one that is known."""
    query = db.Withdrawal.select().where(db.Withdrawal.provider_id == provider_id)
    if before_id is not None:
        query = query.where(db.Withdrawal.id < before_id)
    return [_withdrawal(row) for row in query.order_by(db.Withdrawal.id.desc()).limit(limit)]


def pending(limit: int) -> list[Withdrawal]:
    """The pending requests, which wait for an operator, oldest first."""
    query = db.Withdrawal.select().where(states.is_in(db.Withdrawal.state, WithdrawalState.PENDING))
    return [_withdrawal(row) for row in query.order_by(db.Withdrawal.id).limit(limit)]


def page(before_id: int | None, offset: int, limit: int) -> list[Withdrawal]:
    """One page of all requests, newest first, older than one that is known."""
    query = db.Withdrawal.select()
    if before_id is not None:
        query = query.where(db.Withdrawal.id < before_id)
    newest = query.order_by(db.Withdrawal.id.desc())
    return [_withdrawal(row) for row in newest.offset(offset).limit(limit)]


def all_requests() -> Iterator[Withdrawal]:
    """Every request, one row at a time, for the proof of the ledger."""
    return (_withdrawal(row) for row in db.Withdrawal.select().order_by(db.Withdrawal.id).iterator())


def open_or_moved_since(transfer_id: int) -> list[Withdrawal]:
    """The requests that are open, and those that a transfer after ``transfer_id`` belongs to."""
    moved = db.Transfer.select(db.Transfer.withdrawal_id).where(
        db.Transfer.id > transfer_id, db.Transfer.withdrawal_id.is_null(False)
    )
    query = db.Withdrawal.select().where(
        states.is_in(db.Withdrawal.state, *sorted(OPEN)) | db.Withdrawal.id.in_(moved)
    )
    return [_withdrawal(row) for row in query]


def totals() -> dict[WithdrawalState, tuple[int, int]]:
    """The number of requests and their sum in micros, by state."""
    query = db.Withdrawal.select(
        db.Withdrawal.state, pw.fn.COUNT(db.Withdrawal.id), pw.fn.SUM(db.Withdrawal.amount_micros)
    ).group_by(db.Withdrawal.state)
    return {WithdrawalState(state): (int(count), int(sum_)) for state, count, sum_ in db.tuples(query)}


def _withdrawal(row: Any) -> Withdrawal:
    return Withdrawal(
        row.id,
        row.provider_id,
        row.amount_micros,
        WithdrawalState(row.state),
        row.iban,
        row.created_ms,
        row.updated_ms,
        row.reference,
        row.reason,
    )
