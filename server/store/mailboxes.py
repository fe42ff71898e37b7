"""The accounts of mailboxes, as rows of both roles. Every function runs inside its caller's transaction."""

from __future__ import annotations

from typing import Any

import peewee as pw

from server.domain.errors import DomainError, Reason
from server.domain.mailboxes import barred


def insert_account(model: type[pw.Model], *, mailbox: str, **values: Any) -> int:
    """Inserts an account to which the mailbox belongs, and returns its id. Raises EMAIL_TAKEN."""
    try:
        account_id = int(model.insert(mailbox=mailbox, **values).execute())
    except pw.IntegrityError:
        raise _taken() from None
    # After the insert, which waits for a deletion that has not committed yet.
    if model.select().where(model.mailbox == barred(mailbox)).exists():  # type: ignore[attr-defined]
        raise _taken()
    return account_id


def _taken() -> DomainError:
    return DomainError(
        Reason.EMAIL_TAKEN,
        "email: an account with this mailbox exists; use its key, or register another address",
        field="email",
    )
