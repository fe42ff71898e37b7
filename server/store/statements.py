"""Statements, calculated from the transfers and the holds. Runs inside its caller's transaction."""

from __future__ import annotations

from typing import Any

import peewee as pw

from server.domain import ledger as rules
from server.domain.jobs import JobType
from server.domain.ledger import HoldState, TransferKind
from server.domain.statements import DAY_MS, EVER, Line, Period
from server.store import day_sums, states
from server.store.day_sums import Source
from server.store.ledger import account_id, balance, of_kind, payout_accounts
from server.store.models import Hold, Job, Transfer, tuples

# A day in UTC, counted from 1970; a job type; the number of its jobs; and their sum in micros.
DayRow = tuple[int, JobType, int, int]
# SQL text instead of a parameter: PostgreSQL treats two parameters with one value as different expressions.
_DAY_MS = pw.SQL(str(DAY_MS))
_COUNT = pw.fn.COUNT(pw.SQL("*"))


def lines(renter_id: int, before_id: int | None, limit: int, period: Period = EVER) -> list[Line]:
    """The changes of a renter's balance in a period, newest first; optionally only those before an id."""
    wallet = account_id(rules.renter(renter_id))
    if wallet is None:
        return []
    # Two queries that each follow an index; one query over both sides would sort all lines of the wallet.
    bounds = _bounds(before_id, period)
    given = _side((Transfer.debit_account_id == wallet, *bounds), -1, limit)
    taken = _side((Transfer.credit_account_id == wallet, *bounds), 1, limit)
    rows = sorted((*given, *taken), key=lambda row: int(row[0]), reverse=True)[:limit]
    if not rows:
        return []
    return _with_balances(rows, balance(rules.renter(renter_id)) - _moved_after(wallet, rows[0][0]))


def spending(renter_id: int, since_day: int) -> list[DayRow]:
    """What a renter was charged by day and job type, from ``since_day`` on."""
    first = max(since_day, day_sums.first_uncounted(day_sums.SPENT))
    own = (
        Hold.renter_id == renter_id,
        states.is_exactly(Hold.state, HoldState.POSTED),
        Hold.resolved_ms >= first * DAY_MS,
    )
    later = _by_day(Hold, own, Hold.resolved_ms, Hold.charge_micros)
    return _added_up(day_sums.SPENT, renter_id, since_day) + later


def earnings(provider_id: int, since_day: int) -> list[DayRow]:
    """What a provider earned by day and job type, from ``since_day`` on."""
    first = max(since_day, day_sums.first_uncounted(day_sums.EARNED))
    payouts = (
        Transfer.credit_account_id.in_(payout_accounts(provider_id)),
        of_kind(TransferKind.PAYOUT),
        Transfer.created_ms >= first * DAY_MS,
    )
    later = _by_day(Transfer, payouts, Transfer.created_ms, Transfer.amount_micros)
    return _added_up(day_sums.EARNED, provider_id, since_day) + later


def earned_since(provider_id: int, *since_day: int) -> list[int]:
    """The sum of a provider's payouts since each of some days, in micros."""
    rows = earnings(provider_id, min(since_day))
    return [sum(amount for day, _, _, amount in rows if day >= since) for since in since_day]


def _added_up(source: Source, owner_id: int, since_day: int) -> list[DayRow]:
    found = day_sums.added_up(source, owner_id, since_day)
    return [(day, JobType(kind), jobs, amount) for day, kind, jobs, amount in found]


def _by_day(rows: Any, where: tuple[Any, ...], at_ms: Any, amount: Any) -> list[DayRow]:
    """The rows' sums by day and job type; two may have the same day and type."""
    day, sum_of = at_ms / _DAY_MS, (_COUNT, pw.fn.SUM(amount))
    query = rows.select(day, rows.job_type, *sum_of).where(*where)
    found = list(tuples(query.group_by(day, rows.job_type)))
    if not all(kind for _, kind, *_ in found):
        # A server of before schema 0016, which ran beside this one, stored no type: that of the job counts.
        without = (rows.job_type == "") | rows.job_type.is_null()
        query = rows.select(day, Job.job_type, *sum_of).join(Job, on=(Job.job_id == rows.job_id))
        found = [row for row in found if row[1]]
        found += tuples(query.where(*where, without).group_by(day, Job.job_type))
    return [(int(day), JobType(kind), int(jobs), int(amount)) for day, kind, jobs, amount in found]


def _bounds(before_id: int | None, period: Period) -> list[Any]:
    bounds = [Transfer.id < before_id] if before_id is not None else []
    if period.first_day is not None:
        bounds.append(Transfer.created_ms >= period.first_day * DAY_MS)
    if period.last_day is not None:
        bounds.append(Transfer.created_ms < (period.last_day + 1) * DAY_MS)
    return bounds


def _side(mine: tuple[Any, ...], sign: int, limit: int) -> list[tuple[Any, ...]]:
    """The newest transfers on one side of a wallet, newest first, with what ``lines`` shows of them."""
    hold_of_line = (Hold.job_id == Transfer.job_id) & (Transfer.kind == TransferKind.HOLD.value)
    query = (
        Transfer.select(
            Transfer.id,
            Transfer.created_ms,
            Transfer.kind,
            Transfer.amount_micros * sign,
            Transfer.job_id,
            Hold.charge_micros,
            Job.job_type,
            Job.model,
        )
        .join(Job, pw.JOIN.LEFT_OUTER, on=(Job.job_id == Transfer.job_id))
        .join(Hold, pw.JOIN.LEFT_OUTER, on=hold_of_line)
        .where(*mine)
    )
    return list(tuples(query.order_by(Transfer.id.desc()).limit(limit)))


def _moved_after(wallet: int, line_id: int) -> int:
    """The sum of the changes of a wallet after one of its lines, in micros."""
    amount = pw.fn.COALESCE(pw.fn.SUM(Transfer.amount_micros), 0)
    taken, given = (
        Transfer.select(amount).where(side == wallet, Transfer.id > line_id).scalar()
        for side in (Transfer.credit_account_id, Transfer.debit_account_id)
    )
    return int(taken) - int(given)


def _with_balances(rows: list[tuple[Any, ...]], balance_micros: int) -> list[Line]:
    """The rows as lines; ``balance_micros`` is the balance after the first row, which is the newest."""
    lines_ = []
    for line_id, at_ms, kind, amount, job_id, charged, job_type, model in rows:
        lines_.append(
            Line(
                int(line_id),
                int(at_ms),
                TransferKind(kind),
                int(amount),
                balance_micros,
                charged,
                job_id,
                JobType(job_type) if job_type is not None else None,
                model,
            )
        )
        balance_micros -= int(amount)
    return lines_
