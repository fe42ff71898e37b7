"""The proof that an account's e-mail address is its owner's, by a code that is mailed to it."""

from __future__ import annotations

import hmac
import logging

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.letters import LetterKind
from server.domain.mailboxes import (
    CODE_MS,
    MAX_CODES_A_DAY,
    Purpose,
    code_digest,
    mail_off,
    mailbox,
    wrong_code,
)
from server.domain.statements import DAY_MS
from server.services.keys import RENTER
from server.services.renters import present
from server.store import codes, letters, mailboxes
from server.store.database import Database
from server.store.mailboxes import Account

log = logging.getLogger(__name__)
_PURPOSE = Purpose.VERIFY_EMAIL


class Mailboxes:
    """The use cases of proofs."""

    def __init__(self, database: Database, clock: Clock, *, sends_mail: bool) -> None:
        self._database = database
        self._clock = clock
        self._sends_mail = sends_mail

    async def verify(self, role: str, account_id: int, code: str) -> None:
        """Proves the account's address, which gets its mailbox; a proven one stays so.

        Raises WRONG_CODE, EMAIL_TAKEN if another account has proven the mailbox, MAIL_OFF, RENTER_DELETED.
        """
        self._require_mail()
        now_ms, sha256 = ms(self._clock), code_digest(code)

        def prove() -> DomainError | None:
            account = _existing(role, account_id)
            if account.email_verified_ms is not None:
                return None
            usable = codes.of_owner(role, account_id, _PURPOSE, now_ms)
            right = [each for each in usable if hmac.compare_digest(each.sha256 or b"", sha256)]
            if not right:
                codes.count_guess(role, account_id, _PURPOSE, now_ms)
                return wrong_code()
            if not mailboxes.prove(account, right[0].mailbox, now_ms):
                return mailboxes.taken()
            codes.end(role, account_id, _PURPOSE, now_ms)
            return None

        # Returned, since a raised error would undo the count of guesses.
        if (error := await self._database.run(prove)) is not None:
            raise error
        log.info("proved an e-mail address role=%s account_id=%d", role, account_id)

    async def resend(self, role: str, account_id: int) -> bool:
        """Mails another code; returns whether the address is proven already, so that none is needed.

        Raises RATE_LIMITED, MAIL_OFF, RENTER_DELETED.
        """
        self._require_mail()
        now_ms = ms(self._clock)

        def resend() -> bool:
            account = _existing(role, account_id)
            if account.email_verified_ms is not None:
                return True
            if codes.count_since(role, account_id, _PURPOSE, now_ms - DAY_MS) >= MAX_CODES_A_DAY:
                raise DomainError(
                    Reason.RATE_LIMITED,
                    f"this account got {MAX_CODES_A_DAY} codes within a day, the most allowed; look for them "
                    "in the folder for unwanted mail, and try again later",
                    retry_after_seconds=DAY_MS // 1000,
                )
            begin_proof(account, _mailbox_of(account), now_ms)
            return False

        return await self._database.run(resend)

    def _require_mail(self) -> None:
        if not self._sends_mail:
            raise mail_off("accounts need no proof of their e-mail addresses here")


def begin_proof(account: Account, mailbox: str, now_ms: int) -> None:
    """Mails a code to the account's address; or, if another account keeps the mailbox, a notice to its owner.

    Runs inside its caller's transaction. All ways write the same rows, so that the answers cannot differ.
    """
    code_id = codes.add(
        account.role, account.id, _PURPOSE, mailbox, now_ms=now_ms, expires_ms=now_ms + CODE_MS
    )
    owner = mailboxes.holder(account.role, mailbox)
    is_barred = mailboxes.is_barred(account.role, mailbox)
    if owner is not None and owner.id != account.id and owner.keeps_mailbox:
        letters.add(LetterKind.ALREADY_REGISTERED, owner, mailbox, now_ms)
    else:
        to = mailboxes.nobody(account.role) if is_barred else account
        letters.add(LetterKind.VERIFY_EMAIL, to, mailbox, now_ms, email_code_id=code_id)


def _existing(role: str, account_id: int) -> Account:
    if role == RENTER:
        present(account_id)
    return mailboxes.get(role, account_id)


def _mailbox_of(account: Account) -> str:
    """The mailbox of the account's address, as its registration found it."""
    return account.mailbox or codes.last_mailbox(account.role, account.id) or mailbox(account.email)
