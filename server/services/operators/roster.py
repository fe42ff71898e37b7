"""Operators are invited, get other roles and are removed. server.services.operators.access logs them in."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.mailboxes import CODE_BYTES, code_digest, written_code
from server.domain.operators import INVITATION_MS, MAX_OPERATORS, OperatorRole, name_key
from server.services.keys import Caller, Credentials
from server.services.operators.access import refuse_without_passkey
from server.services.operators.audit import Operator
from server.services.pages import Page, read_page
from server.store.database import Database
from server.store.operators import access, passkeys, roster
from server.store.operators.roster import OperatorRow

log = logging.getLogger(__name__)
HANDLE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """An operator, the code of its invitation, which is shown only once, and until when it can be used."""

    operator: OperatorRow
    code: str
    expires_ms: int


class Roster:
    """The use cases of the operators as persons."""

    def __init__(self, database: Database, clock: Clock, known: Credentials, *, has_token: bool) -> None:
        self._database = database
        self._clock = clock
        self._known = known
        self._has_token = has_token

    async def invite(
        self, caller: Caller, by: Operator, name: str, email: str, role: OperatorRole
    ) -> Invitation:
        """Adds an operator and invites it.

        Raises LOG_IN_NEEDED, OPERATOR_NAME_TAKEN, TOO_MANY_OPERATORS, INVALID_FIELD.
        """
        now_ms, code, key = ms(self._clock), written_code(secrets.token_bytes(CODE_BYTES)), name_key(name)

        def add() -> Invitation:
            everyone = _lock_all(caller, now_ms)
            return invite(everyone, by, name, key, email, role, code, now_ms)

        invited = await self._database.run(add)
        log.info("invited an operator operator_id=%d role=%s", invited.operator.id, role)
        return invited

    async def invite_again(self, caller: Caller, by: Operator, operator_id: int) -> Invitation:
        """Ends all by which the operator could act, and invites it anew.

        Raises LOG_IN_NEEDED, OPERATOR_NOT_FOUND, WRONG_STATE.
        """
        now_ms, code = ms(self._clock), written_code(secrets.token_bytes(CODE_BYTES))

        def again() -> tuple[Invitation, list[bytes]]:
            _lock_all(caller, now_ms)
            row = _present(operator_id, now_ms)
            ended = _end_all(row.id, now_ms)
            expires_ms = now_ms + INVITATION_MS
            roster.invite(row.id, code_digest(code), now_ms, expires_ms)
            by.note("operator.invite_again", row.id, {}, {"name": row.name}, now_ms)
            return Invitation(_read(row.id, now_ms), code, expires_ms), ended

        invited, ended = await self._database.run(again)
        self._known.forget_all(ended)
        log.info("invited an operator anew operator_id=%d", operator_id)
        return invited

    async def page(self, before_id: int | None, limit: int) -> Page[OperatorRow]:
        """One page of all operators, newest first."""
        now_ms = ms(self._clock)

        def read(before_id: int | None, limit: int) -> list[OperatorRow]:
            return roster.page(before_id, limit, now_ms)

        return await self._database.read(lambda: read_page(read, before_id, limit=limit))

    async def get(self, operator_id: int) -> OperatorRow:
        """One operator, who calls."""
        now_ms = ms(self._clock)
        return await self._database.read(lambda: _read(operator_id, now_ms))

    async def set_role(
        self, caller: Caller, by: Operator, operator_id: int, role: OperatorRole
    ) -> OperatorRow:
        """Gives an operator another role, with which its keys go on.

        Raises LOG_IN_NEEDED, OPERATOR_NOT_FOUND, WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def change() -> tuple[OperatorRow, list[bytes]]:
            row = self._without(caller, operator_id, now_ms, lambda: role is not OperatorRole.ADMIN)
            if row.role is role:
                return _read(row.id, now_ms), []
            changed = access.digests(row.id, now_ms)
            access.end_log_ins(row.id, now_ms)
            roster.set_role(row.id, role)
            by.note("operator.role", row.id, {"role": row.role.value}, {"role": role.value}, now_ms)
            return _read(row.id, now_ms), changed

        row, changed = await self._database.run(change)
        self._known.forget_all(changed)
        log.info("changed the role of an operator operator_id=%d role=%s", operator_id, role)
        return row

    async def remove(self, caller: Caller, by: Operator, operator_id: int) -> OperatorRow:
        """Removes an operator with all that it could act by.

        Raises LOG_IN_NEEDED, OPERATOR_NOT_FOUND, WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def remove() -> tuple[OperatorRow, list[bytes]]:
            if (gone := roster.get(operator_id, now_ms)) is not None and gone.removed_ms is not None:
                return gone, []
            row = self._without(caller, operator_id, now_ms, lambda: True)
            ended = _end_all(row.id, now_ms)
            roster.remove(row.id, now_ms)
            by.note("operator.remove", row.id, {"name": row.name, "role": row.role.value}, {}, now_ms)
            return _read(row.id, now_ms), ended

        row, ended = await self._database.run(remove)
        self._known.forget_all(ended)
        log.info("removed an operator operator_id=%d", operator_id)
        return row

    def _without(
        self, caller: Caller, operator_id: int, now_ms: int, is_loss: Callable[[], bool]
    ) -> OperatorRow:
        """The operator, locked.

        Raises LOG_IN_NEEDED, and WRONG_STATE if nobody could manage operators without it.
        """
        everyone = _lock_all(caller, now_ms)
        row = next((each for each in everyone if each.id == operator_id), None)
        if row is None:
            _present(operator_id, now_ms)
            raise AssertionError("an operator that is present is locked")
        admins = [each.id for each in everyone if each.role is OperatorRole.ADMIN and each.passkeys]
        if not self._has_token and admins == [operator_id] and is_loss():
            raise DomainError(
                Reason.WRONG_STATE,
                "this is the last admin with a passkey, and the server has no admin token: nobody could "
                "invite operators; make another operator with a passkey an admin first",
                status="last admin",
            )
        return row


def invite(
    everyone: Sequence[OperatorRow],
    by: Operator,
    name: str,
    key: str,
    email: str,
    role: OperatorRole,
    code: str,
    now_ms: int,
) -> Invitation:
    """Adds an operator with an invitation. ``everyone``: all operators, locked in the same transaction."""
    if len(everyone) >= MAX_OPERATORS:
        raise DomainError(
            Reason.TOO_MANY_OPERATORS,
            f"there are {MAX_OPERATORS} operators, the most allowed; remove one first",
        )
    operator_id = roster.add(name, key, email, role, secrets.token_bytes(HANDLE_BYTES), now_ms)
    expires_ms = now_ms + INVITATION_MS
    roster.invite(operator_id, code_digest(code), now_ms, expires_ms)
    by.note("operator.invite", operator_id, {}, {"name": name, "role": role.value}, now_ms)
    return Invitation(_read(operator_id, now_ms), code, expires_ms)


def _lock_all(caller: Caller, now_ms: int) -> list[OperatorRow]:
    """All operators, locked, for a caller who may manage them.

    A key may not: it would make operators that outlive it. Raises LOG_IN_NEEDED.
    """
    everyone = roster.lock_all()
    if caller.id:
        refuse_without_passkey(caller, now_ms)
    return everyone


def _end_all(operator_id: int, now_ms: int) -> list[bytes]:
    """Ends all by which an operator could act; returns the digests of its keys and log-ins."""
    passkeys.remove(operator_id)
    roster.end_invitations(operator_id, now_ms)
    return access.end_all(operator_id, now_ms)


def _read(operator_id: int, now_ms: int) -> OperatorRow:
    row = roster.get(operator_id, now_ms)
    assert row is not None
    return row


def _present(operator_id: int, now_ms: int) -> OperatorRow:
    """An operator that was not removed, locked. Raises OPERATOR_NOT_FOUND, WRONG_STATE."""
    row = roster.lock(operator_id)
    if row is not None:
        return row
    if roster.get(operator_id, now_ms) is None:
        raise DomainError(
            Reason.OPERATOR_NOT_FOUND,
            f"operator_id: there is no operator {operator_id}; list the operators",
            field="operator_id",
        )
    raise DomainError(
        Reason.WRONG_STATE, f"operator {operator_id} was removed; nothing was changed", status="removed"
    )
