"""A real SMTP server on 127.0.0.1 that keeps what it receives, and can refuse."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP


class MailServer:
    """What was received, and how it answers."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answer = "250 OK"
        self.recipient_answer = "250 OK"
        self.url = ""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        """Called by aiosmtpd for each recipient."""
        if self.recipient_answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.recipient_answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Called by aiosmtpd for each mail."""
        if self.answer.startswith("250"):
            parsed = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(parsed, EmailMessage)
            self.mails.append(parsed)
        return self.answer

    def to(self, address: str) -> list[str]:
        """The texts of the mails to an address, oldest first."""
        return [mail.get_content() for mail in self.mails if mail["To"] == address]

    def code(self, address: str) -> str:
        """The code in the newest mail to an address that has one."""
        found = [re.search(r'"code": "([^"]+)"', text) for text in self.to(address)]
        codes = [match[1] for match in found if match is not None]
        assert codes, f"no code was mailed to {address}: {self.to(address)}"
        return codes[-1]


@asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """Runs a mail server until the block ends."""
    server = MailServer()
    listener = await asyncio.get_running_loop().create_server(lambda: SMTP(server), "127.0.0.1", 0)
    try:
        server.url = f"smtp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
