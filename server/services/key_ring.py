"""An account's keys: sub-keys of renters, and the rotation of main keys.

server.services.keys identifies the owner of a presented key.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from common.nearest import did_you_mean
from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.budgets import NO_LIMITS, KeyLimits
from server.domain.errors import DomainError, Reason
from server.domain.keys import MAX_MAIN_KEYS, MAX_SUB_KEYS, Scope
from server.services.keys import RENTER, Credentials, issue
from server.services.pages import Page, read_page
from server.services.renters import present
from server.store import budgets, keys, ledger, log_ins, mailboxes, providers
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
        self,
        renter_id: int,
        name: str,
        scopes: frozenset[Scope],
        expires_in_seconds: int | None,
        limits: KeyLimits = NO_LIMITS,
    ) -> tuple[KeyRow, str]:
        """A new sub-key's row, and the key itself, which is shown only once.

        Raises TOO_MANY_KEYS, RENTER_DELETED, MODEL_NOT_FOUND, PROVIDER_NOT_FOUND.
        """
        now_ms = ms(self._clock)
        expires_ms = now_ms + expires_in_seconds * 1000 if expires_in_seconds else None

        def create() -> tuple[KeyRow, str]:
            present(renter_id)  # locks the account, so that two calls cannot both pass the limit
            if keys.count_working(RENTER, renter_id, now_ms, main=False) >= MAX_SUB_KEYS:
                raise _too_many(
                    f"this account has {MAX_SUB_KEYS} active sub-keys, the most allowed; revoke one first"
                )
            _check_known(limits)
            key = issue(
                RENTER, renter_id, now_ms, name=name, scopes=scopes, expires_ms=expires_ms, limits=limits
            )
            return _with_use(keys.of_owner(RENTER, renter_id, None, 1), now_ms)[0], key

        row, key = await self._database.run(create)
        log.info("created a sub-key renter_id=%d key_id=%d", renter_id, row.id)
        return row, key

    async def own(self, renter_id: int, before_id: int | None, limit: int) -> Page[KeyRow]:
        """One page of a renter's keys, newest first, with what they use of their budgets."""
        now_ms = ms(self._clock)

        def read(*page: Any) -> list[KeyRow]:
            return _with_use(keys.of_owner(RENTER, *page), now_ms)

        return await self._database.read(lambda: read_page(read, renter_id, before_id, limit=limit))

    async def limit(self, renter_id: int, key_id: int, limits: KeyLimits) -> KeyRow:
        """Replaces the limits of a sub-key, which hold for the next submit at any server.

        Raises KEY_NOT_FOUND, WRONG_STATE for a main key and one that is no longer valid, RENTER_DELETED,
        MODEL_NOT_FOUND, PROVIDER_NOT_FOUND.
        """
        now_ms = ms(self._clock)

        def limit() -> KeyRow:
            present(renter_id)
            found = _existing(renter_id, key_id)
            _refuse_unlimitable(found, now_ms)
            _check_known(limits)
            # No job of the account ends meanwhile, so what the key uses cannot change while it is counted.
            ledger.lock([rules.renter(renter_id), rules.held(renter_id)])
            keys.set_limits(key_id, limits)
            if not limits.budgets:
                budgets.forget(key_id)
            elif not found.limits.budgets:
                budgets.begin(key_id, renter_id, now_ms)
            budgets.forget_reports(key_id)
            return _with_use([_existing(renter_id, key_id)], now_ms)[0]

        row = await self._database.run(limit)
        log.info("limited a key renter_id=%d key_id=%d", renter_id, key_id)
        return row

    async def revoke(self, renter_id: int, key_id: int) -> KeyRow:
        """Revokes a renter's key: on this server at once, on others within ``CACHE_SECONDS``.

        The log-ins of the account end with a main key that was replaced, since that key may have made them.

        Raises RENTER_DELETED, KEY_NOT_FOUND, and WRONG_STATE for the main key.
        """
        now_ms = ms(self._clock)

        def revoke() -> tuple[KeyRow, list[bytes]]:
            present(renter_id)
            found = _existing(renter_id, key_id)
            if found.scopes is None and found.expires_ms is None:
                raise DomainError(
                    Reason.WRONG_STATE,
                    "this is the account's main key, which cannot be revoked; rotate it instead",
                    status="main",
                )
            ended = [keys.revoke(key_id, now_ms)]
            if found.scopes is None:
                ended += log_ins.end_all(RENTER, renter_id, now_ms)
            return _existing(renter_id, key_id), ended

        after, ended = await self._database.run(revoke)
        for sha256 in ended:
            self._known.forget(sha256)
        log.info("revoked a key renter_id=%d key_id=%d", renter_id, key_id)
        return after

    async def rotate(self, role: str, owner_id: int, grace_seconds: int) -> Rotation:
        """Replaces an account's main key; the previous ones expire after the grace period.

        Its log-ins end at once, without a grace period.

        Raises TOO_MANY_KEYS, RENTER_DELETED.
        """
        now_ms = ms(self._clock)
        expires_ms = now_ms + grace_seconds * 1000

        def rotate() -> tuple[str, list[bytes]]:
            # Locks the account, so that nobody logs in by a key that is being retired.
            if role == RENTER:
                present(owner_id)
            else:
                mailboxes.get(role, owner_id)
            retired = keys.retire_main(role, owner_id, expires_ms)
            if keys.count_working(role, owner_id, now_ms, main=True) >= MAX_MAIN_KEYS:
                raise _too_many(
                    f"this account has {MAX_MAIN_KEYS} active main keys, the most allowed; wait until one "
                    "expires, or rotate with grace_seconds 0, which ends the previous ones at once"
                )
            retired += log_ins.end_all(role, owner_id, now_ms)
            return issue(role, owner_id, now_ms), retired

        key, retired = await self._database.run(rotate)
        for sha256 in retired:
            self._known.forget(sha256)
        log.info("rotated a main key role=%s owner_id=%d grace_seconds=%d", role, owner_id, grace_seconds)
        return Rotation(key, expires_ms)


