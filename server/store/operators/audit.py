"""The audit log as rows. An entry is written in the transaction of the action, and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from server.store.models import AuditEntry


@dataclass(frozen=True, slots=True)
class Entry:
    """One action of an operator. ``before`` and ``after`` are JSON objects of the changed values."""

    id: int
    at_ms: int
    actor: str
    action: str
    object: str
    object_id: str
    before: str
    after: str
    request_id: str


def write(
    *,
    at_ms: int,
    actor: str,
    action: str,
    object_id: int | str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    request_id: str,
) -> None:
    """Records an action; its name begins with the kind of its object, as in ``withdrawal.pay``."""
    AuditEntry.insert(
        at_ms=at_ms,
        actor=actor,
        action=action,
        object=action.partition(".")[0],
        object_id=str(object_id),
        before=json.dumps(before, ensure_ascii=False),
        after=json.dumps(after, ensure_ascii=False),
        request_id=request_id,
    ).execute()


def entries(
    kind: str | None, object_id: str | None, actor: str | None, before_id: int | None, limit: int
) -> list[Entry]:
    """One page of entries, newest first; optionally of one kind of object, of one object, or of one name."""
    query = AuditEntry.select()
    if kind is not None:
        query = query.where(AuditEntry.object == kind)
    if object_id is not None:
        query = query.where(AuditEntry.object_id == object_id)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    if before_id is not None:
        query = query.where(AuditEntry.id < before_id)
    return [
        Entry(
            row.id,
            row.at_ms,
            row.actor,
            row.action,
            row.object,
            row.object_id,
            row.before,
            row.after,
            row.request_id,
        )
        for row in query.order_by(AuditEntry.id.desc()).limit(limit)
    ]
