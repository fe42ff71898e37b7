"""The proof of the ledger over its rows, and the checkpoints from which it starts.

``prove`` starts from the newest checkpoint and lets the database add up what followed: its work depends on
accounts, open holds and the transfers since that checkpoint. ``prove_changes`` reads only those accounts that
these transfers touched or that hold money of something open. ``replay`` reads every row, in pages; its memory
depends on accounts and open holds. Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import peewee as pw

from server.domain import proof
from server.domain.disputes import DisputeState
from server.domain.jobs import FINAL
from server.domain.ledger import OF_HOLDS, Account, AccountKind, HoldState, Transfer, TransferKind, held
from server.domain.money import text
from server.domain.proof import (
    MAX_DISCREPANCIES,
    Checkpoint,
    Extent,
    Proof,
    Segment,
    StoredHold,
    StoredTransfer,
    Sums,
)
from server.domain.providers import AccountState
from server.domain.withdrawals import OPEN as OPEN_WITHDRAWALS
from server.store import budgets, disputes, ledger, payouts, renters, states, withdrawals
from server.store import models as db
from server.store.models import tuples

# Rows in one page of a replay.
PAGE_ROWS = 10_000
# Parameters in one statement.
_BATCH = 500
# The kind of a transfer in conditions beside one on its id: otherwise SQLite reads all transfers of the kind.
_KIND = db.Transfer.kind.concat("")


@dataclass(frozen=True, slots=True)
class _Accounts:
    """Accounts as stored."""

    by_id: dict[int, Account]
    balances: dict[Account, int]
    at_checkpoint: dict[Account, int]
    """The sum of each up to the newest checkpoint."""
    deleted_renters: list[int]


def prove() -> Proof:
    """Proves the ledger from its newest checkpoint, in a number of statements that does not grow with it."""
    newest = _newest()
    stored = _stored_accounts(newest)
    return replace(_prove(newest, _sums_at(newest, stored), stored), extent=Extent.ACCOUNTS)


def prove_changes() -> Proof:
    """Proves what the transfers since the newest checkpoint changed.

    It reads the accounts that they touched or that hold money of something open, and believes the checkpoint.
    So its work does not grow with the market.
    """
    newest = _newest()
    stored = _stored_accounts(newest, _touched(newest))
    sums = Sums(elsewhere_micros=-sum(stored.at_checkpoint.values()))
    sums.balances.update(stored.at_checkpoint)
    if newest is not None:
        sums.count = newest.transfers
        sums.held.update(_held_at(newest))
    totals = ledger.totals_of_providers()
    return replace(
        _prove(newest, sums, stored),
        extent=Extent.CHANGES,
        claimable_micros=totals[AccountKind.PROVIDER],
        maturing_micros=totals[AccountKind.PROVIDER_MATURING],
        debt_micros=-totals[AccountKind.PROVIDER_DEBT],
    )


def _prove(newest: Any, sums: Sums, stored: _Accounts) -> Proof:
    """Adds what followed the checkpoint to its sums, and compares with what is stored."""
    after = newest.transfer_id if newest is not None else 0
    opening = newest.transfers if newest is not None else 0
    _add_since(sums, after, stored.by_id)
    holds = _holds_to_check(after, list(sums.held))
    requests, contested = withdrawals.open_or_moved_since(after), disputes.open_or_moved_since(after)
    _add_disputes(sums, after, [dispute.job_id for dispute in contested])
    sums.wrong += disputes.of_no_charge([dispute.id for dispute in contested])
    own = renters.of_market()
    found = proof.prove(sums, stored.balances, holds, requests, stored.deleted_renters, contested, own)
    return replace(
        found,
        checkpoint_id=newest.id if newest is not None else 0,
        transfers_read=found.transfers - opening,
    )


def replay(progress: Callable[[int], None] = lambda _: None) -> Proof:
    """Replays every row and verifies every checkpoint. ``progress`` gets the number of transfers so far."""
    accounts = _accounts()
    sums = proof.replay(_transfers(accounts, 0, progress), _checkpoints(accounts))
    sums.wrong += [*disputes.of_no_charge(), *_wrong_cursors(), *_wrong_charges(), *budgets.wrong()]
    requests, contested = withdrawals.all_requests(), disputes.all_disputes()
    own = renters.of_market()
    found = proof.prove(sums, _balances(), _all_holds(), requests, _deleted(), contested, own)
    return replace(found, checkpoint_id=int(db.Checkpoint.select(pw.fn.MAX(db.Checkpoint.id)).scalar() or 0))


def next_checkpoint(through_id: int, transfers: int) -> Checkpoint | None:
    """The checkpoint over the next ``transfers`` up to ``through_id``; None if there are fewer."""
    newest = _newest()
    stored = _stored_accounts(newest)
    after = newest.transfer_id if newest is not None else 0
    ids = db.Transfer.select(db.Transfer.id).where(db.Transfer.id > after).order_by(db.Transfer.id)
    last = ids.offset(transfers - 1).limit(1).scalar()
    if last is None or last > through_id:
        return None
    segment = Segment(_sums_at(newest, stored), newest)
    for row in _transfers(stored.by_id, after):
        segment.add(row)
        if row.id == last:
            break
    return segment.close()


def add_checkpoint(made: Checkpoint, now_ms: int) -> None:
    """Stores a checkpoint. Does nothing if another server has stored one of this number."""
    insert = db.Checkpoint.insert(
        id=made.id,
        transfer_id=made.transfer_id,
        transfers=made.transfers,
        rows_sha256=made.rows_sha256,
        sha256=made.sha256,
        created_ms=now_ms,
    ).on_conflict_ignore()
    if insert.as_rowcount().execute() != 1:
        return
    ids = {account: account_id for account_id, account in _accounts().items()}
    sums = [(ids[account], made.id, value) for account, value in sorted(made.balances.items())]
    _insert_all(db.CheckpointSum, sums)
    _insert_all(
        db.CheckpointHold, [(made.id, job_id, amount) for job_id, amount in sorted(made.held.items())]
    )


def settled_id() -> int:
    """The id of a transfer such that no transfer up to it is still to come; 0 in an empty ledger.

    PostgreSQL's ids are not in the order of commits: the lock waits for those who have inserted already.
    """
    database = db.Transfer._meta.database
    if database.for_update:
        database.execute_sql("LOCK TABLE transfer IN SHARE MODE")
    return _last_id()


def transfers_since_checkpoint() -> int:
    """At most how many transfers follow the newest checkpoint: PostgreSQL leaves out ids."""
    newest = db.Checkpoint.select(pw.fn.MAX(db.Checkpoint.transfer_id)).scalar()
    return _last_id() - int(newest or 0)


def _last_id() -> int:
    return int(db.Transfer.select(pw.fn.MAX(db.Transfer.id)).scalar() or 0)


def _insert_all(model: Any, rows: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), _BATCH):
        model.insert_many(rows[start : start + _BATCH]).execute()


def _accounts() -> dict[int, Account]:
    query = db.Account.select(db.Account.id, db.Account.kind, db.Account.owner_id)
    return {row_id: Account(AccountKind(kind), owner_id) for row_id, kind, owner_id in tuples(query)}


def _balances() -> dict[Account, int]:
    query = db.Account.select(db.Account.kind, db.Account.owner_id, db.Account.balance_micros)
    return {Account(AccountKind(kind), owner_id): balance for kind, owner_id, balance in tuples(query)}


def _deleted() -> list[int]:
    query = db.Renter.select(db.Renter.id).where(states.is_in(db.Renter.state, AccountState.DELETED))
    return [renter_id for (renter_id,) in tuples(query)]


def _stored_accounts(newest: Any, touched: Any = None) -> _Accounts:
    """The accounts with these ids; all without a query of ids."""
    last = (
        db.CheckpointSum.select(db.CheckpointSum.sum_micros)
        .where(db.CheckpointSum.account_id == db.Account.id)
        .order_by(db.CheckpointSum.checkpoint_id.desc())
        .limit(1)
    )
    is_wallet = db.Account.kind == AccountKind.RENTER.value
    query = db.Account.select(
        db.Account.id, db.Account.kind, db.Account.owner_id, db.Account.balance_micros, last, db.Renter.state
    ).join(db.Renter, pw.JOIN.LEFT_OUTER, on=is_wallet & (db.Renter.id == db.Account.owner_id))
    found = _Accounts({}, {}, {}, [])
    for row_id, kind, owner_id, balance, sum_, state in tuples(
        query if touched is None else query.where(db.Account.id.in_(touched))
    ):
        account = Account(AccountKind(kind), owner_id)
        found.by_id[row_id] = account
        found.balances[account] = balance
        found.at_checkpoint[account] = (sum_ or 0) if newest is not None else 0
        if state == states.stored(AccountState.DELETED):
            found.deleted_renters.append(owner_id)
    return found


def _touched(newest: Any) -> Any:
    """The ids of the accounts that later transfers touched, or that hold money of something open."""
    since = db.Transfer.id > (newest.transfer_id if newest is not None else 0)
    ids: Any = db.Transfer.select(db.Transfer.debit_account_id).where(since)
    ids |= db.Transfer.select(db.Transfer.credit_account_id).where(since)
    open_requests = states.is_in(db.Withdrawal.state, *sorted(OPEN_WITHDRAWALS))
    for kind, owner_id, is_open in (
        (AccountKind.RENTER_HELD, db.Hold.renter_id, states.is_exactly(db.Hold.state, HoldState.OPEN)),
        (AccountKind.WITHDRAWAL, db.Withdrawal.provider_id, open_requests),
        (
            AccountKind.PROVIDER_DISPUTED,
            db.Dispute.provider_id,
            states.is_in(db.Dispute.state, DisputeState.OPEN),
        ),
    ):
        owners = owner_id.model.select(owner_id).where(is_open)
        ids |= db.Account.select(db.Account.id).where(
            db.Account.kind == kind.value, db.Account.owner_id.in_(owners)
        )
    return ids


def _newest() -> Any:
    """The newest checkpoint's row, or None."""
    return db.Checkpoint.select().order_by(db.Checkpoint.id.desc()).first()


