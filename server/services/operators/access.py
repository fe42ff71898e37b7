"""How operators get in: log-ins of browsers, and keys for scripts.

server.services.keys identifies the operator of a presented key or log-in.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.operators import LOG_IN_MS, MAX_KEYS, MAX_LOG_INS
from server.services.keys import OPERATOR_KEY, OPERATOR_LOG_IN, Caller, Credentials, digest, no_longer_valid
from server.services.operators.audit import Operator
from server.services.pages import Page, read_page
from server.store.database import Database
from server.store.operators import access, passkeys, roster
from server.store.operators.access import OperatorKeyRow
from server.store.operators.roster import OperatorRow

log = logging.getLogger(__name__)
NAME = "browser"
"""The name of each log-in among keys."""
REMOVE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class OperatorLogIn:
    """A browser's log-in: its secret, which is shown only once, whose it is, and when it ends."""

    secret: str
    operator: OperatorRow
    expires_ms: int


class Access:
    """The use cases of operators' own credentials."""

    def __init__(self, database: Database, clock: Clock, known: Credentials) -> None:
        self._database = database
        self._clock = clock
        self._known = known

    async def by_key(self, caller: Caller, by: Operator) -> OperatorLogIn:
        """Logs in the operator whose key was sent, for as long as that key is valid.

        Raises WRONG_STATE, INVALID_CREDENTIAL.
        """
        if caller.is_log_in or not caller.id:
            status = "logged in" if caller.is_log_in else "token"
            what = "this browser is logged in" if caller.is_log_in else "the admin token belongs to nobody"
            raise DomainError(
                Reason.WRONG_STATE, f"{what}; send a key of the operator to log in", status=status
            )
        now_ms = ms(self._clock)

        def enter() -> tuple[OperatorLogIn, list[bytes]]:
            row = locked(caller.id)
            # Whoever calls may be known from a cache, and the key have ended.
            key = access.get(row.id, caller.key_id, is_log_in=False)
            if key is None or key.revoked_ms is not None or key.expires_ms <= now_ms:
                raise no_longer_valid()
            by.note("operator.log_in", row.id, {}, {"by": "key", "key_id": key.id}, now_ms)
            return log_in(row, now_ms, min(now_ms + LOG_IN_MS, key.expires_ms), key_id=key.id)

        return self._entered(*await self._database.run(enter))

    async def log_out(self, caller: Caller, by: Operator, *, everywhere: bool) -> int:
        """Ends the caller's log-in, or all of the operator; returns how many it ended."""
        if not caller.id or not (everywhere or caller.is_log_in):
            return 0
        now_ms = ms(self._clock)
        key_id = None if everywhere else caller.key_id

        def leave() -> list[bytes]:
            ended = access.end_log_ins(caller.id, now_ms, key_id)
            if ended:
                by.note("operator.log_out", caller.id, {}, {"log_ins": len(ended)}, now_ms)
            return ended

        ended = await self._database.run(leave)
        self._known.forget_all(ended)
        log.info("logged out an operator operator_id=%d log_ins=%d", caller.id, len(ended))
        return len(ended)

    async def expiry(self, caller: Caller) -> int | None:
        """When the caller's log-in or key ends; None for the admin token."""
        if not caller.id:
            return None
        row = await self._database.read(
            lambda: access.get(caller.id, caller.key_id, is_log_in=caller.is_log_in)
        )
        return row.expires_ms if row is not None else None

    async def create_key(
        self, caller: Caller, by: Operator, name: str, expires_in_seconds: int
    ) -> tuple[OperatorKeyRow, str]:
        """A new key of the operator, and the key itself, which is shown only once.

        Raises LOG_IN_NEEDED, TOO_MANY_KEYS, INVALID_CREDENTIAL.
        """
        now_ms = ms(self._clock)
        key = f"{OPERATOR_KEY}{secrets.token_urlsafe(32)}"

        def create() -> OperatorKeyRow:
            row = locked(caller.id)
            refuse_without_passkey(caller, now_ms)
            if access.count_valid(row.id, now_ms) >= MAX_KEYS:
                raise DomainError(
                    Reason.TOO_MANY_KEYS,
                    f"this operator has {MAX_KEYS} active keys, the most allowed; revoke one first",
                )
            expires_ms = now_ms + expires_in_seconds * 1000
            key_id = access.add(row.id, digest(key), key[-4:], name, now_ms, expires_ms, is_log_in=False)
            by.note("operator.create_key", row.id, {}, {"key_id": key_id, "name": name}, now_ms)
            found = access.get(row.id, key_id, is_log_in=False)
            assert found is not None
            return found

        created = await self._database.run(create)
        log.info("created a key of an operator operator_id=%d key_id=%d", caller.id, created.id)
        return created, key

    async def keys(self, operator_id: int, before_id: int | None, limit: int) -> Page[OperatorKeyRow]:
        """One page of an operator's keys, newest first."""
        return await self._database.read(lambda: read_page(access.page, operator_id, before_id, limit=limit))

    async def revoke_key(self, operator_id: int, by: Operator, key_id: int) -> OperatorKeyRow:
        """Revokes a key of the operator and the log-ins that it made. Raises KEY_NOT_FOUND."""
        now_ms = ms(self._clock)

        def revoke() -> tuple[OperatorKeyRow, list[bytes]]:
            roster.lock(operator_id)
            if access.get(operator_id, key_id, is_log_in=False) is None:
                raise DomainError(
                    Reason.KEY_NOT_FOUND,
                    f"key_id: this operator has no key {key_id}; list its keys",
                    field="key_id",
                )
            ended = access.revoke(operator_id, key_id, now_ms)
            if ended:
                by.note("operator.revoke_key", operator_id, {}, {"key_id": key_id}, now_ms)
            found = access.get(operator_id, key_id, is_log_in=False)
            assert found is not None
            return found, ended

        row, ended = await self._database.run(revoke)
        self._known.forget_all(ended)
        log.info("revoked a key of an operator operator_id=%d key_id=%d", operator_id, key_id)
        return row

    async def clean(self) -> None:
        """Deletes what ended long ago."""
        now_ms = ms(self._clock)

        def clean() -> None:
            access.remove_old(now_ms, REMOVE_AT_ONCE)
            roster.remove_old(now_ms, REMOVE_AT_ONCE)
            passkeys.remove_old(now_ms, REMOVE_AT_ONCE)

        await self._database.run(clean)

    def _entered(self, found: OperatorLogIn, ended: list[bytes]) -> OperatorLogIn:
        self._known.forget_all(ended)
        log.info("logged in an operator operator_id=%d", found.operator.id)
        return found


