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
    """A new main key, which is told this once, and when those before it end."""

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
        """A new sub-key, and the key itself, which is told this once.

        Raises TOO_MANY_KEYS, RENTER_DELETED.
        """
        now_ms = ms(self._clock)
        expires_ms = now_ms + expires_in_seconds * 1000 if expires_in_seconds else None

        def create() -> tuple[KeyRow, str]:
            present(renter_id)  # locked: of two at the limit, one comes first
            if keys.count_working(RENTER, renter_id, now_ms, main=False) >= MAX_SUB_KEYS:
                raise _too_many(
                    f"{MAX_SUB_KEYS} sub-keys of this account work; revoke one that is not needed"
                )
            key = issue(RENTER, renter_id, now_ms, name=name, scopes=scopes, expires_ms=expires_ms)
            return keys.of_owner(RENTER, renter_id, None, 1)[0], key

        made, key = await self._database.run(create)
        log.info("made a sub-key renter_id=%d key_id=%d", renter_id, made.id)
        return made, key

    async def own(self, renter_id: int, before_id: int | None, limit: int) -> Page[KeyRow]:
        """One page of a renter's keys, newest first."""
        return await self._database.read(
            lambda: read_page(keys.of_owner, RENTER, renter_id, before_id, limit=limit)
        )

    async def revoke(self, renter_id: int, key_id: int) -> KeyRow:
        """Ends a renter's key, here at once and elsewhere within ``CACHE_SECONDS``.

        Raises KEY_NOT_FOUND, and WRONG_STATE for the main key.
        """
        now_ms = ms(self._clock)

        def revoke() -> tuple[KeyRow, bytes]:
            found = keys.get(RENTER, renter_id, key_id)
            if found is None:
                raise DomainError(Reason.KEY_NOT_FOUND, f"key_id: no key {key_id} of yours", field="key_id")
            if found.scopes is None and found.expires_ms is None:
                raise DomainError(
                    Reason.WRONG_STATE,
                    "this is the account's main key, without which nobody gets in; rotate it instead",
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
        """Replaces an account's main key; those before it end after the grace.

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
                    f"{MAX_MAIN_KEYS} main keys of this account work; wait for the end of a grace, "
                    "or rotate with grace_seconds 0, which ends them all"
                )
            return issue(role, owner_id, now_ms), retired

        key, retired = await self._database.run(rotate)
        for sha256 in retired:
            self._known.forget(sha256)
        log.info("rotated a main key role=%s owner_id=%d grace_seconds=%d", role, owner_id, grace_seconds)
        return Rotation(key, expires_ms)


def _too_many(message: str) -> DomainError:
    return DomainError(Reason.TOO_MANY_KEYS, message)
