"""The keys and log-ins of operators, as rows: a log-in is a key in a browser's cookie.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from server.domain.operators import KEPT_MS, OperatorRole
from server.store.models import Operator, OperatorKey, tuples
from server.store.prepared import PreparedQuery, arg


@dataclass(frozen=True, slots=True)
class OperatorKeyRow:
    """A key or a log-in without its secret."""

    id: int
    name: str
    last4: str
    created_ms: int
    expires_ms: int
    last_used_ms: int | None
    revoked_ms: int | None
    passkey_id: int | None
    """The passkey that made it; None for a key, and for a log-in that a key made."""


@dataclass(frozen=True, slots=True)
class OperatorKeyOwner:
    """Whose a key or a log-in is."""

    operator_id: int
    key_id: int
    name: str
    role: OperatorRole
    expires_ms: int
    is_log_in: bool


_find = PreparedQuery(
    lambda: (
        OperatorKey.select(
            OperatorKey.operator_id,
            OperatorKey.id,
            Operator.name,
            Operator.role,
            OperatorKey.expires_ms,
            OperatorKey.is_log_in,
        )
        .join(Operator, on=OperatorKey.operator_id == Operator.id)
        .where(
            OperatorKey.sha256 == arg("sha256"),
            OperatorKey.revoked_ms.is_null(),
            Operator.removed_ms.is_null(),
        )
    )
)


def find(sha256: bytes) -> OperatorKeyOwner | None:
    """The owner of a key that was not revoked; the caller checks whether it has expired."""
    row = _find.one(sha256=sha256)
    if row is None:
        return None
    operator_id, key_id, name, role, expires_ms, is_log_in = row
    return OperatorKeyOwner(operator_id, key_id, name, OperatorRole(role), expires_ms, bool(is_log_in))


def add(
    operator_id: int,
    sha256: bytes,
    last4: str,
    name: str,
    now_ms: int,
    expires_ms: int,
    *,
    is_log_in: bool,
    key_id: int | None = None,
    passkey_id: int | None = None,
) -> int:
    """Adds a key, or a log-in that a key or a passkey made; returns its id."""
    row = OperatorKey.insert(
        operator_id=operator_id,
        sha256=sha256,
        last4=last4,
        name=name,
        is_log_in=is_log_in,
        by_key_id=key_id,
        by_passkey_id=passkey_id,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    return int(row.execute())


def get(operator_id: int, key_id: int, *, is_log_in: bool) -> OperatorKeyRow | None:
    """One key, or one log-in, of an operator."""
    row = OperatorKey.select().where(_own(operator_id, is_log_in), OperatorKey.id == key_id).first()
    return _row(row) if row is not None else None


def page(operator_id: int, before_id: int | None, limit: int) -> list[OperatorKeyRow]:
    """One page of an operator's keys, newest first."""
    query = OperatorKey.select().where(_own(operator_id, is_log_in=False))
    if before_id is not None:
        query = query.where(OperatorKey.id < before_id)
    return [_row(row) for row in query.order_by(OperatorKey.id.desc()).limit(limit)]


def count_valid(operator_id: int, now_ms: int) -> int:
    """The number of an operator's valid keys."""
    return int(OperatorKey.select().where(_own(operator_id, is_log_in=False), _valid(now_ms)).count())


def valid(key_ids: Sequence[int], now_ms: int) -> set[int]:
    """Which of these keys and log-ins are neither revoked nor expired."""
    query = OperatorKey.select(OperatorKey.id).where(OperatorKey.id.in_(list(key_ids)), _valid(now_ms))
    return {int(key_id) for (key_id,) in tuples(query)}


def end_oldest(operator_id: int, now_ms: int, most: int) -> list[bytes]:
    """Ends all log-ins of an operator but the newest; returns the digests of those it ended."""
    mine = _own(operator_id, is_log_in=True) & _valid(now_ms)
    newest = OperatorKey.select(OperatorKey.id).where(mine).order_by(OperatorKey.id.desc()).limit(most)
    ids = [key_id for (key_id,) in tuples(newest)]
    return _end(mine & (OperatorKey.id < ids[-1]), now_ms) if len(ids) == most else []


def end_log_ins(
    operator_id: int, now_ms: int, key_id: int | None = None, *, passkey_id: int | None = None
) -> list[bytes]:
    """Ends the log-ins of an operator, or only one, or those of a passkey; returns their digests."""
    mine = _own(operator_id, is_log_in=True) & _valid(now_ms)
    if key_id is not None:
        mine &= OperatorKey.id == key_id
    if passkey_id is not None:
        mine &= OperatorKey.by_passkey_id == passkey_id
    return _end(mine, now_ms)


def end_all(operator_id: int, now_ms: int) -> list[bytes]:
    """Ends the keys and log-ins of an operator; returns the digests of those it ended."""
    return _end((OperatorKey.operator_id == operator_id) & _valid(now_ms), now_ms)


def revoke(operator_id: int, key_id: int, now_ms: int) -> list[bytes]:
    """Revokes a key and the log-ins that it made; returns the digests of those that this ended."""
    own = (OperatorKey.operator_id == operator_id) & OperatorKey.revoked_ms.is_null()
    return _end(own & ((OperatorKey.id == key_id) | (OperatorKey.by_key_id == key_id)), now_ms)


def digests(operator_id: int, now_ms: int) -> list[bytes]:
    """The digests of an operator's valid keys and log-ins."""
    query = OperatorKey.select(OperatorKey.sha256).where(
        OperatorKey.operator_id == operator_id, _valid(now_ms)
    )
    return [bytes(sha256) for (sha256,) in tuples(query)]


def write_uses(uses: Iterable[tuple[int, int]]) -> None:
    """Records when keys were last used, by id; a time older than the stored one changes nothing."""
    for key_id, at_ms in sorted(uses):  # sorted, so that two batches cannot deadlock
        newer = OperatorKey.last_used_ms.is_null() | (OperatorKey.last_used_ms < at_ms)
        OperatorKey.update(last_used_ms=at_ms).where(OperatorKey.id == key_id, newer).execute()


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes keys and log-ins that expired long ago."""
    old = OperatorKey.select(OperatorKey.id).where(OperatorKey.expires_ms < now_ms - KEPT_MS)
    ids = [key_id for (key_id,) in tuples(old.order_by(OperatorKey.expires_ms).limit(limit))]
    OperatorKey.delete().where(OperatorKey.id.in_(ids)).execute()


def _own(operator_id: int, is_log_in: bool) -> Any:
    return (OperatorKey.operator_id == operator_id) & (OperatorKey.is_log_in == is_log_in)


def _valid(now_ms: int) -> Any:
    return OperatorKey.revoked_ms.is_null() & (OperatorKey.expires_ms > now_ms)


def _end(which: Any, now_ms: int) -> list[bytes]:
    found = [bytes(sha256) for (sha256,) in tuples(OperatorKey.select(OperatorKey.sha256).where(which))]
    OperatorKey.update(revoked_ms=now_ms).where(which).execute()
    return found


def _row(row: Any) -> OperatorKeyRow:
    return OperatorKeyRow(
        row.id,
        row.name,
        row.last4,
        row.created_ms,
        row.expires_ms,
        row.last_used_ms,
        row.revoked_ms,
        row.by_passkey_id,
    )
