"""Operators in a market of a test: invited by the admin token, logged in with passkeys in software."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.authenticator import Authenticator
from tests.support.browsers import Browser
from tests.support.whole_stack import ADMIN, Stack

LOCAL = "http://localhost:8080"


@dataclass
class Person:
    """An operator, its browser and its passkey."""

    id: int
    browser: Browser
    passkey: Authenticator

    async def log_in(self, browser: Browser | None = None) -> httpx.Response:
        """Logs a browser in with the passkey; by default the operator's own."""
        browser = browser or self.browser
        return await browser.post("/api/log-in/passkey", self.passkey.answer(await asked(browser)))

    async def create_key(self, seconds: int = 3600) -> tuple[int, str]:
        """The id of a new key for scripts, and the key."""
        body = {"name": "script", "expires_in_seconds": seconds}
        answer = await self.browser.post("/api/admin/me/keys", body)
        assert answer.status_code == 201, answer.text
        return answer.json()["key"]["id"], answer.json()["api_key"]


def local_passkey() -> Authenticator:
    """A passkey for a market on this machine."""
    return Authenticator(LOCAL, "localhost")


async def invite(stack: Stack, name: str, role: str) -> tuple[int, str]:
    """A new operator's id, and the code of its invitation."""
    answer = await stack.post("/api/admin/operators", {"name": name, "role": role}, **ADMIN)
    path, _, code = answer["link"].partition("#")
    assert path.endswith("/invitation"), answer
    return answer["operator"]["id"], code


async def opened(browser: Browser, code: str) -> dict[str, Any]:
    """What the browser needs to create a passkey for an invitation."""
    answer = await browser.post("/api/invitation/open", {"invitation": code})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def asked(browser: Browser) -> dict[str, Any]:
    """What the browser needs to log in with a passkey."""
    answer = await browser.post("/api/log-in/passkey/ask", {})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def accept(browser: Browser, code: str, passkey: Authenticator) -> httpx.Response:
    """Uses an invitation with a new passkey."""
    created = passkey.create(await opened(browser, code))
    return await browser.post("/api/invitation/accept", {"invitation": code, **created})


async def joined(stack: Stack, name: str, role: str, passkey: Authenticator | None = None) -> Person:
    """A new operator with a passkey, whose browser is logged in."""
    operator_id, code = await invite(stack, name, role)
    person = Person(operator_id, Browser(stack.http), passkey or local_passkey())
    answer = await accept(person.browser, code, person.passkey)
    assert answer.status_code == 200, answer.text
    return person


def reason(answer: httpx.Response) -> tuple[int, str]:
    """The status and the reason of a refusal."""
    return answer.status_code, answer.json().get("code", "")


async def status(who: Browser) -> int:
    """The status of an operator's own profile: 200 while the browser is logged in."""
    return (await who.send("GET", "/api/admin/me")).status_code
