"""Disputes, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import peewee as pw

from server.domain.disputes import DISPUTE_TRANSITIONS, OF_DISPUTES, Dispute, DisputeEvent, DisputeState
from server.domain.ledger import AccountKind, TransferKind
from server.domain.proof import MAX_DISCREPANCIES
from server.store import models as db
from server.store import states
from server.store.models import tuples
from server.store.prepared import locking

# As SQL text: with parameters, the partial index transfer_of_dispute is not used.
_KINDS = ", ".join(f"'{kind.value}'" for kind in OF_DISPUTES)
# Parameters in one statement.
_BATCH = 500
IS_OF_DISPUTE = db.Transfer.kind.in_(pw.SQL(f"({_KINDS})"))
# Beside a condition on the id: otherwise SQLite reads all transfers of these kinds.
_KIND = db.Transfer.kind.concat("")
IS_OF_DISPUTE_SINCE = _KIND.in_(pw.SQL(f"({_KINDS})"))


def insert(
    *,
    job_id: str,
    renter_id: int,
    provider_id: int,
    reason: str,
    charge_micros: int,
    payout_micros: int,
    payout_id: int,
    held_micros: int,
    maturing_micros: int,
    now_ms: int,
) -> None:
    """Inserts a dispute."""
    db.Dispute.insert(
        job_id=job_id,
        renter_id=renter_id,
        provider_id=provider_id,
        state=states.first(DISPUTE_TRANSITIONS, DisputeEvent.OPEN),
        reason=reason,
        charge_micros=charge_micros,
        payout_micros=payout_micros,
        payout_id=payout_id,
        held_micros=held_micros,
        maturing_micros=maturing_micros,
        created_ms=now_ms,
    ).execute()


def decide(
    dispute: Dispute, event: DisputeEvent, note: str, now_ms: int, refund_micros: int | None = None
) -> bool:
    """Decides a dispute; False if it was decided before."""
    query = db.Dispute.update(
        state=states.after(DISPUTE_TRANSITIONS, event),
        note=note,
        decided_ms=now_ms,
        refund_micros=refund_micros,
    ).where(db.Dispute.id == dispute.id, states.may(db.Dispute.state, DISPUTE_TRANSITIONS, event))
    return bool(query.execute())


def get(dispute_id: int, *, lock: bool = False) -> Dispute | None:
    """One dispute."""
    query = db.Dispute.select().where(db.Dispute.id == dispute_id)
    row = (locking(query) if lock else query).first()
    return _dispute(row) if row is not None else None


def of_job(job_id: str) -> Dispute | None:
    """The dispute of a job."""
    row = db.Dispute.select().where(db.Dispute.job_id == job_id).first()
    return _dispute(row) if row is not None else None


def of_renter(renter_id: int, before_id: int | None, limit: int) -> list[Dispute]:
    """A renter's disputes, newest first, older than one that is known."""
    return _page(db.Dispute.renter_id == renter_id, before_id, limit)


def of_provider(provider_id: int, before_id: int | None, limit: int) -> list[Dispute]:
    """The disputes about a provider's jobs, newest first, older than one that is known."""
    return _page(db.Dispute.provider_id == provider_id, before_id, limit)


def in_state(state: DisputeState | None, before_id: int | None, limit: int) -> list[Dispute]:
    """All disputes, or those in a state, newest first, older than one that is known."""
    return _page(states.is_in(db.Dispute.state, state) if state is not None else None, before_id, limit)


def count_open(renter_id: int) -> int:
    """How many disputes of a renter are open."""
    is_open = states.is_in(db.Dispute.state, DisputeState.OPEN)
    return int(db.Dispute.select().where(db.Dispute.renter_id == renter_id, is_open).count())


def any_upheld(provider_id: int) -> bool:
    """Whether a dispute about a job of a provider was upheld."""
    is_upheld = states.is_in(db.Dispute.state, DisputeState.UPHELD)
    return bool(db.Dispute.select().where(db.Dispute.provider_id == provider_id, is_upheld).exists())


def counts_of_provider(provider_id: int) -> dict[DisputeState, int]:
    """How many disputes about a provider's jobs are in each state."""
    query = (
        db.Dispute.select(db.Dispute.state, pw.fn.COUNT(db.Dispute.id))
        .where(db.Dispute.provider_id == provider_id)
        .group_by(db.Dispute.state)
    )
    return {DisputeState(state): int(count) for state, count in tuples(query)}


def taken_of(provider_id: int, first_id: int, last_id: int) -> dict[int, int]:
    """What disputes took of a provider's payouts before they matured, by the payout's transfer."""
    query = db.Dispute.select(db.Dispute.payout_id, db.Dispute.maturing_micros).where(
        db.Dispute.provider_id == provider_id, db.Dispute.payout_id.between(first_id, last_id)
    )
    return {int(payout_id): int(amount) for payout_id, amount in tuples(query)}


