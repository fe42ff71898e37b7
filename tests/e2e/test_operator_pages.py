"""Operators in a real Chromium with a virtual authenticator, from an invitation to the audit log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from scripts.market import UNLIMITED, Market
from scripts.operators import AUTHENTICATOR, add_authenticator, address, invite
from tests.support.browsers import PATIENCE_MS

pytestmark = pytest.mark.e2e

ADMIN_TOKEN = "operator-token-of-the-operator-pages"
TOKEN = {"x-admin-token": ADMIN_TOKEN}
NUMBERS = count(1)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with Market(tmp_path_factory.mktemp("market"), admin_token=ADMIN_TOKEN, settings=UNLIMITED) as running:
        yield running


@pytest.fixture
def context(browser: Browser, market: Market) -> Iterator[BrowserContext]:
    """A browser of one person. The test fails if a page logs an error."""
    viewport: Any = {"width": 1280, "height": 800}
    context = browser.new_context(base_url=address(market), viewport=viewport, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    context.on("console", listen)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def invited(market: Market, role: str) -> tuple[str, int, str]:
    """A new operator's name and id, and the address of its invitation."""
    name = f"Sara {next(NUMBERS)}"
    return name, *invite(market, name, role)


def ready(page: Page, name: str) -> None:
    page.wait_for_function("name => document.documentElement.dataset.ready === name", arg=name)


def join(page: Page, market: Market, role: str) -> tuple[str, int]:
    """Uses an invitation by clicking; the operator's page is shown then."""
    name, operator_id, link = invited(market, role)
    page.goto(link)
    ready(page, "invitation")
    expect(page.get_by_role("heading", level=2)).to_contain_text(name)
    assert "#" not in page.url
    page.get_by_label("Name of the passkey").fill("Laptop")
    page.get_by_role("button", name="Create the passkey and log in").click()
    page.wait_for_url("**/operator*")
    ready(page, "health")
    page.get_by_role("link", name="My access").click()
    ready(page, "access")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    return name, operator_id


def log_in(page: Page, name: str) -> None:
    page.goto("/log-in?role=operator")
    ready(page, "log-in")
    page.get_by_role("button", name="Log in with a passkey").click()
    page.wait_for_url("**/operator*")
    ready(page, "health")
    page.get_by_role("link", name="My access").click()
    ready(page, "access")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def send(page: Page, path: str, body: dict[str, object]) -> int:
    """Sends a POST from the page with its log-in; returns the status."""
    status: int = page.evaluate(
        """async ([path, body]) => (await fetch(path, {method: "POST", body: JSON.stringify(body),
        headers: {"content-type": "application/json"}})).status""",
        [path, body],
    )
    return status


def test_operator_joins_by_invitation_and_comes_back_by_passkey(page: Page, market: Market) -> None:
    renter_id, _ = market.register_renter("Acme", "acme@example.com")
    add_authenticator(page)
    name, operator_id = join(page, market, "finance")
    page.get_by_role("button", name="Log out", exact=True).click()
    page.wait_for_url("**/log-in*")
    assert page.context.cookies() == [] or all(each["name"] == "lang" for each in page.context.cookies())
    log_in(page, name)
    assert send(page, f"/api/dc1/admin/renters/{renter_id}/credit", {"amount_halala": 700}) == 200
    entries = market.get("/api/admin/audit?page_size=4", **TOKEN)["entries"]
    assert [(each["actor"], each["action"]) for each in entries] == [
        (name, "renter.credit"),
        (name, "operator.log_in"),
        (name, "operator.log_out"),
        (name, "operator.accept_invitation"),
    ]
    # Its role does not reach further.
    assert send(page, f"/api/dc1/admin/operators/{operator_id}/role", {"role": "admin"}) == 403


