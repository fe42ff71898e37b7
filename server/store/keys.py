"""API keys as rows: the digest that identifies a key, and what its owner sees of it.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee as pw

from server.domain.budgets import NO_LIMITS, KeyLimits, Period
from server.domain.keys import Scope
from server.domain.providers import AccountState
from server.store.models import ApiKey, Provider, tuples
from server.store.prepared import PreparedQuery, arg, locking


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its secret. ``scopes`` is None for a main key."""

    id: int
    name: str
    scopes: frozenset[Scope] | None
    last4: str
    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None
    revoked_ms: int | None
    limits: KeyLimits = NO_LIMITS
    used: Mapping[Period, int] = field(default_factory=dict)
    """What it uses of its budgets now, where the caller asked for it; in micros."""


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The owner of a key, its scopes and its end; None means all scopes, or no end."""

    role: str
    owner_id: int
    key_id: int
    scopes: frozenset[Scope] | None = None
    expires_ms: int | None = None
    is_log_in: bool = False


_find_key = PreparedQuery(
    lambda: ApiKey.select(
        ApiKey.role, ApiKey.owner_id, ApiKey.id, ApiKey.scopes, ApiKey.expires_ms, ApiKey.is_log_in
    ).where(ApiKey.sha256 == arg("sha256"), ApiKey.revoked_ms.is_null())
)
_BUDGETS = {
    Period.DAY: ApiKey.day_budget_micros,
    Period.MONTH: ApiKey.month_budget_micros,
    Period.TOTAL: ApiKey.total_budget_micros,
}
_limits = PreparedQuery(
    lambda: ApiKey.select(*_BUDGETS.values(), ApiKey.allowed_models, ApiKey.allowed_providers).where(
        ApiKey.id == arg("id")
    )
)
# Whether the key of a new job has any limit, for the statement that inserts the job.
IS_LIMITED = pw.SQL(
    "EXISTS (SELECT 1 FROM api_key WHERE api_key.id = job.key_id AND (api_key.day_budget_micros IS NOT NULL"
    " OR api_key.month_budget_micros IS NOT NULL OR api_key.total_budget_micros IS NOT NULL"
    " OR api_key.allowed_models <> '[]' OR api_key.allowed_providers <> '[]'))"
)


def limits(key_id: int) -> KeyLimits:
    """The limits of a key; none if it was deleted."""
    row = _limits.one(id=key_id)
    return _limits_of(*row) if row is not None else NO_LIMITS


def set_limits(key_id: int, limits: KeyLimits) -> None:
    """Replaces the limits of a key."""
    ApiKey.update(_columns(limits)).where(ApiKey.id == key_id).execute()


def get(role: str, owner_id: int, key_id: int) -> KeyRow | None:
    """One key of this owner."""
    row = ApiKey.select().where(_own(role, owner_id), ApiKey.id == key_id).first()
    return _key(row) if row is not None else None


def of_owner(role: str, owner_id: int, before_id: int | None, limit: int) -> list[KeyRow]:
    """An owner's keys, newest first; optionally only those before an id."""
    query = ApiKey.select().where(_own(role, owner_id))
    if before_id is not None:
        query = query.where(ApiKey.id < before_id)
    return [_key(row) for row in query.order_by(ApiKey.id.desc()).limit(limit)]


def revoke(key_id: int, now_ms: int) -> bytes:
    """Revokes a key, if it was not revoked before; returns its digest."""
    ApiKey.update(revoked_ms=now_ms).where(ApiKey.id == key_id, ApiKey.revoked_ms.is_null()).execute()
    return bytes(ApiKey.select(ApiKey.sha256).where(ApiKey.id == key_id).scalar())


def retire_main(role: str, owner_id: int, expires_ms: int) -> list[bytes]:
    """Makes an owner's main keys expire by ``expires_ms``; returns the digests of those that this changed.

    The keys are locked first: of two concurrent rotations, the second retires the key that the first created.
    """
    main = _own(role, owner_id) & ApiKey.scopes.is_null() & ApiKey.revoked_ms.is_null()
    locking(ApiKey.select(ApiKey.id).where(main).order_by(ApiKey.id)).execute()
    late = main & (ApiKey.expires_ms.is_null() | (ApiKey.expires_ms > expires_ms))
    digests = [bytes(sha256) for (sha256,) in tuples(ApiKey.select(ApiKey.sha256).where(late))]
    ApiKey.update(expires_ms=expires_ms).where(late).execute()
    return digests


def revoke_main(role: str, owner_id: int, now_ms: int) -> list[bytes]:
    """Revokes all main keys of an owner that is locked; returns their digests."""
    main = _own(role, owner_id) & ApiKey.scopes.is_null() & ApiKey.revoked_ms.is_null()
    digests = [bytes(sha256) for (sha256,) in tuples(ApiKey.select(ApiKey.sha256).where(main))]
    ApiKey.update(revoked_ms=now_ms).where(main).execute()
    return digests


