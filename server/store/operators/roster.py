"""Operators and their invitations, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.errors import DomainError, Reason
from server.domain.operators import KEPT_MS, OperatorRole
from server.store.models import Operator, OperatorInvitation, Passkey, tuples
from server.store.prepared import locking


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """An operator; ``passkeys`` and ``invited_until_ms`` say how it can log in."""

    id: int
    name: str
    email: str
    role: OperatorRole
    handle: bytes
    created_ms: int
    removed_ms: int | None
    passkeys: int = 0
    invited_until_ms: int | None = None


def add(name: str, key: str, email: str, role: OperatorRole, handle: bytes, now_ms: int) -> int:
    """Adds an operator and returns its id. Raises OPERATOR_NAME_TAKEN."""
    try:
        row = Operator.insert(
            name=name, name_key=key, email=email, role=role.value, handle=handle, created_ms=now_ms
        )
        return int(row.execute())
    except pw.IntegrityError:
        raise DomainError(
            Reason.OPERATOR_NAME_TAKEN,
            "name: an operator has or had this name, and the audit log needs one person for each; "
            "choose another name",
            field="name",
        ) from None


def get(operator_id: int, now_ms: int) -> OperatorRow | None:
    """One operator."""
    return next(iter(_read(Operator.select().where(Operator.id == operator_id), now_ms)), None)


def lock(operator_id: int) -> OperatorRow | None:
    """One operator that was not removed; locks it, so that its credentials stay as they are read."""
    query = Operator.select().where(Operator.id == operator_id, Operator.removed_ms.is_null())
    row = locking(query, "FOR NO KEY UPDATE").first()
    return _row(row) if row is not None else None


def lock_all() -> list[OperatorRow]:
    """All operators that were not removed; locks them, so that their number stays as it is read."""
    query = Operator.select().where(Operator.removed_ms.is_null()).order_by(Operator.id)
    rows = list(locking(query, "FOR NO KEY UPDATE"))
    passkeys = _passkeys([row.id for row in rows])
    return [_row(row, passkeys.get(row.id, 0)) for row in rows]


def page(before_id: int | None, limit: int, now_ms: int) -> list[OperatorRow]:
    """One page of all operators, newest first."""
    query = Operator.select()
    if before_id is not None:
        query = query.where(Operator.id < before_id)
    return _read(query.order_by(Operator.id.desc()).limit(limit), now_ms)


def exists() -> bool:
    """Whether there is an operator that was not removed."""
    return bool(Operator.select().where(Operator.removed_ms.is_null()).exists())


def set_role(operator_id: int, role: OperatorRole) -> None:
    """Gives an operator another role."""
    Operator.update(role=role.value).where(Operator.id == operator_id).execute()


def remove(operator_id: int, now_ms: int) -> None:
    """Removes an operator; its row stays, since the audit log has its name."""
    Operator.update(removed_ms=now_ms).where(Operator.id == operator_id).execute()


def invite(operator_id: int, sha256: bytes, now_ms: int, expires_ms: int) -> None:
    """Adds an invitation; earlier ones of the operator end."""
    end_invitations(operator_id, now_ms)
    OperatorInvitation.insert(
        operator_id=operator_id, sha256=sha256, created_ms=now_ms, expires_ms=expires_ms
    ).execute()


def end_invitations(operator_id: int, now_ms: int) -> None:
    """Ends the invitations of an operator that were not used."""
    OperatorInvitation.update(ended_ms=now_ms).where(
        OperatorInvitation.operator_id == operator_id, OperatorInvitation.ended_ms.is_null()
    ).execute()


def invited(sha256: bytes, now_ms: int) -> tuple[int, int] | None:
    """The ids of a usable invitation and of its operator."""
    query = OperatorInvitation.select(OperatorInvitation.id, OperatorInvitation.operator_id)
    row = query.where(OperatorInvitation.sha256 == sha256, *_usable(now_ms)).tuples().first()
    return (int(row[0]), int(row[1])) if row is not None else None


def use_invitation(invitation_id: int, now_ms: int) -> bool:
    """Ends an invitation that is used; False if it was used or ended meanwhile."""
    change = OperatorInvitation.update(ended_ms=now_ms)
    return bool(change.where(OperatorInvitation.id == invitation_id, *_usable(now_ms)).execute())


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes invitations that expired long ago."""
    old = OperatorInvitation.select(OperatorInvitation.id).where(
        OperatorInvitation.expires_ms < now_ms - KEPT_MS
    )
    ids = [key for (key,) in tuples(old.order_by(OperatorInvitation.expires_ms).limit(limit))]
    OperatorInvitation.delete().where(OperatorInvitation.id.in_(ids)).execute()


def _read(query: Any, now_ms: int) -> list[OperatorRow]:
    rows = list(query)
    ids = [row.id for row in rows]
    passkeys, invitations = _passkeys(ids), _invitations(ids, now_ms)
    return [_row(row, passkeys.get(row.id, 0), invitations.get(row.id)) for row in rows]


def _passkeys(ids: Sequence[int]) -> dict[int, int]:
    query = Passkey.select(Passkey.operator_id, pw.fn.COUNT(Passkey.id)).where(Passkey.operator_id.in_(ids))
    return {int(key): int(count) for key, count in tuples(query.group_by(Passkey.operator_id))}


def _invitations(ids: Sequence[int], now_ms: int) -> dict[int, int]:
    query = OperatorInvitation.select(OperatorInvitation.operator_id, OperatorInvitation.expires_ms)
    query = query.where(OperatorInvitation.operator_id.in_(ids), *_usable(now_ms))
    return {int(key): int(expires_ms) for key, expires_ms in tuples(query)}


def _usable(now_ms: int) -> tuple[Any, ...]:
    return OperatorInvitation.ended_ms.is_null(), OperatorInvitation.expires_ms > now_ms


def _row(row: Any, passkeys: int = 0, invited_until_ms: int | None = None) -> OperatorRow:
    return OperatorRow(
        row.id,
        row.name,
        row.email,
        OperatorRole(row.role),
        bytes(row.handle),
        row.created_ms,
        row.removed_ms,
        passkeys,
        invited_until_ms,
    )
