"""Sends the letters of the outbox, with retries.

A code is written when its letter is sent, and only its digest is stored.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from server.clock import Clock, ms
from server.domain.letters import Failure, Letter, written
from server.domain.mailboxes import CODE_BYTES, code_digest, written_code
from server.store import codes, letters, log_ins
from server.store.database import Database
from server.store.letters import LetterRow

log = logging.getLogger(__name__)
AT_ONCE = 8
# Another server may try a letter after this; it is longer than an attempt can take.
CLAIM_SECONDS = 120
REMOVE_AT_ONCE = 1000
Send: TypeAlias = Callable[[Letter], Awaitable[Failure | None]]
"""Sends a letter; returns why it was not accepted."""


class Mailer:
    """The sender of one server; several may share a database."""

    def __init__(self, database: Database, clock: Clock, send: Send | None, public_url: str) -> None:
        """Without ``send`` nothing is sent."""
        self._database = database
        self._clock = clock
        self._send = send
        self._public_url = public_url

    async def tick(self) -> None:
        """Tries the letters that are due, a few at once; a slow mail server delays only letters."""
        if self._send is None:
            return
        now_ms = ms(self._clock)
        due = await self._database.read(lambda: letters.due(now_ms, AT_ONCE))
        if not due:
            return
        until_ms = now_ms + CLAIM_SECONDS * 1000
        claimed = await self._database.run(lambda: letters.claim(due, now_ms, until_ms))
        await asyncio.gather(*(self._try(self._send, letter) for letter in claimed))

    async def clean(self) -> None:
        """Deletes old letters and codes."""
        now_ms = ms(self._clock)

        def remove() -> None:
            letters.remove_old(now_ms, REMOVE_AT_ONCE)
            codes.remove_old(now_ms, REMOVE_AT_ONCE)

        await self._database.run(remove)

    async def _try(self, send: Send, row: LetterRow) -> None:
        code = await self._new_code(row)
        failure: Failure | None = None
        if code is None:
            failure = Failure("its code can no longer be used", for_good=True)
        else:
            facts = {"url": self._public_url, "role": row.role, "code": code} | row.facts
            failure = await send(written(row.kind, f"{row.kind}-{row.id}", row.recipient, facts))
        error, for_good = (failure.error, failure.for_good) if failure is not None else (None, False)
        now_ms = ms(self._clock)
        await self._database.run(lambda: letters.record(row, error, now_ms, for_good=for_good))
        if failure is None:
            log.info("sent a letter letter_id=%d kind=%s", row.id, row.kind)
        else:
            log.warning("a letter was not sent letter_id=%d kind=%s error=%s", row.id, row.kind, error)

    async def _new_code(self, row: LetterRow) -> str | None:
        """A new code for the letter: empty if it carries none, None if that one can no longer be used."""
        set_digest = codes.set_digest if row.log_in_code_id is None else log_ins.set_digest
        code_id = row.email_code_id if row.log_in_code_id is None else row.log_in_code_id
        if code_id is None:
            return ""
        code, now_ms = written_code(secrets.token_bytes(CODE_BYTES)), ms(self._clock)
        sha256 = code_digest(code)
        is_usable = await self._database.run(lambda: set_digest(code_id, sha256, now_ms))
        return code if is_usable else None
