"""Owns how an operator gets into a browser: by an invitation and a passkey of a virtual device.

The screenshots, the benchmark and the tests share it. It starts nothing.
"""

from __future__ import annotations

from playwright.sync_api import CDPSession, Page

from scripts.market import Market

AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}
"""A device that keeps passkeys, and on which its person confirms each time."""
PASSKEY = "Laptop"


def address(market: Market) -> str:
    """The market's address for pages: passkeys belong to names, not to numbers."""
    return market.url.replace("127.0.0.1", "localhost")


def add_authenticator(page: Page) -> tuple[CDPSession, str]:
    """Gives a page's browser a device with passkeys; returns the way to it and its id."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    added = session.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
    return session, added["authenticatorId"]


def invite(market: Market, name: str, role: str) -> tuple[int, str]:
    """A new operator's id, and the address of its invitation."""
    body = {"name": name, "role": role}
    answer = market.post("/api/admin/operators", body, **{"x-admin-token": market.admin_token})
    return answer["operator"]["id"], f"{address(market)}{answer['link']}"


def accept(page: Page, link: str, passkey: str = PASSKEY) -> None:
    """Uses an invitation by typing and clicking; the operator's page is shown then.

    The browser needs a device with passkeys.
    """
    page.goto(link)
    page.wait_for_selector("html[data-ready=invitation]")
    page.locator("#passkey-name").fill(passkey)
    page.locator("form:has(#passkey-name) button").click()
    page.wait_for_url("**/operator*")
    page.wait_for_selector("html[data-ready=health]")
