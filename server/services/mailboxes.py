"""Whose an account is: registration, the proof of a mailbox, and a new main key for a lost one.

Where mail is switched on, a registration answers alike whether or not its mailbox has an account. The new
account gets the mailbox when the code that was mailed there comes back; before, it can neither spend nor
withdraw.
So nobody learns who is a customer, and nobody holds an address that is not theirs.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.clock import Clock, ms
from server.domain import mails as texts
from server.domain.errors import DomainError, Reason
from server.domain.mails import LEAST_MS, PROOF_MS, RECOVERY_MS, MailTerms
from server.domain.providers import AccountState
from server.domain.standing import network
from server.services.keys import PROVIDER, RENTER, Caller, Credentials, issue
from server.services.operators.audit import Operator
from server.services.providers import existing as existing_provider
from server.services.renters import existing as existing_renter
from server.store import keys as key_rows
from server.store import mails, providers, renters, standing
from server.store.database import Database
from server.store.mails import Code, Purpose

log = logging.getLogger(__name__)
# The bits of a code: nobody guesses it, so attempts need no counter of their own.
CODE_BYTES = 20


@dataclass(frozen=True, slots=True)
class Registration:
    """A new account's id and its key, which is shown only once."""

    id: int
    api_key: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery that an operator began: from when the code works, and the code if nobody mails it."""

    from_ms: int
    code: str | None


class Mailboxes:
    """The use cases around an account's mailbox."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        known: Credentials,
        terms: MailTerms,
        *,
        needs_approval: bool = False,
    ) -> None:
        """``needs_approval``: an operator admits each provider."""
        self._database = database
        self._clock = clock
        self._known = known
        self._terms = terms
        self._first = AccountState.PENDING_APPROVAL if needs_approval else AccountState.ACTIVE

    async def register_provider(self, address: str, email_key: str, **values: str) -> Registration:
        """A new provider and its key; ``address`` is the caller's. Raises EMAIL_TAKEN."""

        def create(key: str, now_ms: int) -> int:
            made = providers.create(
                email_key=key,
                network=network(address, standing.secret),
                now_ms=now_ms,
                state=self._first,
                unproven=self._terms.is_on,
                **values,
            )
            standing.create(made, now_ms)
            return made

        return await self._register(PROVIDER, email_key, values["email"], create)

    async def register_renter(self, address: str, email_key: str, **values: str) -> Registration:
        """A new renter and its key; ``address`` is the caller's. Raises EMAIL_TAKEN."""

        def create(key: str, now_ms: int) -> int:
            return renters.create(
                email_key=key,
                network=network(address, standing.secret),
                now_ms=now_ms,
                unproven=self._terms.is_on,
                **values,
            )

        return await self._register(RENTER, email_key, values["email"], create)

    async def _register(
        self, role: str, email_key: str, email: str, create: Callable[[str, int], int]
    ) -> Registration:
        now_ms, code = ms(self._clock), secrets.token_urlsafe(CODE_BYTES)

        def register() -> Registration:
            if not self._terms.is_on:
                made = create(email_key, now_ms)
                return Registration(made, issue(role, made, now_ms))
            made = create(f"unproven {secrets.token_hex(16)}", now_ms)
            if _rows(role).id_of(email_key) is not None:
                mails.add(email, texts.taken(role, self._terms.market_url), now_ms)
            else:
                self._mail_proof(role, made, email_key, email, code, now_ms)
            return Registration(made, issue(role, made, now_ms))

        return await self._database.run(register)

    def _mail_proof(
        self, role: str, owner_id: int, email_key: str, email: str, code: str, now_ms: int
    ) -> None:
        found = Code(Purpose.PROOF, role, owner_id, email_key, now_ms, now_ms, now_ms + PROOF_MS)
        mails.put_code(_digest(code), found)
        mails.add(email, texts.proof(role, code, self._terms.market_url), now_ms)

    async def prove(self, code: str) -> tuple[str, int]:
        """Proves the mailbox of an account by the code mailed there; the account's role and id.

        Raises CODE_NOT_VALID, EMAIL_TAKEN.
        """
        now_ms = ms(self._clock)

        def prove() -> tuple[str, int]:
            found = mails.take_code(_digest(code), Purpose.PROOF)
            if found is None or found.until_ms <= now_ms:
                raise _not_valid()
            if _rows(found.role).id_of(found.email_key) is not None:
                raise DomainError(
                    Reason.EMAIL_TAKEN,
                    "code: another account with this mailbox was proven first; use that one's key",
                    field="code",
                )
            _rows(found.role).set_mailbox(found.owner_id, found.email_key)
            mails.drop_codes(found.role, found.owner_id, Purpose.PROOF)
            return found.role, found.owner_id

        role, owner_id = await self._database.run(prove)
        log.info("proved a mailbox role=%s owner_id=%d", role, owner_id)
        return role, owner_id

    async def send_proof(self, caller: Caller, email_key: Callable[[str], str]) -> None:
        """Mails the caller's proof again, at most once an hour. Raises MAIL_NOT_SET_UP, WRONG_STATE."""
        now_ms, code = ms(self._clock), secrets.token_urlsafe(CODE_BYTES)
        self._require_mail()

        def send() -> None:
            account = _rows(caller.role).get(caller.id)
            if not account.unproven:
                raise DomainError(
                    Reason.WRONG_STATE, "the mailbox of this account is proven already", status="proven"
                )
            before = mails.pending(caller.role, caller.id, Purpose.PROOF)
            if before is not None and now_ms < before.created_ms + LEAST_MS:
                return
            key = email_key(account.email)
            if _rows(caller.role).id_of(key) is None:
                self._mail_proof(caller.role, caller.id, key, account.email, code, now_ms)

        await self._database.run(send)

    async def start_recovery(self, role: str, email_key: str) -> None:
        """Mails a code for a new main key, if the mailbox has an account; the caller does not learn that.

        Raises MAIL_NOT_SET_UP.
        """
        self._require_mail()
        now_ms = ms(self._clock)

        def start() -> None:
            owner_id = _rows(role).id_of(email_key)
            account = _rows(role).get(owner_id) if owner_id is not None else None
            if account is None or account.state in (AccountState.SUSPENDED, AccountState.DELETED):
                return
            before = mails.pending(role, account.id, Purpose.RECOVERY)
            if before is None or now_ms >= before.created_ms + LEAST_MS:
                self._recover(role, account.id, account.email, now_ms, mailed=True)

        await self._database.run(start)

    async def recover(self, operator: Operator, role: str, owner_id: int, reason: str) -> Recovery:
        """An operator starts the same; without mail, the operator gets the code.

        Raises PROVIDER_NOT_FOUND, RENTER_NOT_FOUND, WRONG_STATE.
        """
        now_ms = ms(self._clock)

        def start() -> Recovery:
            account = (existing_provider if role == PROVIDER else existing_renter)(owner_id)
            if account.state is AccountState.DELETED:
                raise DomainError(Reason.WRONG_STATE, f"{role} {owner_id} is deleted", status="deleted")
            found = self._recover(role, owner_id, account.email, now_ms, mailed=self._terms.is_on)
            operator.note(f"{role}.recover_key", owner_id, {}, {"reason": reason}, now_ms)
            return found

        return await self._database.run(start)

    def _recover(self, role: str, owner_id: int, email: str, now_ms: int, *, mailed: bool) -> Recovery:
        """A code of a recovery; one that was begun keeps its time, so that asking again delays nothing."""
        code = secrets.token_urlsafe(CODE_BYTES)
        before = mails.pending(role, owner_id, Purpose.RECOVERY)
        from_ms = before.from_ms if before else now_ms + self._terms.recovery_hours * texts.HOUR_MS
        until_ms = before.until_ms if before else from_ms + RECOVERY_MS
        found = Code(Purpose.RECOVERY, role, owner_id, "", now_ms, from_ms, until_ms)
        mails.put_code(_digest(code), found)
        if mailed:
            mails.add(email, texts.recovery(role, code, from_ms, self._terms.market_url), now_ms)
        return Recovery(from_ms, None if mailed else code)

    async def redeem(self, code: str) -> str:
        """A new main key for a mailed code; the old main keys end at once.

        Raises CODE_NOT_VALID, WRONG_STATE before its time.
        """
        now_ms = ms(self._clock)

        def redeem() -> tuple[str, list[bytes], Code]:
            found = mails.take_code(_digest(code), Purpose.RECOVERY)
            if found is None or found.until_ms <= now_ms:
                raise _not_valid()
            if now_ms < found.from_ms:
                seconds = -(-(found.from_ms - now_ms) // 1000)
                raise DomainError(
                    Reason.WRONG_STATE,
                    f"code: works in {seconds} s; until then the owner can stop it with the present key",
                    status="waiting",
                    field="code",
                    retry_after_seconds=seconds,
                )
            retired = key_rows.retire_main(found.role, found.owner_id, now_ms)
            mails.drop_codes(found.role, found.owner_id, Purpose.RECOVERY)
            if self._terms.is_on:
                email = _rows(found.role).get(found.owner_id).email
                mails.add(email, texts.recovered(found.role, self._terms.market_url), now_ms)
            return issue(found.role, found.owner_id, now_ms), retired, found

        key, retired, found = await self._database.run(redeem)
        for sha256 in retired:
            self._known.forget(sha256)
        log.info("recovered a main key role=%s owner_id=%d", found.role, found.owner_id)
        return key

    async def cancel_recovery(self, caller: Caller) -> bool:
        """Stops a recovery of the caller's account; False if none was begun."""
        return await self._database.run(lambda: mails.drop_codes(caller.role, caller.id, Purpose.RECOVERY))

    def _require_mail(self) -> None:
        if not self._terms.is_on:
            raise DomainError(
                Reason.MAIL_NOT_SET_UP,
                "this marketplace sends no mail; write to its operator, who can give you a new key",
            )


def _rows(role: str) -> Any:
    """The rows of the accounts of a role: server.store.providers or server.store.renters."""
    return providers if role == PROVIDER else renters


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.strip().encode()).digest()


def _not_valid() -> DomainError:
    return DomainError(
        Reason.CODE_NOT_VALID,
        "code: is not valid: it was used, has ended, or a later one was mailed; ask for another",
        field="code",
    )
