"""Keys: issued once, recognized by their SHA-256, cached for a few seconds to save queries."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.budgets import NO_LIMITS, KeyLimits
from server.domain.errors import DomainError, Reason
from server.domain.keys import Scope
from server.services.each import raise_if_all, together
from server.store import keys
from server.store.database import Database
from server.store.keys import KeyOwner

PROVIDER = "provider"
RENTER = "renter"
ADMIN = "admin"
CACHE_SECONDS = 10.0
CACHE_SIZE = 20_000
USES_PERIOD_SECONDS = 60.0
# Keys whose last use is kept until it is written; uses of further keys are not recorded.
USES_SIZE = 20_000
USES_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller: a role, and the id of the account if the role has accounts."""

    role: str
    id: int = 0
    key_id: int = 0
    """The presented key; 0 for the admin token."""
    scopes: frozenset[Scope] | None = None
    """The scopes of a sub-key; None for every other credential."""


def issue(
    role: str,
    owner_id: int,
    now_ms: int,
    *,
    name: str = "",
    scopes: frozenset[Scope] | None = None,
    expires_ms: int | None = None,
    limits: KeyLimits = NO_LIMITS,
) -> str:
    """Creates a key of 256 random bits and stores its digest. The key itself is stored nowhere."""
    key = f"dcp-{role}-{secrets.token_urlsafe(32)}"
    keys.add(
        role,
        owner_id,
        digest(key),
        key[-4:],
        now_ms,
        name=name,
        scopes=scopes,
        expires_ms=expires_ms,
        limits=limits,
    )
    return key


def digest(key: str) -> bytes:
    """The SHA-256 by which a stored key is recognized."""
    return hashlib.sha256(key.encode()).digest()


class Credentials:
    """Identifies the owner of a credential and records its use.

    A revoked key is refused at the latest after ``CACHE_SECONDS``.
    """

    def __init__(self, database: Database, clock: Clock, admin_token: str | None) -> None:
        self._database = database
        self._clock = clock
        self._admin_digest = digest(admin_token) if admin_token else None
        self._cache: OrderedDict[bytes, tuple[float, KeyOwner]] = OrderedDict()
        self._forgotten = 0
        self._uses: dict[int, int] = {}
        self._next_write = clock.now() + USES_PERIOD_SECONDS

    async def identify(self, credential: str) -> Caller:
        """The caller behind a credential. Raises INVALID_CREDENTIAL."""
        if (known := self.recall(credential)) is not None:
            return known
        presented, owner = digest(credential), None
        if credential.startswith(("dcp-provider-", "dcp-renter-")):
            forgotten = self._forgotten
            owner = await self._database.read(lambda: keys.find(presented))
            # If a key was forgotten during this read, the row may date from before it ended: do not cache it.
            if owner is not None and forgotten == self._forgotten:
                self._remember(presented, owner)
        if owner is None or self._is_over(owner):
            raise DomainError(
                Reason.INVALID_CREDENTIAL,
                "this key is unknown or no longer valid; check it, or register for a new one",
            )
        return self._caller(owner)

    def recall(self, credential: str) -> Caller | None:
        """The caller, if it takes no look-up: the admin token, or a key found within ``CACHE_SECONDS``."""
        presented = digest(credential)
        if self._admin_digest is not None and hmac.compare_digest(presented, self._admin_digest):
            return Caller(ADMIN)
        owner = self._cached(presented)
        return self._caller(owner) if owner is not None else None

    def _caller(self, owner: KeyOwner) -> Caller:
        self._note_use(owner)
        return Caller(owner.role, owner.owner_id, owner.key_id, owner.scopes)

    def forget(self, sha256: bytes) -> None:
        """Drops a key that changed from the cache, so that it is looked up again."""
        self._forgotten += 1
        self._cache.pop(sha256, None)

    async def write_uses(self, *, now: bool = False) -> None:
        """Stores when renters' keys were last used: once a minute or ``now``, never for each call."""
        if not now and self._clock.now() < self._next_write:
            return
        self._next_write = self._clock.now() + USES_PERIOD_SECONDS
        taken = list(self._uses.items())
        for start in range(0, len(taken), USES_BATCH):
            batch = taken[start : start + USES_BATCH]
            failed = await together(self._database, "the use of a key", batch, keys.write_uses)
            raise_if_all(failed, batch)
            for key_id, at_ms in batch:  # after a failure all stay; a key that was used meanwhile stays too
                if self._uses[key_id] == at_ms:
                    del self._uses[key_id]

    def _note_use(self, owner: KeyOwner) -> None:
        if owner.role == RENTER and (owner.key_id in self._uses or len(self._uses) < USES_SIZE):
            self._uses[owner.key_id] = ms(self._clock)

    def _is_over(self, owner: KeyOwner) -> bool:
        return owner.expires_ms is not None and owner.expires_ms <= ms(self._clock)

    def require_admin_configured(self) -> None:
        """Raises ADMIN_NOT_CONFIGURED if the server was started without an admin token."""
        if self._admin_digest is None:
            raise DomainError(
                Reason.ADMIN_NOT_CONFIGURED,
                "this server has no admin token; start it with DCP_ADMIN_TOKEN set",
                retry_after_seconds=60,
            )

    def _cached(self, presented: bytes) -> KeyOwner | None:
        entry = self._cache.get(presented)
        if entry is None or entry[0] < self._clock.now() or self._is_over(entry[1]):
            return None
        return entry[1]

    def _remember(self, presented: bytes, owner: KeyOwner) -> None:
        self._cache[presented] = (self._clock.now() + CACHE_SECONDS, owner)
        self._cache.move_to_end(presented)
        oldest = next(iter(self._cache.values()))
        while oldest[0] < self._clock.now() or len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
            oldest = next(iter(self._cache.values()))
