"""Idempotency keys with the answers that were given under them, as rows.

A row is written in the transaction of the effect that it remembers, so that there is both or neither.
"""

from __future__ import annotations

from server.store.models import Repeat


def claim(owner: str, key: str, digest: bytes, now_ms: int) -> bool:
    """Takes a key for the present transaction; False when it was used before.

    Of two at once, PostgreSQL lets the second wait here until the first has committed or failed; SQLite
    has one writer anyway.
    """
    row = Repeat.insert(owner=owner, key=key, digest=digest, created_ms=now_ms).on_conflict_ignore()
    return bool(row.as_rowcount().execute())


def find(owner: str, key: str) -> tuple[bytes, bytes] | None:
    """What was asked under a key that is taken, as its digest, and what was answered."""
    row = Repeat.select().where(Repeat.owner == owner, Repeat.key == key).first()
    return (bytes(row.digest), bytes(row.answer)) if row is not None else None


def remember(owner: str, key: str, answer: bytes) -> None:
    """The answer of the present transaction, under the key that it has claimed."""
    Repeat.update(answer=answer).where(Repeat.owner == owner, Repeat.key == key).execute()


def any_before(before_ms: int) -> bool:
    """Whether there are keys from before a time."""
    return bool(Repeat.select().where(Repeat.created_ms < before_ms).exists())


def forget_before(before_ms: int) -> None:
    """Drops the keys from before a time."""
    Repeat.delete().where(Repeat.created_ms < before_ms).execute()
