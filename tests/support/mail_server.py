"""A real SMTP server on 127.0.0.1 for tests: it keeps the letters, and answers as a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope

_CODE = re.compile(r"^    ([a-z2-7]{26})\r?$", re.MULTILINE)


@dataclass
class MailServer:
    """Keeps each letter that it accepts."""

    port: int = 0
    answer: str = "250 OK"
    """What it answers to a letter."""
    recipients: str = "250 OK"
    """What it answers to a recipient."""
    letters: list[tuple[str, EmailMessage]] = field(default_factory=list)
    """The recipient of each letter, and the letter."""
    attempts: int = 0
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the server, for the settings."""
        return f"smtp://127.0.0.1:{self.port}"

    def to(self, recipient: str) -> list[EmailMessage]:
        """The letters to an address."""
        return [letter for to, letter in self.letters if to == recipient]

    def code(self, recipient: str) -> str:
        """The code in the newest letter to an address."""
        found = _CODE.search(self.to(recipient)[-1].get_content())
        assert found is not None
        return found[1]

    async def handle_RCPT(  # noqa: N802 - aiosmtpd calls it so
        self, server: Any, session: Any, envelope: Envelope, address: str, options: Any
    ) -> str:
        """Takes a recipient."""
        if self.recipients.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.recipients

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        """Takes a letter."""
        self.attempts += 1
        if self.answer.startswith("250"):
            letter = message_from_bytes(envelope.original_content or b"", policy=default)
            assert isinstance(letter, EmailMessage)
            self.letters.append((envelope.rcpt_tos[0], letter))
        return self.answer

    def log_in(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        """Accepts every password and remembers it."""
        self.logins.append((data.login, data.password))
        return AuthResult(success=True)


@contextlib.asynccontextmanager
async def mail_server(
    *, tls: ssl.SSLContext | None = None, implicit: bool = False, auth: bool = False
) -> AsyncIterator[MailServer]:
    """Runs a mail server. With ``tls`` it offers STARTTLS; if ``implicit``, it speaks TLS from the start."""
    kept, loop = MailServer(), asyncio.get_running_loop()
    options: dict[str, Any] = {"hostname": "mail.example", "enable_SMTPUTF8": True, "loop": loop}
    if tls is not None and not implicit:
        options |= {"tls_context": tls, "require_starttls": True}
    if auth:
        options |= {"authenticator": kept.log_in, "auth_required": True, "auth_require_tls": not implicit}

    def serve() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it takes a login without STARTTLS for one without TLS
            return SMTP(kept, **options)

    server = await loop.create_server(serve, "127.0.0.1", 0, ssl=tls if implicit else None)
    kept.port = server.sockets[0].getsockname()[1]
    try:
        yield kept
    finally:
        server.close()
