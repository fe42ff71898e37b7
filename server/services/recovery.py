"""A new main key for an owner who lost the present one: by a code, after a delay that can be cancelled."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from server.clock import Clock, ms
from server.domain.letters import LetterKind
from server.domain.mailboxes import (
    CODE_BYTES,
    CODE_MS,
    COLLECT_MS,
    Purpose,
    code_digest,
    mail_off,
    mailbox,
    written_code,
    wrong_code,
)
from server.domain.payouts import HOUR_MS
from server.services import outbox, providers, renters
from server.services.keys import RENTER, Credentials, issue
from server.services.operators.audit import Operator
from server.store import codes, keys, letters, log_ins, mailboxes
from server.store.codes import Code
from server.store.database import Database
from server.store.mailboxes import Account

log = logging.getLogger(__name__)
_PURPOSE = Purpose.NEW_KEY


@dataclass(frozen=True, slots=True)
class Redemption:
    """What a code gives: the new key, or None until ``ready_ms``."""

    role: str
    account_id: int
    ready_ms: int
    api_key: str | None


class Recovery:
    """The use cases of lost keys. Each that changes a code locks its account first."""

    def __init__(
        self, database: Database, clock: Clock, known: Credentials, *, sends_mail: bool, delay_hours: int
    ) -> None:
        self._database = database
        self._clock = clock
        self._known = known
        self._sends_mail = sends_mail
        self._delay_ms = delay_hours * HOUR_MS

    async def report(self, role: str, box: str) -> None:
        """Mails a code to the account that has the mailbox; without one it only writes as much.

        Raises MAIL_OFF.
        """
        if not self._sends_mail:
            raise mail_off("ask the marketplace's operator for a new key")
        now_ms = ms(self._clock)

        def report() -> None:
            account = mailboxes.holder(role, box) or mailboxes.nobody(role)
            code_id = _add_code(account, box, now_ms)
            letters.add(LetterKind.NEW_KEY, account, box, now_ms, email_code_id=code_id)

        await self._database.run(report)

    async def start(self, operator: Operator, role: str, account_id: int, reason: str) -> str | None:
        """Starts the same at an operator's request; returns the code if no mail can carry it.

        Raises RENTER_NOT_FOUND, RENTER_DELETED, PROVIDER_NOT_FOUND.
        """
        now_ms = ms(self._clock)
        code = None if self._sends_mail else written_code(secrets.token_bytes(CODE_BYTES))

        def start() -> None:
            account = _existing(role, account_id)
            box = account.mailbox or mailbox(account.email)
            code_id = _add_code(account, box, now_ms, code)
            if code is None:
                letters.add(LetterKind.NEW_KEY, account, box, now_ms, email_code_id=code_id, is_bounded=False)
            after = {"reason": reason, "code": "mailed" if code is None else "shown"}
            operator.note(f"{role}.recover_key", account_id, {}, after, now_ms)

        await self._database.run(start)
        log.info("started a recovery role=%s account_id=%d", role, account_id)
        return code

    async def redeem(self, request_id: str, text: str) -> Redemption:
        """Starts the delay of a code, or waits for its end, or gives the new key. Raises WRONG_CODE."""
        now_ms, sha256 = ms(self._clock), code_digest(text)
        owner = Operator("owner", request_id)

        def redeem() -> tuple[Redemption, list[bytes]]:
            found = codes.by_digest(sha256, _PURPOSE, now_ms)
            if found is None:
                raise wrong_code()
            account = _existing(found.role, found.owner_id)
            code = codes.by_digest(sha256, _PURPOSE, now_ms)
            if code is None:  # it was used or cancelled until the account was locked
                raise wrong_code()
            ready_ms = code.ready_ms
            if ready_ms is None:
                ready_ms = now_ms + self._delay_ms
                self._begin(owner, account, code, ready_ms, now_ms)
            if now_ms < ready_ms:
                return Redemption(account.role, account.id, ready_ms, None), []
            codes.end(account.role, account.id, _PURPOSE, now_ms)
            revoked = keys.revoke_main(account.role, account.id, now_ms)
            revoked += log_ins.end_all(account.role, account.id, now_ms)
            key = issue(account.role, account.id, now_ms)
            owner.note(f"{account.role}.replace_key", account.id, {}, {"last4": key[-4:]}, now_ms)
            return Redemption(account.role, account.id, ready_ms, key), revoked

        redemption, revoked = await self._database.run(redeem)
        for each in revoked:
            self._known.forget(each)
        event = "replaced a lost key" if redemption.api_key else "a code for a lost key waits"
        log.info("%s role=%s account_id=%d", event, redemption.role, redemption.account_id)
        return redemption

    async def cancel(self, request_id: str, role: str, account_id: int) -> bool:
        """Ends the codes of the caller's account; returns whether there were any. Raises RENTER_DELETED."""
        now_ms = ms(self._clock)

        def cancel() -> bool:
            _existing(role, account_id)
            ended = codes.end(role, account_id, _PURPOSE, now_ms)
            if ended:
                Operator("owner", request_id).note(f"{role}.keep_key", account_id, {}, {}, now_ms)
            return bool(ended)

        return await self._database.run(cancel)

    def _begin(self, owner: Operator, account: Account, code: Code, ready_ms: int, now_ms: int) -> None:
        """Starts the delay, and informs whoever reads the account's mail or events."""
        codes.set_ready(code.id, ready_ms, ready_ms + COLLECT_MS)
        ready = datetime.fromtimestamp(ready_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        owner.note(f"{account.role}.redeem_code", account.id, {}, {"ready_at": ready}, now_ms)
        if self._sends_mail:
            letters.add(LetterKind.NEW_KEY_SOON, account, code.mailbox, now_ms, is_bounded=False, ready=ready)
        if account.role == RENTER:
            outbox.key_recovery_started(account.id, ready_ms, now_ms)


def _add_code(account: Account, box: str, now_ms: int, code: str | None = None) -> int:
    """Adds a code; without its text, the letter that carries it sets it."""
    return codes.add(
        account.role,
        account.id,
        _PURPOSE,
        box if account.id != mailboxes.NOBODY else "",
        now_ms=now_ms,
        expires_ms=now_ms + CODE_MS,
        sha256=code_digest(code) if code is not None else None,
    )


def _existing(role: str, account_id: int) -> Account:
    """An account that is not deleted; locks it."""
    if role == RENTER:
        renters.present(account_id)
    else:
        providers.existing(account_id)
    return mailboxes.get(role, account_id)
