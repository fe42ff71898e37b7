"""What operators look at, as rows: each statement reads a page, or what an index bounds.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain import ledger as rules
from server.domain.disputes import DisputeState
from server.domain.ledger import AccountKind, TransferKind
from server.domain.providers import AccountState
from server.domain.statements import DAY_MS
from server.store import day_sums, states
from server.store import models as db
from server.store.ledger import of_kind

# Counted jobs that ended: enough for figures, and read by their index in a few milliseconds.
ENDED_LIMIT = 2000
_DAY_MS = pw.SQL(str(DAY_MS))
_COUNT = pw.fn.COUNT(pw.SQL("*"))


@dataclass(frozen=True, slots=True)
class EndedJob:
    """How a job ended; times in ms."""

    state: str
    failure_reason: str | None
    created_ms: int
    started_ms: int | None


@dataclass(frozen=True, slots=True)
class ProviderTransfer:
    """A transfer from or to a provider's accounts; None: from or to somewhere else."""

    id: int
    at_ms: int
    kind: TransferKind
    amount_micros: int
    from_kind: AccountKind | None
    to_kind: AccountKind | None
    job_id: str | None
    withdrawal_id: int | None


@dataclass(frozen=True, slots=True)
class Payer:
    """A renter whose jobs a provider was paid for."""

    renter_id: int
    name: str
    created_ms: int
    paid_micros: int
    state: AccountState
    is_market: bool


def ended_since(since_ms: int) -> list[EndedJob]:
    """The newest jobs that ended since a time, and one more than are counted if there are more."""
    job = db.Job
    query = job.select(job.state, job.failure_reason, job.created_ms, job.started_ms)
    newest = query.where(job.ended_ms >= since_ms).order_by(job.ended_ms.desc()).limit(ENDED_LIMIT + 1)
    return [EndedJob(*row) for row in db.tuples(newest)]


def open_disputes() -> int:
    """How many disputes are open."""
    return int(db.Dispute.select().where(states.is_in(db.Dispute.state, DisputeState.OPEN)).count())


def moved_by_day(since_day: int) -> list[tuple[int, TransferKind, int]]:
    """The sums of the transfers of each kind that is added up, by day since 1970, in micros."""
    source = day_sums.MOVED
    found = day_sums.added_up(source, day_sums.NOBODY, since_day)
    rows = [(day, TransferKind(kind), amount) for day, kind, _, amount in found if kind]
    first = max(since_day, day_sums.first_uncounted(source))
    day = db.Transfer.created_ms / _DAY_MS
    for kind in day_sums.MOVED_KINDS:
        later = db.Transfer.select(day, pw.fn.SUM(db.Transfer.amount_micros)).where(
            of_kind(kind), db.Transfer.created_ms >= first * DAY_MS
        )
        rows += [(int(number), kind, int(amount)) for number, amount in db.tuples(later.group_by(day))]
    return rows


def transfers_of_provider(provider_id: int, before_id: int | None, limit: int) -> list[ProviderTransfer]:
    """The transfers from and to a provider's accounts, newest first, older than one that is known."""
    kinds = {account.kind.value: account.kind for account in rules.accounts_of(provider_id)}
    own = db.Account.select(db.Account.id, db.Account.kind)
    rows = db.tuples(own.where(db.Account.kind.in_(list(kinds)), db.Account.owner_id == provider_id))
    accounts = {int(account_id): kinds[kind] for account_id, kind in rows}
    found: dict[int, Any] = {}
    for account_id in accounts:
        # A query for each side of each account follows an index; one over all would sort every transfer.
        for side in (db.Transfer.debit_account_id, db.Transfer.credit_account_id):
            query = db.Transfer.select().where(side == account_id)
            if before_id is not None:
                query = query.where(db.Transfer.id < before_id)
            found |= {row.id: row for row in query.order_by(db.Transfer.id.desc()).limit(limit)}
    return [
        ProviderTransfer(
            row.id,
            row.created_ms,
            TransferKind(row.kind),
            row.amount_micros,
            accounts.get(row.debit_account_id),
            accounts.get(row.credit_account_id),
            row.job_id,
            row.withdrawal_id,
        )
        for _, row in sorted(found.items(), reverse=True)[:limit]
    ]


def payers(provider_id: int, limit: int) -> list[Payer]:
    """The renters that paid a provider most, by its share, up to the last look at payouts."""
    paid, renter = db.ProviderCustomer, db.Renter
    query = (
        paid.select(
            renter.id, renter.name, renter.created_ms, paid.paid_micros, renter.state, renter.is_market
        )
        .join(renter, on=(renter.id == paid.renter_id))
        .where(paid.provider_id == provider_id)
        .order_by(paid.paid_micros.desc(), paid.renter_id)
        .limit(limit)
    )
    return [
        Payer(int(id_), name, int(created_ms), int(amount), AccountState(state), bool(is_market))
        for id_, name, created_ms, amount, state, is_market in db.tuples(query)
    ]


def same_bank_account(provider_id: int, iban: str, limit: int) -> list[int]:
    """Other providers that requested withdrawals to a bank account."""
    row = db.Withdrawal
    query = row.select(row.provider_id).where(row.iban == iban, row.provider_id != provider_id).distinct()
    return [int(id_) for (id_,) in db.tuples(query.order_by(row.provider_id).limit(limit))] if iban else []
