"""The cursors of maturing payouts, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

from typing import Any

import peewee as pw

from server.domain import ledger as rules
from server.domain.ledger import AccountKind
from server.domain.payouts import BATCH, LOOK_AGAIN_MS, Payout
from server.store import disputes
from server.store.ledger import account_id
from server.store.models import Account, MaturedPayouts, Transfer, tuples
from server.store.prepared import locking


def due(now_ms: int, limit: int) -> list[int]:
    """Providers with maturing money whose cursor is due, or who have none yet; the longest due first.

    One that is due later than any look sets is due too: the clock was ahead at that look.
    """
    due_ms = pw.fn.COALESCE(MaturedPayouts.due_ms, 0)
    query = (
        Account.select(Account.owner_id)
        .join(MaturedPayouts, pw.JOIN.LEFT_OUTER, on=(MaturedPayouts.provider_id == Account.owner_id))
        .where(
            Account.kind == AccountKind.PROVIDER_MATURING.value,
            Account.balance_micros > 0,
            (due_ms <= now_ms) | (due_ms > now_ms + LOOK_AGAIN_MS),
        )
        .order_by(due_ms, Account.owner_id)
    )
    return [int(provider_id) for (provider_id,) in tuples(query.limit(limit))]


def with_debt(limit: int) -> list[int]:
    """Providers who owe something and have money to repay it with."""
    own = Account.alias()
    query = (
        Account.select(Account.owner_id)
        .join(own, on=((own.owner_id == Account.owner_id) & (own.kind == AccountKind.PROVIDER.value)))
        .where(
            Account.kind == AccountKind.PROVIDER_DEBT.value,
            Account.balance_micros < 0,
            own.balance_micros > 0,
        )
        .order_by(Account.owner_id)
    )
    return [int(provider_id) for (provider_id,) in tuples(query.limit(limit))]


def lock_cursor(provider_id: int) -> int:
    """The last transfer of a provider that matured; locks the cursor until the transaction ends.

    Disputes and maturing take turns by this lock, and so do two servers.
    """
    MaturedPayouts.insert(provider_id=provider_id).on_conflict_ignore().execute()
    query = MaturedPayouts.select(MaturedPayouts.through_id).where(MaturedPayouts.provider_id == provider_id)
    ((through_id,),) = tuples(locking(query))
    return int(through_id)


def move_cursor(provider_id: int, through_id: int, due_ms: int) -> None:
    """Moves a locked cursor."""
    MaturedPayouts.update(through_id=through_id, due_ms=due_ms).where(
        MaturedPayouts.provider_id == provider_id
    ).execute()


def after(provider_id: int, through_id: int) -> list[Payout]:
    """The next payouts to a provider's maturing account, by id; at most ``BATCH``.

    What open or decided disputes took from one before it matured is not in its amount.
    """
    account = account_id(rules.maturing(provider_id))
    query = (
        Transfer.select(Transfer.id, Transfer.amount_micros, Transfer.created_ms)
        .where(Transfer.credit_account_id == account, Transfer.id > through_id)
        .order_by(Transfer.id)
        .limit(BATCH)
    )
    rows: list[Any] = list(tuples(query))
    taken = disputes.taken_of(provider_id, rows[0][0], rows[-1][0]) if rows else {}
    return [Payout(id_, amount - taken.get(id_, 0), at_ms) for id_, amount, at_ms in rows]


def waiting_micros(provider_id: int, through_id: int) -> int:
    """The sum of all payouts that ``after`` would give, page by page."""
    account = account_id(rules.maturing(provider_id))
    query = Transfer.select(pw.fn.SUM(Transfer.amount_micros)).where(
        Transfer.credit_account_id == account, Transfer.id > through_id
    )
    return int(query.scalar() or 0) - disputes.taken_after(provider_id, through_id)
