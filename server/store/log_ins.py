"""Log-ins and the codes that give them, as rows. A log-in is a main key with an end.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.domain.log_ins import KEPT_MS, MAX_GUESSES
from server.domain.statements import DAY_MS
from server.store.models import ApiKey, LogInCode, tuples


@dataclass(frozen=True, slots=True)
class LogInCodeRow:
    """A code that can still be used; its digest is None until it is mailed."""

    id: int
    role: str
    owner_id: int
    sha256: bytes | None


def end(role: str, owner_id: int, now_ms: int, key_id: int) -> list[bytes]:
    """Ends one log-in of an account; returns its digest, unless it had ended."""
    return _end(_valid(role, owner_id, now_ms) & (ApiKey.id == key_id), now_ms)


def end_oldest(role: str, owner_id: int, now_ms: int, most: int) -> list[bytes]:
    """Ends all log-ins of an account but the newest; returns the digests of those it ended."""
    mine = _valid(role, owner_id, now_ms)
    kept = ApiKey.select(ApiKey.id).where(mine).order_by(ApiKey.id.desc()).limit(most)
    ids = [key_id for (key_id,) in tuples(kept)]
    return _end(mine & (ApiKey.id < ids[-1]), now_ms) if len(ids) == most else []


def add_code(role: str, owner_id: int, browser_sha256: bytes, now_ms: int, expires_ms: int) -> int:
    """Adds a code for a browser and returns its id. The letter that carries it sets its digest."""
    row = LogInCode.insert(
        role=role,
        owner_id=owner_id,
        browser_sha256=browser_sha256,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    return int(row.execute())


def set_digest(code_id: int, sha256: bytes, now_ms: int) -> bool:
    """Stores the digest of a code that is about to be mailed; False if it can no longer be used."""
    return bool(LogInCode.update(sha256=sha256).where(LogInCode.id == code_id, *_usable(now_ms)).execute())


def of_browser(browser_sha256: bytes, now_ms: int) -> LogInCodeRow | None:
    """The usable code that this browser asked for."""
    row = LogInCode.select().where(LogInCode.browser_sha256 == browser_sha256, *_usable(now_ms)).first()
    if row is None:
        return None
    return LogInCodeRow(row.id, row.role, row.owner_id, None if row.sha256 is None else bytes(row.sha256))


def count_guess(code_id: int) -> None:
    """Counts a wrong code."""
    LogInCode.update(guesses=LogInCode.guesses + 1).where(LogInCode.id == code_id).execute()


def use_code(code_id: int, now_ms: int) -> bool:
    """Ends a code that is used; False if it was used meanwhile."""
    change = LogInCode.update(ended_ms=now_ms).where(LogInCode.id == code_id, *_usable(now_ms))
    return bool(change.execute())


def end_all(role: str, owner_id: int, now_ms: int) -> list[bytes]:
    """Ends every log-in and every code of an account; returns the digests of the log-ins that it ended."""
    mine = (LogInCode.role == role) & (LogInCode.owner_id == owner_id)
    LogInCode.update(ended_ms=now_ms).where(mine, LogInCode.ended_ms.is_null()).execute()
    return _end(_valid(role, owner_id, now_ms), now_ms)


def remove_old(now_ms: int, limit: int) -> None:
    """Deletes log-ins that were ended a day ago, and log-ins and codes that expired long ago.

    So the rows of one account are bounded by how often it can log in within a day.
    """
    ended = ApiKey.select(ApiKey.id).where(ApiKey.is_log_in, ApiKey.revoked_ms < now_ms - DAY_MS)
    ids = [row.id for row in ended.order_by(ApiKey.revoked_ms).limit(limit)]
    ApiKey.delete().where(ApiKey.id.in_(ids)).execute()
    for model, which in ((ApiKey, ApiKey.is_log_in), (LogInCode, None)):
        old = model.select(model.id).where(model.expires_ms < now_ms - KEPT_MS)
        old = old.where(which) if which is not None else old
        ids = [row.id for row in old.order_by(model.expires_ms).limit(limit)]
        model.delete().where(model.id.in_(ids)).execute()


def _valid(role: str, owner_id: int, now_ms: int) -> Any:
    return (
        (ApiKey.role == role)
        & (ApiKey.owner_id == owner_id)
        & ApiKey.is_log_in
        & ApiKey.revoked_ms.is_null()
        & (ApiKey.expires_ms > now_ms)
    )


def _end(which: Any, now_ms: int) -> list[bytes]:
    digests = [bytes(sha256) for (sha256,) in tuples(ApiKey.select(ApiKey.sha256).where(which))]
    ApiKey.update(revoked_ms=now_ms).where(which).execute()
    return digests


def _usable(now_ms: int) -> tuple[Any, ...]:
    return LogInCode.ended_ms.is_null(), LogInCode.expires_ms > now_ms, LogInCode.guesses < MAX_GUESSES