def _checkpoint(row: Any, accounts: dict[int, Account]) -> Checkpoint:
    sums = db.CheckpointSum.select(db.CheckpointSum.account_id, db.CheckpointSum.sum_micros).where(
        db.CheckpointSum.checkpoint_id == row.id
    )
    return Checkpoint(
        row.id,
        row.transfer_id,
        row.transfers,
        bytes(row.rows_sha256),
        bytes(row.sha256),
        {accounts[account_id]: value for account_id, value in tuples(sums)},
        _held_at(row),
    )


def _checkpoints(accounts: dict[int, Account]) -> Iterator[Checkpoint]:
    for (checkpoint_id,) in tuples(db.Checkpoint.select(db.Checkpoint.id).order_by(db.Checkpoint.id)):
        yield _checkpoint(db.Checkpoint.get_by_id(checkpoint_id), accounts)


def _held_at(newest: Any) -> dict[str, int]:
    """What remained of each open hold at a checkpoint."""
    holds = db.CheckpointHold.select(db.CheckpointHold.job_id, db.CheckpointHold.amount_micros)
    return dict(tuples(holds.where(db.CheckpointHold.checkpoint_id == newest.id)))


def _sums_at(newest: Any, stored: _Accounts) -> Sums:
    """The sums up to a checkpoint, which is verified by its digest; empty sums without one."""
    sums = Sums()
    if newest is None:
        return sums
    checkpoint = _checkpoint(newest, stored.by_id)
    previous = db.Checkpoint.select(db.Checkpoint.sha256).where(db.Checkpoint.id == newest.id - 1).scalar()
    if checkpoint.sha256 != checkpoint.digest(bytes(previous or proof.NO_DIGEST)):
        sums.wrong.append(f"checkpoint {checkpoint.id} does not agree with its own digest")
    sums.count = checkpoint.transfers
    sums.held.update(checkpoint.held)
    sums.balances.update(stored.at_checkpoint)
    return sums


