"""Keys: made once, recognized by their SHA-256, remembered for a moment to spare a query."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from server.clock import Clock
from server.domain.errors import DomainError, Reason
from server.store import accounts
from server.store.accounts import KeyOwner
from server.store.database import Database

PROVIDER = "provider"
RENTER = "renter"
ADMIN = "admin"
CACHE_SECONDS = 10.0
CACHE_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a role, and the id of the account where the role has accounts."""

    role: str
    id: int = 0
    key_id: int = 0
    """The key that it came with; 0 for the admin token."""


def issue(role: str, owner_id: int, now_ms: int) -> str:
    """Makes a key of 256 random bits and stores what recognizes it. The key itself is kept nowhere."""
    key = f"dcp-{role}-{secrets.token_urlsafe(32)}"
    accounts.add_key(role, owner_id, digest(key), key[-4:], now_ms)
    return key


def digest(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


class Keys:
    """Tells whose a credential is. A revoked key is refused within ``CACHE_SECONDS``."""

    def __init__(self, database: Database, clock: Clock, admin_token: str | None) -> None:
        self._database = database
        self._clock = clock
        self._admin_digest = digest(admin_token) if admin_token else None
        self._cache: OrderedDict[bytes, tuple[float, KeyOwner]] = OrderedDict()

    async def identify(self, credential: str) -> Caller:
        """The caller behind a credential. Raises INVALID_CREDENTIAL."""
        presented = digest(credential)
        if self._admin_digest is not None and hmac.compare_digest(presented, self._admin_digest):
            return Caller(ADMIN)
        owner = self._cached(presented)
        if owner is None and credential.startswith(("dcp-provider-", "dcp-renter-")):
            owner = await self._database.read(lambda: accounts.find_key(presented))
            if owner is not None:
                self._remember(presented, owner)
        if owner is None:
            raise DomainError(
                Reason.INVALID_CREDENTIAL,
                "this key is not known, or no longer; check it, or register for a new one",
            )
        return Caller(owner.role, owner.owner_id, owner.key_id)

    def remembers(self, credential: str) -> bool:
        """Whether the credential was found good a moment ago."""
        return self._cached(digest(credential)) is not None

    def require_admin_configured(self) -> None:
        """Raises ADMIN_NOT_CONFIGURED where the server was started without an admin token."""
        if self._admin_digest is None:
            raise DomainError(
                Reason.ADMIN_NOT_CONFIGURED,
                "this server has no admin token; start it with DCP_ADMIN_TOKEN set",
                retry_after_seconds=60,
            )

    def _cached(self, presented: bytes) -> KeyOwner | None:
        entry = self._cache.get(presented)
        if entry is None or entry[0] < self._clock.now():
            return None
        return entry[1]

    def _remember(self, presented: bytes, owner: KeyOwner) -> None:
        self._cache[presented] = (self._clock.now() + CACHE_SECONDS, owner)
        self._cache.move_to_end(presented)
        oldest = next(iter(self._cache.values()))
        while oldest[0] < self._clock.now() or len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
            oldest = next(iter(self._cache.values()))
