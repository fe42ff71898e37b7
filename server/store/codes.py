"""Mailed codes, as rows: their digests, how long they are valid, and how often somebody guessed.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.domain.mailboxes import KEPT_MS, MAX_GUESSES, Purpose
from server.store.models import EmailCode


@dataclass(frozen=True, slots=True)
class Code:
    """A code that can still be used."""

    id: int
    role: str
    owner_id: int
    mailbox: str
    sha256: bytes | None
    """None until it is mailed."""
    ready_ms: int | None
    """From when on it gives a new key; None until it is first sent."""


def add(
    role: str,
    owner_id: int,
    purpose: Purpose,
    mailbox: str,
    *,
    now_ms: int,
    expires_ms: int,
    sha256: bytes | None = None,
) -> int:
    """Adds a code and returns its id. A code without a digest is written when it is mailed."""
    row = EmailCode.insert(
        role=role,
        owner_id=owner_id,
        purpose=purpose.value,
        mailbox=mailbox,
        sha256=sha256,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    return int(row.execute())


def set_digest(code_id: int, sha256: bytes, now_ms: int) -> bool:
    """Stores the digest of a code that is about to be mailed; False if it can no longer be used."""
    change = EmailCode.update(sha256=sha256).where(EmailCode.id == code_id, *_usable(now_ms))
    return bool(change.execute())


def of_owner(role: str, owner_id: int, purpose: Purpose, now_ms: int) -> list[Code]:
    """The codes of an account that can be used."""
    query = EmailCode.select().where(*_of(role, owner_id, purpose), *_usable(now_ms)).order_by(EmailCode.id)
    return [_code(row) for row in query]


def by_digest(sha256: bytes, purpose: Purpose, now_ms: int) -> Code | None:
    """The usable code with this digest. To use it, read it again when its account is locked."""
    query = EmailCode.select().where(
        EmailCode.sha256 == sha256, EmailCode.purpose == purpose.value, *_usable(now_ms)
    )
    row = query.first()
    return _code(row) if row is not None else None


def count_since(role: str, owner_id: int, purpose: Purpose, since_ms: int) -> int:
    """How many codes an account got after ``since_ms``."""
    query = EmailCode.select().where(*_of(role, owner_id, purpose), EmailCode.created_ms > since_ms)
    return int(query.count())


def last_mailbox(role: str, owner_id: int) -> str | None:
    """The mailbox of the account's newest code."""
    mine = EmailCode.select(EmailCode.mailbox).where(EmailCode.role == role, EmailCode.owner_id == owner_id)
    found: str | None = mine.order_by(EmailCode.id.desc()).limit(1).scalar()
    return found


def count_guess(role: str, owner_id: int, purpose: Purpose, now_ms: int) -> None:
    """Counts a wrong code against every usable code of the account."""
    change = EmailCode.update(guesses=EmailCode.guesses + 1)
    change.where(*_of(role, owner_id, purpose), *_usable(now_ms)).execute()


def set_ready(code_id: int, ready_ms: int, expires_ms: int) -> None:
    """Sets from when on a code gives a new key, and until when."""
    change = EmailCode.update(ready_ms=ready_ms, expires_ms=expires_ms)
    change.where(EmailCode.id == code_id).execute()


def end(role: str, owner_id: int, purpose: Purpose, now_ms: int) -> int:
    """Ends all usable codes of an account; returns how many there were."""
    change = EmailCode.update(ended_ms=now_ms).where(*_of(role, owner_id, purpose), *_usable(now_ms))
    return int(change.execute())


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes codes that ended long ago."""
    old = EmailCode.select(EmailCode.id).where(EmailCode.expires_ms < now_ms - KEPT_MS)
    ids = [row.id for row in old.order_by(EmailCode.expires_ms).limit(limit)]
    EmailCode.delete().where(EmailCode.id.in_(ids)).execute()


def _of(role: str, owner_id: int, purpose: Purpose) -> tuple[Any, ...]:
    return EmailCode.role == role, EmailCode.owner_id == owner_id, EmailCode.purpose == purpose.value


def _usable(now_ms: int) -> tuple[Any, ...]:
    return EmailCode.ended_ms.is_null(), EmailCode.expires_ms > now_ms, EmailCode.guesses < MAX_GUESSES


def _code(row: Any) -> Code:
    sha256 = None if row.sha256 is None else bytes(row.sha256)
    return Code(row.id, row.role, row.owner_id, row.mailbox, sha256, row.ready_ms)
