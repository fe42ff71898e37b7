"""Browsers log in and out: by the account's main key, or by a code that is mailed to its owner.

server.services.keys identifies the account of a presented log-in, as it does that of a key.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.errors import DomainError, Reason
from server.domain.letters import LetterKind
from server.domain.log_ins import ASKED_MS, LOG_IN_MS, MAX_LOG_INS, NAME
from server.domain.mailboxes import code_digest, mail_off, wrong_code
from server.services.keys import RENTER, Caller, Credentials, digest, issue, no_longer_valid
from server.services.renters import present
from server.store import keys, letters, log_ins, mailboxes
from server.store.database import Database

log = logging.getLogger(__name__)
REMOVE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class LogIn:
    """A browser's log-in: its secret, which is shown only once, whose it is, and when it ends."""

    secret: str
    role: str
    account_id: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The secret by which a browser proves that it asked, and until when the code can be used."""

    secret: str
    expires_ms: int


class LogIns:
    """The use cases of log-ins."""

    def __init__(self, database: Database, clock: Clock, known: Credentials, *, sends_mail: bool) -> None:
        self._database = database
        self._clock = clock
        self._known = known
        self._sends_mail = sends_mail

    async def by_key(self, caller: Caller) -> LogIn:
        """Logs in the account whose main key was sent, for as long as that key is valid.

        Raises WRONG_STATE, RENTER_DELETED, INVALID_CREDENTIAL.
        """
        if caller.is_log_in:
            raise DomainError(
                Reason.WRONG_STATE,
                "this browser is logged in; send the account's main key to log in anew",
                status="logged in",
            )
        now_ms = ms(self._clock)

        def log_in() -> tuple[LogIn, list[bytes]]:
            _lock(caller.role, caller.id)
            return _log_in(caller.role, caller.id, now_ms, _end_of_key(caller, now_ms))

        found, ended = await self._database.run(log_in)
        self._forget(ended)
        log.info("logged in by a key role=%s account_id=%d", found.role, found.account_id)
        return found

    async def ask(self, role: str, box: str) -> Asked:
        """Mails a code to the account that has proven the mailbox; without one it only writes as much.

        Raises MAIL_OFF.
        """
        if not self._sends_mail:
            raise mail_off("log in with the account's key")
        now_ms = ms(self._clock)
        asked = Asked(secrets.token_urlsafe(32), now_ms + ASKED_MS)

        def ask() -> None:
            account = mailboxes.holder(role, box)
            # Whoever registered an address without proving it may not be its owner.
            if account is None or account.email_verified_ms is None:
                account = mailboxes.nobody(role)
            code_id = log_ins.add_code(role, account.id, digest(asked.secret), now_ms, asked.expires_ms)
            letters.add(LetterKind.LOG_IN, account, box, now_ms, log_in_code_id=code_id)

        await self._database.run(ask)
        return asked

    async def redeem(self, browser: str, text: str) -> LogIn:
        """Logs in the browser that asked for this code. Raises WRONG_CODE."""
        now_ms, sha256, browser_sha256 = ms(self._clock), code_digest(text), digest(browser)

        def redeem() -> tuple[LogIn, list[bytes]] | None:
            code = log_ins.of_browser(browser_sha256, now_ms)
            if code is None:
                return None
            if not hmac.compare_digest(code.sha256 or b"", sha256):
                log_ins.count_guess(code.id)
                return None
            _lock(code.role, code.owner_id)  # before the code, as whoever ends all codes of an account does
            if not log_ins.use_code(code.id, now_ms):
                return None
            return _log_in(code.role, code.owner_id, now_ms)

        # None and not an error, which would undo the count of guesses.
        done = await self._database.run(redeem)
        if done is None:
            raise wrong_code()
        found, ended = done
        self._forget(ended)
        log.info("logged in by a code role=%s account_id=%d", found.role, found.account_id)
        return found

    async def log_out(self, caller: Caller, *, everywhere: bool) -> int:
        """Ends the caller's log-in, or all of its account; returns how many it ended."""
        if not everywhere and not caller.is_log_in:
            return 0
        now_ms = ms(self._clock)

        def end() -> list[bytes]:
            if everywhere:
                return log_ins.end_all(caller.role, caller.id, now_ms)
            return log_ins.end(caller.role, caller.id, now_ms, caller.key_id)

        ended = await self._database.run(end)
        self._forget(ended)
        log.info("logged out role=%s account_id=%d log_ins=%d", caller.role, caller.id, len(ended))
        return len(ended)

    async def clean(self) -> None:
        """Deletes log-ins and codes that ended long ago."""
        now_ms = ms(self._clock)
        await self._database.run(lambda: log_ins.remove_old(now_ms, REMOVE_AT_ONCE))

    def _forget(self, ended: list[bytes]) -> None:
        for sha256 in ended:
            self._known.forget(sha256)


def _lock(role: str, account_id: int) -> None:
    """Locks the account, so that its keys and log-ins stay as they are read. Raises RENTER_DELETED."""
    if role == RENTER:
        present(account_id)
    else:
        mailboxes.get(role, account_id)


def _end_of_key(caller: Caller, now_ms: int) -> int | None:
    """When the presented key ends; the account is locked. Raises INVALID_CREDENTIAL.

    The caller may be known from a cache, or have waited for a rotation that ended the key.
    """
    key = keys.get(caller.role, caller.id, caller.key_id)
    if key is None or key.revoked_ms is not None:
        raise no_longer_valid()
    if key.expires_ms is not None and key.expires_ms <= now_ms:
        raise no_longer_valid()
    return key.expires_ms


def _log_in(
    role: str, account_id: int, now_ms: int, until_ms: int | None = None
) -> tuple[LogIn, list[bytes]]:
    """A new log-in, which ends by ``until_ms`` at the latest, and the digests of older ones that it ended.

    The account is locked.
    """
    expires_ms = now_ms + LOG_IN_MS
    if until_ms is not None:
        expires_ms = min(expires_ms, until_ms)
    ended = log_ins.end_oldest(role, account_id, now_ms, MAX_LOG_INS - 1)
    secret = issue(role, account_id, now_ms, name=NAME, expires_ms=expires_ms, is_log_in=True)
    return LogIn(secret, role, account_id, expires_ms), ended
