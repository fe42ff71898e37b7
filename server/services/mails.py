"""Sends the mail in the outbox: at least once, with retries, and never in a caller's path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from server.clock import Clock, ms
from server.domain.mails import SEND_SECONDS, MailError, retry_ms
from server.store import mails
from server.store.database import Database
from server.store.mails import Waiting

log = logging.getLogger(__name__)
AT_ONCE = 8
# Another server may take a mail over after this; it is longer than one attempt can take.
CLAIM_MS = 3 * int(SEND_SECONDS * 1000)

Send: TypeAlias = Callable[[str, str, str], Awaitable[None]]


class Mails:
    """The duty that sends mail. ``send`` gets an address, a subject and a body, and may raise MailError."""

    def __init__(self, database: Database, clock: Clock, send: Send | None) -> None:
        self._database = database
        self._clock = clock
        self._send = send

    async def tick(self) -> None:
        """Sends what is due, a few at once, and forgets codes that have ended."""
        now_ms = ms(self._clock)
        if not await self._database.read(lambda: mails.has_any_due(now_ms)):
            return

        def claim() -> list[Waiting]:
            mails.clean(now_ms)
            return mails.claim(now_ms, now_ms + CLAIM_MS, AT_ONCE) if self._send is not None else []

        waiting = await self._database.run(claim)
        await asyncio.gather(*(self._try(mail) for mail in waiting))

    async def _try(self, mail: Waiting) -> None:
        assert self._send is not None
        error: MailError | None = None
        try:
            await self._send(mail.address, mail.subject, mail.body)
        except MailError as failure:
            error = failure
        now_ms = ms(self._clock)
        next_ms = None
        if error is not None and not error.is_final:
            next_ms = retry_ms(mail.created_ms, mail.attempts, now_ms)
        if error is not None:
            again = next_ms is not None
            log.warning("a mail was not sent mail_id=%d error=%s again=%s", mail.id, error, again)

        def record() -> None:
            if next_ms is None:
                mails.sent(mail.id)
            else:
                mails.failed(mail.id, mail.attempts + 1, next_ms)

        await self._database.run(record)
