"""Operators create passkeys, log in with them and remove them.

A browser is given a challenge, which only it can have answered, once, within five minutes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.mailboxes import code_digest
from server.domain.operators import CHALLENGE_MS, LOG_IN_MS, MAX_PASSKEYS
from server.services.keys import Caller, Credentials, digest
from server.services.operators.access import (
    OperatorLogIn,
    locked,
    log_in,
    refuse_without_passkey,
)
from server.services.operators.audit import Operator
from server.store.database import Database
from server.store.operators import access, passkeys, roster
from server.store.operators.passkeys import Challenge, PasskeyRow, Purpose
from server.store.operators.roster import OperatorRow

log = logging.getLogger(__name__)
CHALLENGE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """What a browser's passkey must answer; ``browser`` is the secret by which it proves that it asked."""

    browser: str
    challenge: bytes
    expires_ms: int
    domain: str
    operator: OperatorRow | None = None
    """For a new passkey, whose it will be."""
    known: tuple[bytes, ...] = ()
    """The operator's passkeys, of which a device shall not create a second."""


@dataclass(frozen=True, slots=True)
class New:
    """A passkey as a browser created it."""

    credential: bytes
    client_data: bytes
    attestation: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a passkey answered to log in."""

    credential: bytes
    client_data: bytes
    authenticator_data: bytes
    signature: bytes
    user: bytes


class _Created(Protocol):
    @property
    def credential(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...
    @property
    def sign_count(self) -> int: ...


class Site(Protocol):
    """What verifies answers: server.passkeys."""

    domain: str

    def created(
        self, challenge: bytes, credential: bytes, client_data: bytes, attestation: bytes
    ) -> _Created:
        """The passkey that a browser created. Raises PASSKEY_REFUSED."""

    def answered(
        self,
        challenge: bytes,
        credential: bytes,
        client_data: bytes,
        authenticator_data: bytes,
        signature: bytes,
        *,
        public_key: bytes,
        sign_count: int,
    ) -> int:
        """The new count of a passkey that answered. Raises PASSKEY_REFUSED."""


class Passkeys:
    """The use cases of passkeys."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        known: Credentials,
        site: Site,
        refused: Callable[[], DomainError],
    ) -> None:
        self._database = database
        self._clock = clock
        self._known = known
        self._site = site
        self._refused = refused

    async def open(self, code: str) -> Asked:
        """Asks the browser of an invited operator for a passkey. Raises INVITATION_OVER."""
        now_ms, sha256, asked = ms(self._clock), code_digest(code), self._ask()

        def ask() -> OperatorRow:
            invitation_id, row = _invited(sha256, now_ms)
            passkeys.ask(
                digest(asked.browser),
                Purpose.INVITATION,
                asked.challenge,
                asked.expires_ms,
                row.id,
                invitation_id,
            )
            return row

        return _of(asked, await self._database.run(ask))

    async def accept(self, browser: str, code: str, new: New, request_id: str) -> OperatorLogIn:
        """Uses an invitation: adds the passkey and logs the browser in.

        Raises INVITATION_OVER, PASSKEY_REFUSED.
        """
        now_ms, sha256 = ms(self._clock), code_digest(code)
        asked, created = await self._created(browser, Purpose.INVITATION, new)

        def accept() -> tuple[OperatorLogIn, list[bytes]]:
            invitation_id, row = _invited(sha256, now_ms)
            if (invitation_id, row.id) != (asked.invitation_id, asked.operator_id):
                raise self._refused()
            if not roster.use_invitation(invitation_id, now_ms):
                raise _invitation_over()
            passkey_id = self._add(row, created, new.name, now_ms)
            facts = {"passkey_id": passkey_id, "name": new.name}
            Operator(row.name, request_id).note("operator.accept_invitation", row.id, {}, facts, now_ms)
            return log_in(row, now_ms, now_ms + LOG_IN_MS, passkey_id=passkey_id)

        return self._entered(*await self._database.run(accept))

    async def ask(self) -> Asked:
        """Asks a browser for the answer of any passkey that it has for this site."""
        asked = self._ask()
        await self._database.run(
            lambda: passkeys.ask(digest(asked.browser), Purpose.LOG_IN, asked.challenge, asked.expires_ms)
        )
        return asked

    async def log_in(self, browser: str, answer: Answer, request_id: str) -> OperatorLogIn:
        """Logs in the operator whose passkey answered. Raises PASSKEY_REFUSED."""
        now_ms, browser_sha256 = ms(self._clock), digest(browser)

        def take() -> tuple[Challenge | None, passkeys.Known | None]:
            return passkeys.take(browser_sha256, Purpose.LOG_IN, now_ms), passkeys.find(answer.credential)

        asked, known = await self._database.run(take)
        if asked is None or known is None or known.handle != answer.user:
            raise self._refused()
        sign_count = await asyncio.to_thread(
            self._site.answered,
            asked.challenge,
            answer.credential,
            answer.client_data,
            answer.authenticator_data,
            answer.signature,
            public_key=known.public_key,
            sign_count=known.sign_count,
        )

        def enter() -> tuple[OperatorLogIn, list[bytes]]:
            row = roster.lock(known.operator_id)
            if row is None or not passkeys.use(known, sign_count, now_ms):
                raise self._refused()
            facts = {"by": "passkey", "passkey_id": known.id}
            Operator(row.name, request_id).note("operator.log_in", row.id, {}, facts, now_ms)
            return log_in(row, now_ms, now_ms + LOG_IN_MS, passkey_id=known.id)

        return self._entered(*await self._database.run(enter))

    async def begin(self, caller: Caller) -> Asked:
        """Asks the browser of an operator who is logged in for one more passkey. Raises LOG_IN_NEEDED."""
        now_ms, asked = ms(self._clock), self._ask()

        def ask() -> tuple[OperatorRow, list[bytes]]:
            row = locked(caller.id)
            refuse_without_passkey(caller, now_ms)
            passkeys.ask(digest(asked.browser), Purpose.ADD, asked.challenge, asked.expires_ms, row.id)
            return row, passkeys.credentials(row.id)

        return _of(asked, *await self._database.run(ask))

    async def add(self, caller: Caller, by: Operator, browser: str, new: New) -> PasskeyRow:
        """Adds a passkey of an operator who is logged in.

        Raises LOG_IN_NEEDED, PASSKEY_REFUSED, TOO_MANY_PASSKEYS.
        """
        now_ms = ms(self._clock)
        asked, created = await self._created(browser, Purpose.ADD, new)

        def add() -> PasskeyRow:
            row = locked(caller.id)
            refuse_without_passkey(caller, now_ms)
            if row.id != asked.operator_id:
                raise self._refused()
            passkey_id = self._add(row, created, new.name, now_ms)
            by.note("operator.add_passkey", row.id, {}, {"passkey_id": passkey_id, "name": new.name}, now_ms)
            return _own(row.id, passkey_id)

        added = await self._database.run(add)
        log.info("added a passkey operator_id=%d passkey_id=%d", caller.id, added.id)
        return added

    async def own(self, operator_id: int) -> list[PasskeyRow]:
        """The passkeys of an operator, newest first."""
        return await self._database.read(lambda: passkeys.of_operator(operator_id))

    async def remove(self, caller: Caller, by: Operator, passkey_id: int) -> PasskeyRow:
        """Removes a passkey of an operator and ends the log-ins that it made.

        Raises LOG_IN_NEEDED, PASSKEY_NOT_FOUND, and WRONG_STATE for the last one.
        """
        now_ms = ms(self._clock)

        def remove() -> tuple[PasskeyRow, list[bytes]]:
            operator = locked(caller.id)
            refuse_without_passkey(caller, now_ms)
            row = _own(operator.id, passkey_id)
            if len(passkeys.of_operator(operator.id)) == 1:
                raise DomainError(
                    Reason.WRONG_STATE,
                    "this is the operator's last passkey; add another one first, or ask an admin for a new "
                    "invitation, which replaces it",
                    status="last passkey",
                )
            passkeys.remove(operator.id, passkey_id)
            facts = {"passkey_id": row.id, "name": row.name}
            by.note("operator.remove_passkey", operator.id, facts, {}, now_ms)
            return row, access.end_log_ins(operator.id, now_ms, passkey_id=passkey_id)

        row, ended = await self._database.run(remove)
        self._known.forget_all(ended)
        log.info("removed a passkey operator_id=%d passkey_id=%d", caller.id, passkey_id)
        return row

    async def _created(self, browser: str, purpose: Purpose, new: New) -> tuple[Challenge, _Created]:
        """The challenge of a browser, which is used up, and the passkey that answers it."""
        now_ms, browser_sha256 = ms(self._clock), digest(browser)
        asked = await self._database.run(lambda: passkeys.take(browser_sha256, purpose, now_ms))
        if asked is None:
            raise self._refused()
        created = await asyncio.to_thread(
            self._site.created, asked.challenge, new.credential, new.client_data, new.attestation
        )
        return asked, created

    def _add(self, row: OperatorRow, created: _Created, name: str, now_ms: int) -> int:
        if len(passkeys.of_operator(row.id)) >= MAX_PASSKEYS:
            raise DomainError(
                Reason.TOO_MANY_PASSKEYS,
                f"this operator has {MAX_PASSKEYS} passkeys, the most allowed; remove one first",
            )
        passkey_id = passkeys.add(
            row.id, created.credential, created.public_key, created.sign_count, name, now_ms
        )
        if passkey_id is None:
            raise self._refused()
        return passkey_id

    def _ask(self) -> Asked:
        return Asked(
            secrets.token_urlsafe(32),
            secrets.token_bytes(CHALLENGE_BYTES),
            ms(self._clock) + CHALLENGE_MS,
            self._site.domain,
        )

    def _entered(self, found: OperatorLogIn, ended: list[bytes]) -> OperatorLogIn:
        self._known.forget_all(ended)
        log.info("logged in by a passkey operator_id=%d", found.operator.id)
        return found


def _of(asked: Asked, row: OperatorRow, known: list[bytes] | None = None) -> Asked:
    return Asked(asked.browser, asked.challenge, asked.expires_ms, asked.domain, row, tuple(known or ()))


def _own(operator_id: int, passkey_id: int) -> PasskeyRow:
    found = next((row for row in passkeys.of_operator(operator_id) if row.id == passkey_id), None)
    if found is None:
        raise DomainError(
            Reason.PASSKEY_NOT_FOUND,
            f"passkey_id: this operator has no passkey {passkey_id}; list its passkeys",
            field="passkey_id",
        )
    return found


def _invited(sha256: bytes, now_ms: int) -> tuple[int, OperatorRow]:
    """A usable invitation's id, and its operator, locked. Raises INVITATION_OVER."""
    found = roster.invited(sha256, now_ms)
    row = roster.lock(found[1]) if found is not None else None
    if found is None or row is None:
        raise _invitation_over()
    return found[0], row


def _invitation_over() -> DomainError:
    return DomainError(
        Reason.INVITATION_OVER,
        "invitation: is wrong, was used, or is older than a day; ask an admin for another one",
        field="invitation",
    )
