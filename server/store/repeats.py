"""Idempotency keys as rows, with the answers to their requests.

A row is written in the transaction of the request's effect, so that both exist or neither.
"""

from __future__ import annotations

import peewee as pw

from server.store.models import Repeat
from server.store.prepared import PreparedQuery, arg

_any_before = PreparedQuery(
    lambda: Repeat.select(pw.SQL("1")).where(Repeat.created_ms < arg("before_ms")).limit(1)
)


def claim(owner: str, key: str, digest: bytes, now_ms: int) -> bool:
    """Claims a key for the current transaction; False if it was used before.

    If two transactions claim a key, PostgreSQL lets the second wait here until the first has committed or
    failed; SQLite has only one writer.
    """
    row = Repeat.insert(owner=owner, key=key, digest=digest, created_ms=now_ms).on_conflict_ignore()
    return bool(row.as_rowcount().execute())


def find(owner: str, key: str) -> tuple[bytes, bytes] | None:
    """The digest of the request that used a key, and its answer; None if the key is unused."""
    row = Repeat.select().where(Repeat.owner == owner, Repeat.key == key).first()
    return (bytes(row.digest), bytes(row.answer)) if row is not None else None


def remember(owner: str, key: str, answer: bytes) -> None:
    """Stores the answer of the current transaction, for the key that it claimed."""
    Repeat.update(answer=answer).where(Repeat.owner == owner, Repeat.key == key).execute()


def any_before(before_ms: int) -> bool:
    """Whether there are keys older than a time."""
    return _any_before.one(before_ms=before_ms) is not None


def forget_before(before_ms: int) -> None:
    """Deletes the keys older than a time."""
    Repeat.delete().where(Repeat.created_ms < before_ms).execute()
