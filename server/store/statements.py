"""Statements, calculated from the transfers. Runs inside its caller's transaction."""

from __future__ import annotations

from typing import Any

import peewee as pw

from server.domain import ledger as rules
from server.domain.jobs import JobType
from server.domain.ledger import TransferKind
from server.domain.statements import DAY_MS, Line
from server.store.ledger import account_id, of_kind
from server.store.models import Hold, Job, Transfer, tuples

# A day in UTC, counted from 1970; a job type; the number of its jobs; and their sum in halala.
DayRow = tuple[int, JobType, int, int]
# SQL text instead of a parameter: PostgreSQL treats two parameters with one value as different expressions.
_DAY = Transfer.created_ms / pw.SQL(str(DAY_MS))


def lines(renter_id: int, before_id: int | None, limit: int) -> list[Line]:
    """The changes of a renter's balance, newest first; optionally only those before an id."""
    wallet = account_id(rules.renter(renter_id))
    if wallet is None:
        return []
    signed = pw.Case(None, [(Transfer.credit_account_id == wallet, Transfer.amount_halala)], _negative())
    mine = (Transfer.debit_account_id == wallet) | (Transfer.credit_account_id == wallet)
    query = (
        Transfer.select(
            Transfer.id,
            Transfer.created_ms,
            Transfer.kind,
            signed,
            Transfer.job_id,
            Hold.charge_halala,
            Job.job_type,
            Job.model,
        )
        .join(Job, pw.JOIN.LEFT_OUTER, on=(Job.job_id == Transfer.job_id))
        .join(Hold, pw.JOIN.LEFT_OUTER, on=_hold_of_line())
        .where(mine)
    )
    if before_id is not None:
        query = query.where(Transfer.id < before_id)
    rows = list(tuples(query.order_by(Transfer.id.desc()).limit(limit)))
    if not rows:
        return []
    newest_id = rows[0][0]
    balance = Transfer.select(pw.fn.SUM(signed)).where(mine, Transfer.id <= newest_id).scalar()
    return _with_balances(rows, int(balance))


def spending(renter_id: int, since_day: int) -> list[DayRow]:
    """What a renter was charged by day and job type, from ``since_day`` on."""
    held = account_id(rules.held(renter_id))
    if held is None:
        return []
    charges = Transfer.kind.in_([TransferKind.PAYOUT.value, TransferKind.FEE.value])
    return _by_day((Transfer.debit_account_id == held) & charges, since_day)


def earnings(provider_id: int, since_day: int) -> list[DayRow]:
    """What a provider earned by day and job type, from ``since_day`` on."""
    own = account_id(rules.provider(provider_id))
    if own is None:
        return []
    return _by_day((Transfer.credit_account_id == own) & of_kind(TransferKind.PAYOUT), since_day)


def _by_day(which: Any, since_day: int) -> list[DayRow]:
    query = (
        Transfer.select(
            _DAY,
            Job.job_type,
            pw.fn.COUNT(pw.fn.DISTINCT(Transfer.job_id)),
            pw.fn.SUM(Transfer.amount_halala),
        )
        .join(Job, on=(Job.job_id == Transfer.job_id))
        .where(which, Transfer.created_ms >= since_day * DAY_MS)
        .group_by(_DAY, Job.job_type)
    )
    return [(int(day), JobType(kind), int(jobs), int(sum_)) for day, kind, jobs, sum_ in tuples(query)]


def _negative() -> Any:
    return pw.Value(0, converter=False) - Transfer.amount_halala


def _hold_of_line() -> Any:
    return (Hold.job_id == Transfer.job_id) & (Transfer.kind == TransferKind.HOLD.value)


def _with_balances(rows: list[tuple[Any, ...]], balance_halala: int) -> list[Line]:
    """The rows as lines; ``balance_halala`` is the balance after the first row, which is the newest."""
    lines_ = []
    for line_id, at_ms, kind, amount, job_id, charged, job_type, model in rows:
        lines_.append(
            Line(
                int(line_id),
                int(at_ms),
                TransferKind(kind),
                int(amount),
                balance_halala,
                charged,
                job_id,
                JobType(job_type) if job_type is not None else None,
                model,
            )
        )
        balance_halala -= int(amount)
    return lines_
