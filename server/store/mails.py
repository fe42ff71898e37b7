"""Mail that waits, and the codes that were mailed, as rows. Runs inside its caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.domain.mails import Text
from server.store.models import Mail, MailedCode, tuples
from server.store.prepared import locking


class Purpose(StrEnum):
    """What a code is for."""

    PROOF = "proof"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A mail to be sent."""

    id: int
    address: str
    subject: str
    body: str
    created_ms: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Code:
    """A code as stored: its digest is the key of the row."""

    purpose: Purpose
    role: str
    owner_id: int
    email_key: str
    """The mailbox that it proves; empty for a recovery."""
    created_ms: int
    from_ms: int
    until_ms: int


def add(address: str, text: Text, now_ms: int) -> None:
    """Puts a mail into the outbox."""
    Mail.insert(
        address=address, subject=text.subject, body=text.body, created_ms=now_ms, attempts=0, next_ms=now_ms
    ).execute()


def claim(now_ms: int, until_ms: int, limit: int) -> list[Waiting]:
    """The mails that are due, oldest first; no other sender takes them before ``until_ms``."""
    due = Mail.select().where(Mail.next_ms <= now_ms).order_by(Mail.next_ms, Mail.id).limit(limit)
    rows = list(locking(due, "FOR UPDATE SKIP LOCKED"))
    Mail.update(next_ms=until_ms).where(Mail.id.in_([row.id for row in rows])).execute()
    return [Waiting(row.id, row.address, row.subject, row.body, row.created_ms, row.attempts) for row in rows]


def sent(mail_id: int) -> None:
    """Deletes a mail that was sent or given up."""
    Mail.delete().where(Mail.id == mail_id).execute()


def failed(mail_id: int, attempts: int, next_ms: int) -> None:
    """Notes when to try a mail again."""
    Mail.update(attempts=attempts, next_ms=next_ms).where(Mail.id == mail_id).execute()


def put_code(sha256: bytes, code: Code) -> None:
    """Stores a code; an earlier one of the same owner and purpose no longer works."""
    drop_codes(code.role, code.owner_id, code.purpose)
    MailedCode.insert(
        sha256=sha256,
        purpose=code.purpose.value,
        role=code.role,
        owner_id=code.owner_id,
        email_key=code.email_key,
        created_ms=code.created_ms,
        from_ms=code.from_ms,
        until_ms=code.until_ms,
    ).execute()


def take_code(sha256: bytes, purpose: Purpose) -> Code | None:
    """The code with this digest, locked until the transaction ends."""
    query = MailedCode.select().where(MailedCode.sha256 == sha256, MailedCode.purpose == purpose.value)
    row = locking(query).first()
    return _code(row) if row is not None else None


def pending(role: str, owner_id: int, purpose: Purpose) -> Code | None:
    """The code of an owner."""
    row = MailedCode.select().where(_of(role, owner_id, purpose)).first()
    return _code(row) if row is not None else None


def recovery_ms(role: str, owner_id: int) -> int | None:
    """From when a code gives an account a new main key; None: nobody asked for one."""
    found = pending(role, owner_id, Purpose.RECOVERY)
    return found.from_ms if found is not None else None


def drop_codes(role: str, owner_id: int, purpose: Purpose) -> bool:
    """Deletes the code of an owner; False if there was none."""
    return bool(MailedCode.delete().where(_of(role, owner_id, purpose)).execute())


def clean(now_ms: int) -> None:
    """Deletes codes that no longer work."""
    MailedCode.delete().where(MailedCode.until_ms <= now_ms).execute()


def has_any_due(now_ms: int) -> bool:
    """Whether a mail is due, or a code has ended."""
    mail = Mail.select(Mail.id).where(Mail.next_ms <= now_ms).limit(1)
    code = MailedCode.select(MailedCode.until_ms).where(MailedCode.until_ms <= now_ms).limit(1)
    return bool(list(tuples(mail)) or list(tuples(code)))


def _of(role: str, owner_id: int, purpose: Purpose) -> object:
    return (
        (MailedCode.role == role) & (MailedCode.owner_id == owner_id) & (MailedCode.purpose == purpose.value)
    )


def _code(row: MailedCode) -> Code:
    return Code(
        Purpose(row.purpose),
        row.role,
        row.owner_id,
        row.email_key,
        row.created_ms,
        row.from_ms,
        row.until_ms,
    )