def test_second_passkey_replaces_the_first_and_a_key_is_shown_once(page: Page, market: Market) -> None:
    session, first = add_authenticator(page)
    join(page, market, "support")
    # One device keeps one passkey of a person; the second is on another device.
    page.get_by_label("Name of another passkey").fill("Again")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("has a passkey of yours already")
    session.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": first})
    session.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
    page.get_by_label("Name of another passkey").fill("Phone")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("button", name="Remove: Phone")).to_be_visible()
    page.get_by_label("Name of the key").fill("script")
    page.get_by_role("button", name="Create a key").click()
    key = page.locator("code.whole").inner_text()
    assert market.get("/api/admin/me", **{"x-admin-token": key})["by"] == "key"
    page.reload()
    ready(page, "access")
    assert key not in page.content()
    page.get_by_role("button", name="Revoke: script").click()
    expect(page.get_by_text("No keys.")).to_be_visible()


def test_admin_invites_another_operator_changes_its_role_and_removes_it(page: Page, market: Market) -> None:
    add_authenticator(page)
    join(page, market, "admin")
    page.get_by_role("link", name="Operators").click()
    page.get_by_label("Name of the operator").fill("Omar <b>")
    page.get_by_label("Role", exact=True).last.select_option("support")
    page.get_by_role("button", name="Invite", exact=True).click()
    link = page.locator(".once code").inner_text()
    assert re.search(r"/invitation#\w+$", link)
    row = page.get_by_role("row").filter(has_text="Omar <b>")
    expect(row).to_contain_text("invited until")

    row.get_by_role("button", name="Role").click()
    page.get_by_role("dialog").get_by_label("Role").select_option("finance")
    expect(page.get_by_role("dialog")).to_contain_text("Omar <b> gets the role finance.")
    page.get_by_role("dialog").get_by_role("button", name="Role").click()
    expect(row).to_contain_text("finance")

    row.get_by_role("button", name="Invite again").click()
    page.get_by_role("dialog").get_by_role("button", name="Invite again").click()
    expect(page.locator(".once code")).not_to_have_text(link)

    row.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(row).to_contain_text("removed")


def test_invitation_that_was_used_says_so(page: Page, market: Market) -> None:
    add_authenticator(page)
    _, _, link = invited(market, "support")
    for text in ("Create the passkey and log in", None):
        page.goto("/docs")
        page.goto(link)
        ready(page, "invitation")
        if text:
            page.get_by_label("Name of the passkey").fill("Laptop")
            page.get_by_role("button", name=text).click()
            page.wait_for_url("**/operator*")
    expect(page.get_by_role("alert")).to_contain_text("was used, is older than a day")


def test_refusal_by_the_person_is_a_sentence_and_can_be_repeated(page: Page, market: Market) -> None:
    session, device = add_authenticator(page)
    _, _, link = invited(market, "support")
    session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    page.goto(link)
    ready(page, "invitation")
    page.get_by_label("Name of the passkey").fill("Laptop")
    page.get_by_role("button", name="Create the passkey and log in").click()
    expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("No passkey was used")
    session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": True})
    page.get_by_role("button", name="Create the passkey and log in").click()
    page.wait_for_url("**/operator*")


def test_operator_who_is_removed_meets_the_log_in(page: Page, market: Market) -> None:
    add_authenticator(page)
    _, operator_id = join(page, market, "admin")
    market.post(f"/api/admin/operators/{operator_id}/remove", {}, **TOKEN)
    page.get_by_label("Name of the key").fill("typed")
    page.get_by_role("button", name="Create a key").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Log in with a passkey").click()
    expect(page.get_by_role("dialog").get_by_role("alert").filter(visible=True)).to_contain_text(
        "unknown here"
    )


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_of_operators_have_no_axe_findings_and_fit_a_phone(
    page: Page, market: Market, language: str, theme: str
) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": 320, "height": 700})
    add_authenticator(page)
    _, _, link = invited(market, "support")
    page.goto(link.replace("#", f"?lang={language}#"))
    ready(page, "invitation")
    check(page)
    page.locator("#passkey-name").fill("جهاز <b>1</b>")
    page.locator("form button").click()
    page.wait_for_url("**/operator*")
    page.evaluate("location.hash = 'access'")
    ready(page, "access")
    check(page)
    page.goto("/log-in?role=operator")
    ready(page, "log-in")
    check(page)


def check(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
