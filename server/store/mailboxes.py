"""The accounts of mailboxes, as rows of both roles. Every function runs inside its caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.errors import DomainError, Reason
from server.domain.mailboxes import barred
from server.domain.providers import AccountState
from server.store.models import Provider, Renter
from server.store.prepared import locking

NOBODY = 0
"""In place of the account of a mailbox that has none: the same rows are written, of which nothing comes."""
_MODELS: dict[str, Any] = {"provider": Provider, "renter": Renter}


@dataclass(frozen=True, slots=True)
class Account:
    """An account of either role, and the mailbox that is its own; None if it has none."""

    role: str
    id: int
    email: str
    mailbox: str | None
    email_verified_ms: int | None
    state: AccountState

    @property
    def keeps_mailbox(self) -> bool:
        """Whether no other account can get its mailbox: it is proven, or its owner was suspended."""
        return self.email_verified_ms is not None or self.state is AccountState.SUSPENDED


def insert_account(model: type[pw.Model], *, mailbox: str | None, **values: Any) -> int:
    """Inserts an account, to which the mailbox belongs, and returns its id. Raises EMAIL_TAKEN."""
    try:
        account_id = int(model.insert(mailbox=mailbox, **values).execute())
    except pw.IntegrityError:
        raise taken() from None
    # After the insert, which waits for a deletion that has not committed yet.
    if mailbox is not None and _has(model, barred(mailbox)):
        raise taken()
    return account_id


def get(role: str, account_id: int) -> Account:
    """An account that exists; locks it."""
    model = _MODELS[role]
    query = model.select().where(model.id == account_id)
    return _account(role, locking(query, "FOR NO KEY UPDATE").get())


def holder(role: str, mailbox: str) -> Account | None:
    """The account that has the mailbox; locks it."""
    model = _MODELS[role]
    row = locking(model.select().where(model.mailbox == mailbox), "FOR NO KEY UPDATE").first()
    return _account(role, row) if row is not None else None


def nobody(role: str) -> Account:
    """In place of an account that a mailbox does not have."""
    return Account(role, NOBODY, "", None, None, AccountState.ACTIVE)


def is_barred(role: str, mailbox: str) -> bool:
    """Whether the mailbox had an account that was suspended when its owner deleted it."""
    return _has(_MODELS[role], barred(mailbox))


def prove(account: Account, mailbox: str, now_ms: int) -> bool:
    """Records that the account's owner has the mailbox; False, and no change, if another account keeps it.

    An account that has the mailbox without proof loses it.
    """
    model, other = _MODELS[account.role], holder(account.role, mailbox)
    if is_barred(account.role, mailbox):
        return False
    if other is not None and other.id != account.id:
        if other.keeps_mailbox:
            return False
        model.update(mailbox=None).where(model.id == other.id).execute()
    change = model.update(mailbox=mailbox, email_verified_ms=now_ms).where(model.id == account.id)
    try:
        change.execute()
    except pw.IntegrityError:  # of two proofs at once, the other was first
        raise taken() from None
    return True


def taken() -> DomainError:
    """The error for a mailbox that another account has."""
    return DomainError(
        Reason.EMAIL_TAKEN,
        "email: an account with this mailbox exists; use its key, or register another address",
        field="email",
    )


def _has(model: Any, mailbox: str) -> bool:
    return bool(model.select().where(model.mailbox == mailbox).exists())


def _account(role: str, row: Any) -> Account:
    return Account(role, row.id, row.email, row.mailbox, row.email_verified_ms, AccountState(row.state))
