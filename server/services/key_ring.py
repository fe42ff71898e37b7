"""An account's keys: sub-keys of renters, and the rotation of main keys.

server.services.keys identifies the owner of a presented key.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.keys import MAX_MAIN_KEYS, MAX_SUB_KEYS, Scope
from server.services.keys import RENTER, Credentials, issue
from server.services.pages import Page, read_page
from server.services.renters import present
from server.store import keys
from server.store.database import Database
from server.store.keys import KeyRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new main key, which is shown only once, and when the previous main keys expire."""

    api_key: str
    previous_expires_ms: int


class KeyRing:
    """The use cases of an account's own keys."""

    def __init__(self, database: Database, clock: Clock, known: Credentials) -> None:
        self._database = database
        self._clock = clock
        self._known = known

    async def create(
        self, renter_id: int, name: str, scopes: frozenset[Scope], expires_in_seconds: int | None
    ) -> tuple[KeyRow, str]:
        """A new sub-key's row, and the key itself, which is shown only once.

        Raises TOO_MANY_KEYS, RENTER_DELETED.
        """
        now_ms = ms(self._clock)
        expires_ms = now_ms + expires_in_seconds * 1000 if expires_in_seconds else None

        def create() -> tuple[KeyRow, str]:
            present(renter_id)  # locks the account, so that two calls cannot both pass the limit
            if keys.count_working(RENTER, renter_id, now_ms, main=False) >= MAX_SUB_KEYS:
                raise _too_many(
                    f"this account has {MAX_SUB_KEYS} active sub-keys, the most allowed; revoke one first"
                )
            key = issue(RENTER, renter_id, now_ms, name=name, scopes=scopes, expires_ms=expires_ms)
            return keys.of_owner(RENTER, renter_id, None, 1)[0], key

        row, key = await self._database.run(create)
        log.info("created a sub-key renter_id=%d key_id=%d", renter_id, row.id)
        return row, key

    async def own(self, renter_id: int, before_id: int | None, limit: int) -> Page[KeyRow]:
        """One page of a renter's keys, newest first."""
        return await self._database.read(
            lambda: read_page(keys.of_owner, RENTER, renter_id, before_id, limit=limit)
        )

    async def revoke(self, renter_id: int, key_id: int) -> KeyRow:
        """Revokes a renter's key: on this server at once, on others within ``CACHE_SECONDS``.

        Raises KEY_NOT_FOUND, and WRONG_STATE for the main key.
        """
        now_ms = ms(self._clock)

        def revoke() -> tuple[KeyRow, bytes]:
            found = keys.get(RENTER, renter_id, key_id)
            if found is None:
                raise DomainError(
                    Reason.KEY_NOT_FOUND,
                    f"key_id: this account has no key {key_id}; list its keys",
                    field="key_id",
                )
            if found.scopes is None and found.expires_ms is None:
                raise DomainError(
                    Reason.WRONG_STATE,
                    "this is the account's main key, which cannot be revoked; rotate it instead",
                    status="main",
                )
            sha256 = keys.revoke(key_id, now_ms)
            after = keys.get(RENTER, renter_id, key_id)
            assert after is not None
            return after, sha256

        after, sha256 = await self._database.run(revoke)
        self._known.forget(sha256)
        log.info("revoked a key renter_id=%d key_id=%d", renter_id, key_id)
        return after

    async def rotate(self, role: str, owner_id: int, grace_seconds: int) -> Rotation:
        """Replaces an account's main key; the previous ones expire after the grace period.

        Raises TOO_MANY_KEYS, RENTER_DELETED.
        """
        now_ms = ms(self._clock)
        expires_ms = now_ms + grace_seconds * 1000

        def rotate() -> tuple[str, list[bytes]]:
            if role == RENTER:
                present(owner_id)
            retired = keys.retire_main(role, owner_id, expires_ms)
            if keys.count_working(role, owner_id, now_ms, main=True) >= MAX_MAIN_KEYS:
                raise _too_many(
                    f"this account has {MAX_MAIN_KEYS} active main keys, the most allowed; wait until one "
                    "expires, or rotate with grace_seconds 0, which ends the previous ones at once"
                )
            return issue(role, owner_id, now_ms), retired

        key, retired = await self._database.run(rotate)
        for sha256 in retired:
            self._known.forget(sha256)
        log.info("rotated a main key role=%s owner_id=%d grace_seconds=%d", role, owner_id, grace_seconds)
        return Rotation(key, expires_ms)


def _too_many(message: str) -> DomainError:
    return DomainError(Reason.TOO_MANY_KEYS, message)