def _existing(renter_id: int, key_id: int) -> KeyRow:
    found = keys.get(RENTER, renter_id, key_id)
    if found is None:
        raise DomainError(
            Reason.KEY_NOT_FOUND, f"key_id: this account has no key {key_id}; list its keys", field="key_id"
        )
    return found


def _refuse_unlimitable(found: KeyRow, now_ms: int) -> None:
    """Raises WRONG_STATE for a key that cannot have limits."""
    if found.scopes is None:
        raise DomainError(
            Reason.WRONG_STATE,
            "this is a main key, which has no limits; create a sub-key with limits, and use that one",
            status="main",
        )
    for status, at_ms in (("revoked", found.revoked_ms), ("expired", found.expires_ms)):
        if at_ms is not None and at_ms <= now_ms:
            raise DomainError(
                Reason.WRONG_STATE,
                f"this key is {status}, so it accepts no jobs; create a new one with these limits",
                status=status,
            )


def _check_known(limits: KeyLimits) -> None:
    """Raises MODEL_NOT_FOUND or PROVIDER_NOT_FOUND for a name or an id that is probably misspelt."""
    served = providers.served_models() if limits.models else set()
    for model in limits.models:
        if model not in served:
            meant = did_you_mean(model, served, "see the models at /api/renters/available-providers")
            raise DomainError(
                Reason.MODEL_NOT_FOUND,
                f"allowed_models: no provider has reported {model!r}; {meant}",
                field="allowed_models",
            )
    if unknown := set(limits.providers).difference(providers.existing_ids(limits.providers)):
        ids = ", ".join(map(str, sorted(unknown)))
        raise DomainError(
            Reason.PROVIDER_NOT_FOUND,
            f"allowed_providers: no provider has the id {ids}; see /api/renters/available-providers",
            field="allowed_providers",
        )


def _with_use(rows: list[KeyRow], now_ms: int) -> list[KeyRow]:
    """The keys, with what those of them that have budgets use."""
    if not (with_budgets := [row.id for row in rows if row.limits.budgets]):
        return rows
    used = budgets.used(with_budgets, now_ms)
    return [replace(row, used=used.get(row.id, {})) for row in rows]


def _too_many(message: str) -> DomainError:
    return DomainError(Reason.TOO_MANY_KEYS, message)
