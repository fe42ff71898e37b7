"""Keys: issued once, recognized by their SHA-256, cached for a few seconds to save queries."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from server.bus import Bus, Topic
from server.bus.local import LocalBus
from server.clock import Clock, ms
from server.domain.budgets import NO_LIMITS, KeyLimits
from server.domain.errors import DomainError, Reason
from server.domain.keys import Scope
from server.domain.operators import TOKEN_NAME, OperatorRole
from server.services.each import raise_if_all, together
from server.store import keys
from server.store.database import Database
from server.store.keys import KeyOwner
from server.store.operators import access, roster
from server.store.operators.access import OperatorKeyOwner

PROVIDER = "provider"
RENTER = "renter"
ADMIN = "admin"
GATEWAY = "gateway"
"""A gateway on work of its own, which has no credential: see server.rpc.interceptors."""
SESSION = "session"
"""In place of the role, in a log-in of a browser: only its cookie carries one."""
OPERATOR_KEY = "dcp-operator-"
OPERATOR_LOG_IN = f"dcp-{SESSION}-operator-"
CACHE_SECONDS = 10.0
CACHE_SIZE = 20_000
USES_PERIOD_SECONDS = 60.0
# Keys whose last use is kept until it is written; uses of further keys are not recorded.
USES_SIZE = 20_000
USES_BATCH = 1000


Owner: TypeAlias = KeyOwner | OperatorKeyOwner


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller: a role, and the id of the account if the role has accounts."""

    role: str
    id: int = 0
    key_id: int = 0
    """The presented key; 0 for the admin token."""
    scopes: frozenset[Scope] | None = None
    """The scopes of a sub-key; None for every other credential."""
    is_log_in: bool = False
    """Whether a browser's log-in was presented, which stands for the main key."""
    operator: OperatorRole | None = None
    """What an operator may do; None for an account."""
    name: str = ""
    """Under which the audit log records what an operator does; empty for an account."""


def issue(
    role: str,
    owner_id: int,
    now_ms: int,
    *,
    name: str = "",
    scopes: frozenset[Scope] | None = None,
    expires_ms: int | None = None,
    limits: KeyLimits = NO_LIMITS,
    is_log_in: bool = False,
) -> str:
    """Creates a key of 256 random bits and stores its digest. The key itself is stored nowhere."""
    key = f"dcp-{SESSION if is_log_in else role}-{secrets.token_urlsafe(32)}"
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
        is_log_in=is_log_in,
    )
    return key


def digest(key: str) -> bytes:
    """The SHA-256 by which a stored key is recognized."""
    return hashlib.sha256(key.encode()).digest()


def no_longer_valid() -> DomainError:
    """The error for a key that nobody has, or that has ended."""
    return DomainError(
        Reason.INVALID_CREDENTIAL,
        "this key is unknown or no longer valid; check it, or register for a new one",
    )