def _add_since(sums: Sums, after: int, accounts: dict[int, Account]) -> None:
    """Adds what the transfers after an id add up to; the database does the adding."""
    amount, since = db.Transfer.amount_micros, db.Transfer.id > after
    sums.count += db.Transfer.select().where(since).count()
    total = pw.fn.SUM(amount)
    for column, sign in ((db.Transfer.debit_account_id, -1), (db.Transfer.credit_account_id, 1)):
        # Grouped by the column itself, SQLite would read the whole index of the column.
        key = column + pw.SQL("0")
        for account_id, value in tuples(db.Transfer.select(key, total).where(since).group_by(key)):
            sums.balances[accounts[account_id]] += sign * int(value)
    signed = pw.Case(db.Transfer.kind, ((TransferKind.HOLD.value, amount),), amount * -1)
    by_job = (
        db.Transfer.select(db.Transfer.job_id, pw.fn.SUM(signed))
        .where(since, db.Transfer.job_id.is_null(False), _is_of_hold())
        .group_by(db.Transfer.job_id)
        .having(pw.fn.SUM(signed) != 0)
    )
    for job_id, value in tuples(by_job):
        sums.hold(job_id, int(value))
    _add_withdrawals(sums, after)
    funded = (
        db.Transfer.select(db.Transfer.credit_account_id, total)
        .where(since, db.Transfer.kind == TransferKind.CANARY_FUNDED.value)
        .group_by(db.Transfer.credit_account_id)
    )
    for account_id, value in tuples(funded):
        sums.funded[accounts[account_id]] += int(value)
    forfeits = db.Transfer.select(db.Transfer.debit_account_id, db.Transfer.job_id, amount).where(
        since, _KIND.in_([TransferKind.FORFEIT.value])
    )
    for account_id, job_id, value in tuples(forfeits):
        sums.forfeit(accounts[account_id], job_id, int(value))
    bad = db.Transfer.select(db.Transfer.kind, amount).where(since, amount <= 0).limit(MAX_DISCREPANCIES)
    sums.wrong += [f"a {kind} transfer moves {text(value)} halala" for kind, value in tuples(bad)]