def count_working(role: str, owner_id: int, now_ms: int, *, main: bool) -> int:
    """The number of an owner's valid main keys, or of its valid sub-keys."""
    works = ApiKey.revoked_ms.is_null() & (ApiKey.expires_ms.is_null() | (ApiKey.expires_ms > now_ms))
    return int(ApiKey.select().where(_own(role, owner_id), ApiKey.scopes.is_null(main), works).count())


def write_uses(uses: Iterable[tuple[int, int]]) -> None:
    """Records when keys were last used, by id; a time older than the stored one changes nothing."""
    for key_id, at_ms in sorted(uses):  # sorted, so that two batches cannot deadlock
        newer = ApiKey.last_used_ms.is_null() | (ApiKey.last_used_ms < at_ms)
        ApiKey.update(last_used_ms=at_ms).where(ApiKey.id == key_id, newer).execute()


def add(
    role: str,
    owner_id: int,
    sha256: bytes,
    last4: str,
    now_ms: int,
    *,
    name: str = "",
    scopes: frozenset[Scope] | None = None,
    expires_ms: int | None = None,
    limits: KeyLimits = NO_LIMITS,
    is_log_in: bool = False,
) -> None:
    """Inserts a key, as its digest and last 4 characters; without scopes it is a main key."""
    ApiKey.insert(
        {
            ApiKey.role: role,
            ApiKey.owner_id: owner_id,
            ApiKey.sha256: sha256,
            ApiKey.last4: last4,
            ApiKey.name: name,
            ApiKey.scopes: None if scopes is None else " ".join(sorted(scopes)),
            ApiKey.expires_ms: expires_ms,
            ApiKey.created_ms: now_ms,
            ApiKey.is_log_in: is_log_in,
            **_columns(limits),
        }
    ).execute()


def find(sha256: bytes) -> KeyOwner | None:
    """The owner of a key that was not revoked; the caller checks whether it has expired."""
    row = _find_key.one(sha256=sha256)
    if row is None:
        return None
    role, owner_id, key_id, scopes, expires_ms, is_log_in = row
    granted = None if scopes is None else frozenset(Scope(name) for name in scopes.split())
    return KeyOwner(role, owner_id, key_id, granted, expires_ms, bool(is_log_in))


def admitted_providers(key_ids: Sequence[int], now_ms: int) -> dict[int, AccountState]:
    """The state of the provider of each of these keys; revoked and expired keys are left out."""
    query = (
        ApiKey.select(ApiKey.id, Provider.state)
        .join(Provider, on=ApiKey.owner_id == Provider.id)
        .where(
            ApiKey.id.in_(list(key_ids)),
            ApiKey.role == "provider",
            ApiKey.revoked_ms.is_null(),
            ApiKey.expires_ms.is_null() | (ApiKey.expires_ms > now_ms),
        )
    )
    return {int(key_id): AccountState(state) for key_id, state in tuples(query)}


def valid(key_ids: Sequence[int], now_ms: int) -> set[int]:
    """Which of these keys are neither revoked nor expired."""
    query = ApiKey.select(ApiKey.id).where(
        ApiKey.id.in_(list(key_ids)),
        ApiKey.revoked_ms.is_null(),
        ApiKey.expires_ms.is_null() | (ApiKey.expires_ms > now_ms),
    )
    return {int(key_id) for (key_id,) in tuples(query)}


def is_withdrawn(key_id: int, now_ms: int) -> bool:
    """Whether a sub-key was revoked or has expired. A main key that was replaced stands for its account."""
    has_ended = ApiKey.revoked_ms.is_null(False) | (ApiKey.expires_ms <= now_ms)
    return bool(ApiKey.select().where(ApiKey.id == key_id, ApiKey.scopes.is_null(False), has_ended).exists())


def _own(role: str, owner_id: int) -> Any:
    """An owner's keys, without its log-ins, which server.store.log_ins keeps."""
    return (ApiKey.role == role) & (ApiKey.owner_id == owner_id) & ~ApiKey.is_log_in


def _key(row: Any) -> KeyRow:
    scopes = None if row.scopes is None else frozenset(Scope(name) for name in row.scopes.split())
    return KeyRow(
        row.id,
        row.name,
        scopes,
        row.last4,
        row.created_ms,
        row.expires_ms,
        row.last_used_ms,
        row.revoked_ms,
        _limits_of(
            row.day_budget_micros,
            row.month_budget_micros,
            row.total_budget_micros,
            row.allowed_models,
            row.allowed_providers,
        ),
    )


def _limits_of(*columns: Any) -> KeyLimits:
    *amounts, models, providers = columns
    budgets = {period: amount for period, amount in zip(_BUDGETS, amounts, strict=True) if amount is not None}
    return KeyLimits(budgets, tuple(json.loads(models)), tuple(json.loads(providers)))


def _columns(limits: KeyLimits) -> dict[Any, Any]:
    return {
        **{column: limits.budgets.get(period) for period, column in _BUDGETS.items()},
        ApiKey.allowed_models: json.dumps(limits.models, ensure_ascii=False),
        ApiKey.allowed_providers: json.dumps(limits.providers),
    }
