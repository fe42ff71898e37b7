"""A market that sends mail to a real SMTP server, when a test says so."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx

from tests.support.mail_server import MailServer, mail_server
from tests.support.whole_stack import Stack, running_stack

DAY_SECONDS = 24 * 3600


@dataclass
class MailingStack:
    """Server and gateway, and the mail server. No loop runs: the market sends letters in ``send``."""

    stack: Stack
    mail: MailServer

    async def post(self, path: str, body: object, key: str = "", **headers: str) -> httpx.Response:
        """The response to a POST, with a key of any role."""
        if key:
            headers["authorization"] = f"Bearer {key}"
        return await self.stack.http.post(path, json=body, headers=headers)

    async def send(self) -> None:
        """Sends the letters that are due."""
        await self.stack.server.services.mailer.tick()

    async def letters(self, recipient: str) -> list[EmailMessage]:
        """All letters to an address, after those that are due were sent."""
        await self.send()
        return self.mail.to(recipient)

    async def code(self, recipient: str) -> str:
        """The code in the newest letter to an address."""
        await self.send()
        return self.mail.code(recipient)

    async def verify(self, key: str, code: str) -> httpx.Response:
        """Sends back a code."""
        return await self.post("/api/accounts/verify-email", {"code": code}, key)

    async def proven(self, role: str, email: str) -> tuple[int, str]:
        """A new account whose address is proven: its id and key."""
        account_id, key = await self.stack.register(role, email)
        answer = await self.verify(key, await self.code(email))
        assert answer.status_code == 200, answer.text
        return account_id, key

    async def profile(self, role: str, key: str) -> dict[str, Any]:
        """The account as its owner sees it."""
        answer = await self.stack.get(f"/api/{role}s/me", {"authorization": f"Bearer {key}"})
        profile: dict[str, Any] = answer[role]
        return profile


@contextlib.asynccontextmanager
async def mailing_stack(folder: Path, database_url: str, **settings: str) -> AsyncIterator[MailingStack]:
    """Runs the market on a database until the block ends."""
    async with mail_server() as mail:
        settings = {
            "DCP_DATABASE_URL": database_url,
            "DCP_SMTP_URL": mail.url,
            "DCP_MAIL_FROM": "accounts@market.example",
            "DCP_PUBLIC_URL": "https://market.example",
            "DCP_SANDBOX_TOPUP": "true",
        } | settings
        async with running_stack(folder, None, True, prove=True, **settings) as stack:
            await stack.server._end_loops()
            yield MailingStack(stack, mail)