def taken_after(provider_id: int, payout_id: int) -> int:
    """The sum of what disputes took of a provider's payouts after one before they matured."""
    query = db.Dispute.select(pw.fn.SUM(db.Dispute.maturing_micros)).where(
        db.Dispute.provider_id == provider_id, db.Dispute.payout_id > payout_id
    )
    return int(query.scalar() or 0)


def all_disputes() -> Iterator[Dispute]:
    """Every dispute, one row at a time, for the proof of the ledger."""
    return (_dispute(row) for row in db.Dispute.select().order_by(db.Dispute.id).iterator())


def open_or_moved_since(transfer_id: int) -> list[Dispute]:
    """The disputes that are open, and those that a transfer after ``transfer_id`` belongs to."""
    moved = db.Transfer.select(db.Transfer.job_id).where(
        db.Transfer.id > transfer_id, IS_OF_DISPUTE_SINCE | _KIND.in_(["forfeit"])
    )
    query = db.Dispute.select().where(
        states.is_in(db.Dispute.state, DisputeState.OPEN) | db.Dispute.job_id.in_(moved)
    )
    return [_dispute(row) for row in query]


def of_no_charge(ids: Sequence[int] | None = None) -> list[str]:
    """The disputes, all or some, that differ from the charge and the payout of their jobs, as sentences."""
    debited, credited, taken = db.Account.alias(), db.Account.alias(), db.Transfer.alias()
    from_maturing = (
        taken.select(pw.fn.COALESCE(pw.fn.SUM(taken.amount_micros), 0))
        .join(db.Account, on=(db.Account.id == taken.debit_account_id))
        .where(
            taken.job_id == db.Dispute.job_id,
            taken.kind == pw.SQL("'disputed'"),
            db.Account.kind == AccountKind.PROVIDER_MATURING.value,
        )
    )
    agrees = (
        (db.Transfer.kind == TransferKind.PAYOUT.value)
        & (db.Transfer.job_id == db.Dispute.job_id)
        & (db.Transfer.amount_micros == db.Dispute.payout_micros)
        & (debited.owner_id == db.Dispute.renter_id)
        & (credited.owner_id == db.Dispute.provider_id)
        & (db.Hold.charge_micros == db.Dispute.charge_micros)
        & (db.Dispute.maturing_micros == from_maturing)
    )
    outer = pw.JOIN.LEFT_OUTER
    query = (
        db.Dispute.select(db.Dispute.job_id)
        .join(db.Transfer, outer, on=(db.Transfer.id == db.Dispute.payout_id))
        .join(debited, outer, on=(debited.id == db.Transfer.debit_account_id))
        .join(credited, outer, on=(credited.id == db.Transfer.credit_account_id))
        .join(db.Hold, outer, on=(db.Hold.job_id == db.Dispute.job_id))
        .where(~pw.fn.COALESCE(agrees, pw.SQL("FALSE")))
        .limit(MAX_DISCREPANCIES)
    )
    parts = [query]
    if ids is not None:
        batches = [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
        parts = [query.where(db.Dispute.id.in_(batch)) for batch in batches]
    return [
        f"the dispute of {job_id} does not agree with the charge and the payout of its job"
        for part in parts
        for (job_id,) in tuples(part)
    ]


def refunded_of_maturing() -> dict[int, int]:
    """What refunds took from each provider's maturing payouts."""
    query = (
        db.Transfer.select(db.Account.owner_id, pw.fn.SUM(db.Transfer.amount_micros))
        .join(db.Account, on=(db.Account.id == db.Transfer.debit_account_id))
        .where(
            IS_OF_DISPUTE,
            db.Transfer.kind == TransferKind.DISPUTE_REFUND.value,
            db.Account.kind == AccountKind.PROVIDER_MATURING.value,
        )
        .group_by(db.Account.owner_id)
    )
    return {int(provider_id): int(amount) for provider_id, amount in tuples(query)}


def _page(mine: Any, before_id: int | None, limit: int) -> list[Dispute]:
    query = db.Dispute.select()
    if mine is not None:
        query = query.where(mine)
    if before_id is not None:
        query = query.where(db.Dispute.id < before_id)
    return [_dispute(row) for row in query.order_by(db.Dispute.id.desc()).limit(limit)]


def _dispute(row: Any) -> Dispute:
    return Dispute(
        row.id,
        row.job_id,
        row.renter_id,
        row.provider_id,
        DisputeState(row.state),
        row.reason,
        row.charge_micros,
        row.payout_micros,
        row.payout_id,
        row.held_micros,
        row.maturing_micros,
        row.created_ms,
        row.refund_micros,
        row.note,
        row.decided_ms,
    )
