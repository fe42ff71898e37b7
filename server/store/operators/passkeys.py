"""Passkeys of operators, and the challenges that they answer, as rows.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import peewee as pw

from server.store.models import Operator, Passkey, PasskeyChallenge, tuples


class Purpose(StrEnum):
    """What a browser asked a passkey for."""

    INVITATION = "invitation"
    ADD = "add"
    LOG_IN = "log_in"


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a browser was given to answer; for a new passkey, whose it will be."""

    challenge: bytes
    operator_id: int | None
    invitation_id: int | None


@dataclass(frozen=True, slots=True)
class PasskeyRow:
    """A passkey as its operator sees it."""

    id: int
    name: str
    created_ms: int
    last_used_ms: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a passkey that answers."""

    id: int
    operator_id: int
    handle: bytes
    public_key: bytes
    sign_count: int


def ask(
    browser_sha256: bytes,
    purpose: Purpose,
    challenge: bytes,
    expires_ms: int,
    operator_id: int | None = None,
    invitation_id: int | None = None,
) -> None:
    """Adds a challenge for a browser."""
    PasskeyChallenge.insert(
        browser_sha256=browser_sha256,
        purpose=purpose.value,
        operator_id=operator_id,
        invitation_id=invitation_id,
        challenge=challenge,
        expires_ms=expires_ms,
    ).execute()


def take(browser_sha256: bytes, purpose: Purpose, now_ms: int) -> Challenge | None:
    """The challenge of a browser, which nothing can answer again."""
    which = (PasskeyChallenge.browser_sha256 == browser_sha256) & (PasskeyChallenge.purpose == purpose.value)
    row = PasskeyChallenge.select().where(which, PasskeyChallenge.expires_ms > now_ms).first()
    if row is None or not PasskeyChallenge.delete().where(PasskeyChallenge.id == row.id).execute():
        return None
    return Challenge(bytes(row.challenge), row.operator_id, row.invitation_id)


def find(credential: bytes) -> Known | None:
    """The passkey with this id of its own; its operator was not removed."""
    query = (
        Passkey.select(
            Passkey.id, Passkey.operator_id, Operator.handle, Passkey.public_key, Passkey.sign_count
        )
        .join(Operator, on=Passkey.operator_id == Operator.id)
        .where(Passkey.credential_id == credential, Operator.removed_ms.is_null())
    )
    row = query.tuples().first()
    if row is None:
        return None
    key_id, operator_id, handle, public_key, sign_count = row
    return Known(int(key_id), int(operator_id), bytes(handle), bytes(public_key), int(sign_count))


def add(
    operator_id: int, credential: bytes, public_key: bytes, sign_count: int, name: str, now_ms: int
) -> int | None:
    """Adds a passkey and returns its id; None if it is known already."""
    try:
        row = Passkey.insert(
            operator_id=operator_id,
            credential_id=credential,
            public_key=public_key,
            sign_count=sign_count,
            name=name,
            created_ms=now_ms,
        )
        return int(row.execute())
    except pw.IntegrityError:
        return None


def use(known: Known, sign_count: int, now_ms: int) -> bool:
    """Records that a passkey answered; False if it answered something else meanwhile, or was removed."""
    change = Passkey.update(sign_count=sign_count, last_used_ms=now_ms)
    is_known = (Passkey.id == known.id) & (Passkey.sign_count == known.sign_count)
    return bool(change.where(is_known).execute())


def of_operator(operator_id: int) -> list[PasskeyRow]:
    """All passkeys of an operator, newest first; they are few."""
    query = Passkey.select().where(Passkey.operator_id == operator_id).order_by(Passkey.id.desc())
    return [PasskeyRow(row.id, row.name, row.created_ms, row.last_used_ms) for row in query]


def credentials(operator_id: int) -> list[bytes]:
    """The ids by which the passkeys of an operator know themselves."""
    query = Passkey.select(Passkey.credential_id).where(Passkey.operator_id == operator_id)
    return [bytes(credential) for (credential,) in tuples(query)]


def remove(operator_id: int, passkey_id: int | None = None) -> None:
    """Removes a passkey of an operator, or all of them, and the challenges for new ones."""
    which: Any = Passkey.operator_id == operator_id
    if passkey_id is not None:
        which &= Passkey.id == passkey_id
    else:
        PasskeyChallenge.delete().where(PasskeyChallenge.operator_id == operator_id).execute()
    Passkey.delete().where(which).execute()


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes challenges that nothing answered in time."""
    old = PasskeyChallenge.select(PasskeyChallenge.id).where(PasskeyChallenge.expires_ms <= now_ms)
    ids = [key for (key,) in tuples(old.order_by(PasskeyChallenge.expires_ms).limit(limit))]
    PasskeyChallenge.delete().where(PasskeyChallenge.id.in_(ids)).execute()