def _add_withdrawals(sums: Sums, after: int) -> None:
    """Adds all transfers of the requests that are open or have moved since."""
    ids = [request.id for request in withdrawals.open_or_moved_since(after)]
    of_request, kind = db.Transfer.withdrawal_id, db.Transfer.kind
    for start in range(0, len(ids), _BATCH):
        query = (
            db.Transfer.select(of_request, kind, pw.fn.SUM(db.Transfer.amount_micros))
            .where(of_request.in_(ids[start : start + _BATCH]))
            .group_by(of_request, kind)
        )
        for request_id, name, value in tuples(query):
            sums.withdrawn[request_id, TransferKind(name)] += int(value)
    orphans = db.Transfer.select(of_request).where(
        db.Transfer.id > after,
        of_request.is_null(False),
        of_request.not_in(db.Withdrawal.select(db.Withdrawal.id)),
    )
    for (request_id,) in tuples(orphans):
        sums.wrong.append(f"withdrawal {request_id} does not exist and a transfer belongs to it")


def _add_disputes(sums: Sums, after: int, job_ids: list[str]) -> None:
    """Adds all transfers of the disputes of these jobs, and those since then that belong to no dispute."""
    of_job, kind = db.Transfer.job_id, db.Transfer.kind
    for start in range(0, len(job_ids), _BATCH):
        query = (
            db.Transfer.select(of_job, kind, pw.fn.SUM(db.Transfer.amount_micros))
            .where(of_job.in_(job_ids[start : start + _BATCH]), disputes.IS_OF_DISPUTE)
            .group_by(of_job, kind)
        )
        for job_id, name, value in tuples(query):
            sums.disputed[job_id, TransferKind(name)] += int(value)
    orphans = db.Transfer.select(of_job, kind, db.Transfer.amount_micros).where(
        db.Transfer.id > after,
        disputes.IS_OF_DISPUTE_SINCE,
        of_job.is_null() | of_job.not_in(db.Dispute.select(db.Dispute.job_id)),
    )
    for job_id, name, value in tuples(orphans.limit(MAX_DISCREPANCIES)):
        sums.disputed[job_id or "", TransferKind(name)] += int(value)


def _wrong_cursors() -> Iterator[str]:
    """What a provider has maturing is the sum of the payouts behind its cursor, less refunds out of them."""
    kind = AccountKind.PROVIDER_MATURING.value
    cursor = pw.fn.COALESCE(db.MaturedPayouts.through_id, 0)
    query = (
        db.Account.select(db.Account.owner_id, db.Account.balance_micros, cursor)
        .join(
            db.MaturedPayouts, pw.JOIN.LEFT_OUTER, on=(db.MaturedPayouts.provider_id == db.Account.owner_id)
        )
        .where(db.Account.kind == kind)
        .order_by(db.Account.owner_id)
    )
    refunded = disputes.refunded_of_maturing()
    for provider_id, balance, through_id in list(tuples(query)):
        waiting = payouts.waiting_micros(provider_id, through_id)
        if not 0 <= waiting - balance <= refunded.get(provider_id, 0):
            has, of = text(balance), text(waiting)
            yield f"provider {provider_id} has {has} halala maturing and payouts of {of} wait"