def refuse_without_passkey(caller: Caller, now_ms: int) -> None:
    """Raises LOG_IN_NEEDED for a caller that did not log in with a passkey. The operator is locked."""
    log_in = access.get(caller.id, caller.key_id, is_log_in=True) if caller.is_log_in else None
    if log_in is not None and (log_in.revoked_ms is not None or log_in.expires_ms <= now_ms):
        raise no_longer_valid()
    if log_in is None or log_in.passkey_id is None:
        raise DomainError(
            Reason.LOG_IN_NEEDED,
            "only an operator who logged in with a passkey may do this: log in at /log-in",
        )


def locked(operator_id: int) -> OperatorRow:
    """The operator who calls, locked. Raises LOG_IN_NEEDED for the admin token, INVALID_CREDENTIAL."""
    if not operator_id:
        raise DomainError(
            Reason.LOG_IN_NEEDED, "the admin token belongs to nobody: log in as an operator at /log-in"
        )
    row = roster.lock(operator_id)
    if row is None:
        raise no_longer_valid()
    return row


def log_in(
    row: OperatorRow,
    now_ms: int,
    expires_ms: int,
    *,
    key_id: int | None = None,
    passkey_id: int | None = None,
) -> tuple[OperatorLogIn, list[bytes]]:
    """A new log-in of an operator that is locked, and the digests of older ones that it ended.

    The key or the passkey that made it ends it with itself. Call it inside a transaction.
    """
    ended = access.end_oldest(row.id, now_ms, MAX_LOG_INS - 1)
    secret = f"{OPERATOR_LOG_IN}{secrets.token_urlsafe(32)}"
    access.add(
        row.id,
        digest(secret),
        secret[-4:],
        NAME,
        now_ms,
        expires_ms,
        is_log_in=True,
        key_id=key_id,
        passkey_id=passkey_id,
    )
    return OperatorLogIn(secret, row, expires_ms), ended