def _digests(texts: Iterable[str]) -> Iterator[bytes]:
    """The digests among what a message names."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield bytes.fromhex(text)


def _finder(credential: str) -> Callable[[bytes], Owner | None] | None:
    """How the owner of a credential is found; None for one that nobody can have."""
    if credential.startswith((OPERATOR_KEY, OPERATOR_LOG_IN)):
        return access.find
    if credential.startswith(("dcp-provider-", "dcp-renter-", f"dcp-{SESSION}-")):
        return keys.find
    return None


class Credentials:
    """Identifies the owner of a credential and records its use.

    A revoked key is refused at the latest after ``CACHE_SECONDS``.
    """

    def __init__(
        self, database: Database, clock: Clock, admin_token: str | None, bus: Bus | None = None
    ) -> None:
        self._bus = bus or LocalBus()
        self._bus.listen(Topic.KEY, self._hear_of_keys)
        self.changed: Callable[[], None] = lambda: None
        """Called when a key was revoked or changed, at whichever server: streams may have lost theirs."""
        self._database = database
        self._clock = clock
        self._admin_digest = digest(admin_token) if admin_token else None
        self._cache: OrderedDict[bytes, tuple[float, Owner]] = OrderedDict()
        self._forgotten = 0
        # When keys of accounts were last used, and keys of operators.
        self._uses: dict[int, int] = {}
        self._uses_of_operators: dict[int, int] = {}
        self._has_operators = False
        self._next_look = 0.0
        self._next_write = clock.now() + USES_PERIOD_SECONDS

    async def identify(self, credential: str) -> Caller:
        """The caller behind a credential. Raises INVALID_CREDENTIAL."""
        if (known := self.recall(credential)) is not None:
            return known
        presented, owner = digest(credential), None
        if (find := _finder(credential)) is not None:
            forgotten = self._forgotten
            owner = await self._database.read(lambda: find(presented))
            # If a key was forgotten during this read, the row may date from before it ended: do not cache it.
            if owner is not None and forgotten == self._forgotten:
                self._remember(presented, owner)
        if owner is None or self._is_over(owner):
            raise no_longer_valid()
        return self._caller(owner)

    def recall(self, credential: str) -> Caller | None:
        """The caller, if it takes no look-up: the admin token, or a key found within ``CACHE_SECONDS``."""
        presented = digest(credential)
        if self._admin_digest is not None and hmac.compare_digest(presented, self._admin_digest):
            return Caller(ADMIN, operator=OperatorRole.ADMIN, name=TOKEN_NAME)
        owner = self._cached(presented)
        return self._caller(owner) if owner is not None else None

    def _caller(self, owner: Owner) -> Caller:
        self._note_use(owner)
        if isinstance(owner, OperatorKeyOwner):
            return Caller(
                ADMIN,
                owner.operator_id,
                owner.key_id,
                is_log_in=owner.is_log_in,
                operator=owner.role,
                name=owner.name,
            )
        return Caller(owner.role, owner.owner_id, owner.key_id, owner.scopes, owner.is_log_in)

    def forget(self, sha256: bytes) -> None:
        """Drops a key that changed from the cache of every server, so that it is looked up again."""
        self._drop([sha256])
        self._bus.publish(Topic.KEY, [sha256.hex()])

    def forget_all(self, digests: Iterable[bytes]) -> None:
        """Drops keys that changed."""
        for sha256 in digests:
            self.forget(sha256)

    def _hear_of_keys(self, ids: frozenset[str]) -> None:
        """Drops the keys that other servers tell; every key if it is not known which."""
        self._drop(_digests(ids) if ids else list(self._cache))

    def _drop(self, digests: Iterable[bytes]) -> None:
        self._forgotten += 1
        for sha256 in digests:
            self._cache.pop(sha256, None)
        self.changed()

    async def write_uses(self, *, now: bool = False) -> None:
        """Stores when renters' and operators' keys, and log-ins, were last used: once a minute or ``now``."""
        if not now and self._clock.now() < self._next_write:
            return
        self._next_write = self._clock.now() + USES_PERIOD_SECONDS
        for uses, write in ((self._uses, keys.write_uses), (self._uses_of_operators, access.write_uses)):
            taken = list(uses.items())
            for start in range(0, len(taken), USES_BATCH):
                batch = taken[start : start + USES_BATCH]
                failed = await together(self._database, "the use of a key", batch, write)
                raise_if_all(failed, batch)
                for key_id, at_ms in batch:  # after a failure all stay; a key used meanwhile stays too
                    if uses[key_id] == at_ms:
                        del uses[key_id]

    def _note_use(self, owner: Owner) -> None:
        is_operator = isinstance(owner, OperatorKeyOwner)
        uses = self._uses_of_operators if is_operator else self._uses
        is_recorded = isinstance(owner, OperatorKeyOwner) or owner.role == RENTER or owner.is_log_in
        if is_recorded and (owner.key_id in uses or len(uses) < USES_SIZE):
            uses[owner.key_id] = ms(self._clock)

    def _is_over(self, owner: Owner) -> bool:
        return owner.expires_ms is not None and owner.expires_ms <= ms(self._clock)

    async def require_admin_configured(self) -> None:
        """Raises ADMIN_NOT_CONFIGURED if there is neither an admin token nor an operator."""
        if self._admin_digest is not None or await self._is_operated():
            return
        raise DomainError(
            Reason.ADMIN_NOT_CONFIGURED,
            "this server has no operators and no admin token; run dcp-server invite on its machine, or "
            "start it with DCP_ADMIN_TOKEN set",
            retry_after_seconds=60,
        )

    async def _is_operated(self) -> bool:
        """Whether there are operators; after a no, it looks again only after ``CACHE_SECONDS``."""
        if not self._has_operators and self._clock.now() >= self._next_look:
            self._next_look = self._clock.now() + CACHE_SECONDS
            self._has_operators = await self._database.read(roster.exists)
        return self._has_operators

    def _cached(self, presented: bytes) -> Owner | None:
        entry = self._cache.get(presented)
        if entry is None or entry[0] < self._clock.now() or self._is_over(entry[1]):
            return None
        return entry[1]

    def _remember(self, presented: bytes, owner: Owner) -> None:
        self._cache[presented] = (self._clock.now() + CACHE_SECONDS, owner)
        self._cache.move_to_end(presented)
        oldest = next(iter(self._cache.values()))
        while oldest[0] < self._clock.now() or len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
            oldest = next(iter(self._cache.values()))