def _wrong_charges() -> Iterator[str]:
    """What left a renter's held account for providers and the platform is the sum of its posted holds."""
    charge, kinds = pw.fn.SUM(db.Hold.charge_micros), (TransferKind.PAYOUT.value, TransferKind.FEE.value)
    posted = db.Hold.select(db.Hold.renter_id, charge).where(states.is_in(db.Hold.state, HoldState.POSTED))
    charged = {held(owner): int(total) for owner, total in tuples(posted.group_by(db.Hold.renter_id))}
    moved = db.Transfer.select(db.Transfer.debit_account_id, pw.fn.SUM(db.Transfer.amount_micros)).where(
        db.Transfer.kind.in_(kinds)
    )
    accounts, by_account = _accounts(), moved.group_by(db.Transfer.debit_account_id)
    paid = {accounts[account_id]: int(total) for account_id, total in tuples(by_account)}
    for account in sorted({*charged, *paid}):
        if charged.get(account, 0) != paid.get(account, 0):
            yield (
                f"{account.kind} {account.owner_id} paid {text(paid.get(account, 0))} halala for jobs, "
                f"and the charges of its holds are {charged.get(account, 0)}"
            )


def _is_of_hold() -> Any:
    return _KIND.in_([kind.value for kind in OF_HOLDS])


def _holds() -> Any:
    return db.Hold.select(
        db.Hold.job_id, db.Hold.renter_id, db.Hold.amount_micros, db.Hold.state, db.Job.state
    ).join(db.Job, pw.JOIN.LEFT_OUTER, on=(db.Job.job_id == db.Hold.job_id))


def _stored(rows: Iterable[tuple[Any, ...]]) -> Iterator[StoredHold]:
    for job_id, renter_id, amount, state, job_state in rows:
        yield StoredHold(job_id, renter_id, amount, HoldState(state), job_state in FINAL)


def _holds_to_check(after: int, unresolved: list[str]) -> list[StoredHold]:
    """The holds that are open, or should be by the sums, or whose job goes on though money left its hold."""
    is_final = states.is_in(db.Job.state, *sorted(FINAL))
    moved = db.Transfer.select(db.Transfer.job_id).where(
        db.Transfer.id > after, db.Transfer.job_id.is_null(False), _is_of_hold()
    )
    found = {
        hold.job_id: hold
        for hold in _stored(tuples(_holds().where(states.is_in(db.Hold.state, HoldState.OPEN))))
    }
    going_on = _holds().where(db.Hold.job_id.in_(moved), db.Job.state.is_null() | ~is_final)
    found.update((hold.job_id, hold) for hold in _stored(tuples(going_on)))
    missing = [job_id for job_id in unresolved if job_id not in found]
    for start in range(0, len(missing), _BATCH):
        batch = _holds().where(db.Hold.job_id.in_(missing[start : start + _BATCH]))
        found.update((hold.job_id, hold) for hold in _stored(tuples(batch)))
    return list(found.values())


def _all_holds() -> Iterator[StoredHold]:
    return _stored(_paged(_holds(), db.Hold.job_id, ""))


def _transfers(
    accounts: dict[int, Account], after: int, progress: Callable[[int], None] = lambda _: None
) -> Iterator[StoredTransfer]:
    query = db.Transfer.select(
        db.Transfer.id,
        db.Transfer.kind,
        db.Transfer.debit_account_id,
        db.Transfer.credit_account_id,
        db.Transfer.amount_micros,
        db.Transfer.job_id,
        db.Transfer.withdrawal_id,
        db.Transfer.created_ms,
    )
    for count, row in enumerate(_paged(query, db.Transfer.id, after), 1):
        row_id, kind, debit, credit, amount, job_id, withdrawal_id, created_ms = row
        moved = Transfer(TransferKind(kind), accounts[debit], accounts[credit], amount, job_id, withdrawal_id)
        yield StoredTransfer(row_id, moved, created_ms)
        if count % PAGE_ROWS == 0:
            progress(count)


def _paged(query: Any, key: Any, after: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a query by its first column, in pages: PostgreSQL's driver keeps a whole result."""
    while True:
        page = list(tuples(query.where(key > after).order_by(key).limit(PAGE_ROWS)))
        yield from page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1][0]
