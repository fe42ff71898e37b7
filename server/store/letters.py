"""The outbox of letters, as rows. Every function runs inside its caller's transaction.

``next_ms`` of a letter is when it is tried next. While a server tries it, it is when another one may.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from server.domain.letters import KEPT_MS, MOST_A_DAY, LetterKind, next_attempt_ms
from server.domain.statements import DAY_MS
from server.store.mailboxes import NOBODY, Account
from server.store.models import Letter, tuples

_WAITING, _FAILED = "waiting", "failed"


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A letter that waits. Its code is not stored: it is written when the letter is sent."""

    id: int
    role: str
    owner_id: int
    kind: LetterKind
    recipient: str
    email_code_id: int | None
    facts: dict[str, str]
    created_ms: int
    attempts: int
    log_in_code_id: int | None = None


def add(
    kind: LetterKind,
    account: Account,
    mailbox: str,
    now_ms: int,
    *,
    email_code_id: int | None = None,
    log_in_code_id: int | None = None,
    is_bounded: bool = True,
    **facts: str,
) -> None:
    """Puts a letter to an account's address into the outbox.

    One to nobody, or with ``is_bounded`` to a mailbox that had enough of the kind today, is never sent. It is
    a row without an address all the same, so that the answer to who named the mailbox takes as long.
    """
    recent = Letter.select().where(
        Letter.mailbox == mailbox, Letter.kind == kind.value, Letter.created_ms > now_ms - DAY_MS
    )
    is_enough = recent.count() >= MOST_A_DAY[kind] and is_bounded
    is_sent = account.id != NOBODY and not is_enough
    Letter.insert(
        role=account.role,
        owner_id=account.id,
        kind=kind.value,
        status=_WAITING if is_sent else _FAILED,
        error=None if is_sent else "it is never sent",
        recipient=account.email if is_sent else "",
        mailbox=mailbox if is_sent else "",
        email_code_id=email_code_id,
        log_in_code_id=log_in_code_id,
        facts=json.dumps(facts),
        created_ms=now_ms,
        next_ms=now_ms,
    ).execute()


def due(now_ms: int, limit: int) -> list[int]:
    """The ids of letters that are due, the longest waiting first."""
    query = Letter.select(Letter.id).where(Letter.status == _WAITING, Letter.next_ms <= now_ms)
    return [int(letter_id) for (letter_id,) in tuples(query.order_by(Letter.next_ms).limit(limit))]


def claim(letter_ids: list[int], now_ms: int, until_ms: int) -> list[LetterRow]:
    """Claims letters for one sender until ``until_ms``; returns those that no other sender has."""
    change = Letter.update(next_ms=until_ms)
    free = (Letter.status == _WAITING) & (Letter.next_ms <= now_ms)
    mine = [each for each in sorted(letter_ids) if change.where(Letter.id == each, free).execute()]
    return [_letter(row) for row in Letter.select().where(Letter.id.in_(mine)).order_by(Letter.id)]


def record(letter: LetterRow, error: str | None, now_ms: int, *, for_good: bool = False) -> None:
    """Records an attempt; nothing is recorded if the letter has ended or was erased."""
    next_ms = None
    if error is not None and not for_good:
        next_ms = next_attempt_ms(letter.created_ms, letter.attempts + 1, now_ms)
    status = "sent" if error is None else _FAILED if next_ms is None else _WAITING
    Letter.update(status=status, attempts=letter.attempts + 1, next_ms=next_ms or now_ms, error=error).where(
        Letter.id == letter.id, Letter.status == _WAITING, Letter.attempts == letter.attempts
    ).execute()


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes letters that are older than any that counts or waits."""
    old = Letter.select(Letter.id).where(Letter.created_ms < now_ms - KEPT_MS)
    ids = [row.id for row in old.order_by(Letter.created_ms).limit(limit)]
    Letter.delete().where(Letter.id.in_(ids)).execute()


def _letter(row: Any) -> LetterRow:
    return LetterRow(
        row.id,
        row.role,
        row.owner_id,
        LetterKind(row.kind),
        row.recipient,
        row.email_code_id,
        json.loads(row.facts),
        row.created_ms,
        row.attempts,
        row.log_in_code_id,
    )
