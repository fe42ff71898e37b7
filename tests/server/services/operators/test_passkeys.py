"""Passkeys of operators: whom they log in, and what they do not prove. The passkeys are software of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.domain.operators import CHALLENGE_MS, MAX_PASSKEYS
from tests.support.authenticator import PRESENT, VERIFIED, Authenticator
from tests.support.browsers import Browser
from tests.support.operators import (
    LOCAL,
    Person,
    accept,
    asked,
    invite,
    joined,
    local_passkey,
    opened,
    reason,
    status,
)
from tests.support.whole_stack import Stack, running_stack

pytestmark = pytest.mark.in_turns

REFUSED = (403, "PASSKEY_REFUSED")
PASSKEYS = "/api/admin/me/passkeys"


@pytest.fixture
async def public(tmp_path: Path) -> AsyncIterator[Stack]:
    """A market with an address."""
    settings: dict[str, Any] = {"DCP_PUBLIC_URL": "https://market.example/", "DCP_LIMIT_REGISTRATIONS": "0"}
    async with running_stack(tmp_path, None, True, **settings) as stack:
        await stack.server._end_loops()
        yield stack


async def test_passkey_logs_its_operator_in_any_number_of_times(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "support"), await joined(stack, "Omar", "admin")
    for person, name in ((omar, "Omar"), (sara, "Sara"), (sara, "Sara")):
        browser = Browser(stack.http)
        answer = await person.log_in(browser)
        assert (answer.status_code, answer.json()["operator"]["name"]) == (200, name)
        assert await status(browser) == 200


async def test_passkey_that_does_not_count_logs_in_too(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support", Authenticator(LOCAL, "localhost", counts=False))
    assert [(await sara.log_in()).status_code for _ in range(2)] == [200, 200]


async def test_answer_is_accepted_once(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    browser = Browser(stack.http)
    answer = sara.passkey.answer(await asked(browser))
    cookies = dict(browser.cookies)
    assert (await browser.post("/api/log-in/passkey", answer)).status_code == 200
    browser.cookies = cookies
    assert reason(await browser.post("/api/log-in/passkey", answer)) == REFUSED


async def test_challenge_is_used_up_by_a_wrong_answer(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    browser = Browser(stack.http)
    answer = sara.passkey.answer(await asked(browser))
    cookies = dict(browser.cookies)
    wrong = await browser.post("/api/log-in/passkey", answer | {"signature": "AQIDBA=="})
    assert reason(wrong) == REFUSED
    browser.cookies = cookies
    assert reason(await browser.post("/api/log-in/passkey", answer)) == REFUSED


async def test_challenge_is_answered_within_five_minutes(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    browser = Browser(stack.http)
    early, late = sara.passkey.answer(await asked(browser)), CHALLENGE_MS / 1000
    stack.clock.advance(late - 1)
    assert (await browser.post("/api/log-in/passkey", early)).status_code == 200
    answer = sara.passkey.answer(await asked(browser))
    stack.clock.advance(late)
    assert reason(await browser.post("/api/log-in/passkey", answer)) == REFUSED


async def test_challenge_is_answered_only_by_the_browser_that_asked(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    mine, other = Browser(stack.http), Browser(stack.http)
    answer = sara.passkey.answer(await asked(mine))
    await asked(other)
    assert reason(await other.post("/api/log-in/passkey", answer)) == REFUSED
    assert reason(await Browser(stack.http).post("/api/log-in/passkey", answer)) == REFUSED
    assert (await mine.post("/api/log-in/passkey", answer)).status_code == 200


async def test_copied_passkey_is_refused_by_its_counter(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    assert (await sara.log_in()).status_code == 200
    sara.passkey.count -= 1  # the count of the last answer comes again
    assert reason(await sara.log_in()) == REFUSED
    assert (await sara.log_in()).status_code == 200


@pytest.mark.parametrize(
    ("origin", "domain", "flags"),
    [
        ("http://evil.example", "localhost", PRESENT | VERIFIED),
        ("http://localhost.evil.example", "localhost", PRESENT | VERIFIED),
        ("https://localhost", "localhost", PRESENT | VERIFIED),
        (LOCAL, "evil.example", PRESENT | VERIFIED),
        (LOCAL, "localhost", PRESENT),
        (LOCAL, "localhost", VERIFIED),
    ],
    ids=["origin", "similar origin", "scheme", "domain", "user not verified", "user not present"],
)
async def test_passkey_of_another_site_or_without_its_user_is_refused(
    stack: Stack,
    origin: str,
    domain: str,
    flags: int,
) -> None:
    _, code = await invite(stack, "Sara", "support")
    bad = Authenticator(origin, domain, flags)
    assert reason(await accept(Browser(stack.http), code, bad)) == REFUSED
    # The invitation is still usable, and the same passkey cannot log in afterwards either.
    sara = Person(1, Browser(stack.http), local_passkey())
    assert (await accept(sara.browser, code, sara.passkey)).status_code == 200
    sara.passkey.origin, sara.passkey.domain, sara.passkey.flags = origin, domain, flags
    assert reason(await sara.log_in(Browser(stack.http))) == REFUSED


@pytest.mark.parametrize(
    ("origin", "domain", "is_ours"),
    [
        ("https://market.example", "market.example", True),
        ("https://www.market.example", "market.example", False),
        ("http://market.example", "market.example", False),
        ("https://market.example:8443", "market.example", False),
        (LOCAL, "localhost", False),
    ],
)
async def test_market_with_an_address_accepts_passkeys_of_that_address(
    public: Stack, origin: str, domain: str, is_ours: bool
) -> None:
    _, code = await invite(public, "Sara", "support")
    answer = await accept(Browser(public.http), code, Authenticator(origin, domain))
    assert (answer.status_code == 200) == is_ours
    assert is_ours or reason(answer) == REFUSED


@pytest.mark.parametrize("field", ["credential", "client_data", "authenticator_data", "signature", "user"])
@pytest.mark.parametrize("value", ["AA==", "e30=", "oA==", "/" * 800])
async def test_bytes_that_are_no_answer_are_refused_and_no_fault(
    stack: Stack,
    field: str,
    value: str,
) -> None:
    sara = await joined(stack, "Sara", "support")
    browser = Browser(stack.http)
    answer = sara.passkey.answer(await asked(browser)) | {field: value}
    refused = await browser.post("/api/log-in/passkey", answer)
    assert refused.status_code in (400, 403), refused.text


async def test_passkey_answers_only_for_its_own_operator(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "support"), await joined(stack, "Omar", "admin")
    sara.passkey.user = omar.passkey.user
    assert reason(await sara.log_in(Browser(stack.http))) == REFUSED


async def test_invitation_adds_only_the_passkey_that_was_asked_for_it(stack: Stack) -> None:
    _, of_sara = await invite(stack, "Sara", "support")
    _, of_omar = await invite(stack, "Omar", "admin")
    browser = Browser(stack.http)
    created = local_passkey().create(await opened(browser, of_sara))
    answer = await browser.post("/api/invitation/accept", {"invitation": of_omar, **created})
    assert reason(answer) == REFUSED


async def added(person: Person, passkey: Authenticator, name: str = "Phone") -> int:
    """The id of one more passkey of an operator who is logged in."""
    begun = await person.browser.post(f"{PASSKEYS}/begin", {})
    assert begun.status_code == 200, begun.text
    answer = await person.browser.post(PASSKEYS, passkey.create(begun.json(), name))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["passkey"]["id"])


async def test_operator_adds_a_second_passkey_and_removes_the_first(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    second = local_passkey()
    second_id = await added(sara, second)
    listed = (await sara.browser.send("GET", PASSKEYS)).json()["passkeys"]
    assert [each["name"] for each in listed] == ["Phone", "Laptop"]
    first, sara.passkey = sara.passkey, second
    other = Browser(stack.http)
    assert (await sara.log_in(other)).status_code == 200
    assert (await other.post(f"{PASSKEYS}/{listed[1]['id']}/remove", {})).status_code == 200
    # The log-in of the first passkey ended with it.
    assert [await status(each) for each in (sara.browser, other)] == [401, 200]
    assert reason(await Person(sara.id, sara.browser, first).log_in()) == REFUSED
    last = await other.post(f"{PASSKEYS}/{second_id}/remove", {})
    assert (*reason(last), last.json()["status"]) == (409, "WRONG_STATE", "last passkey")


async def test_passkey_is_known_once_and_operators_have_at_most_ten(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "support"), await joined(stack, "Omar", "support")
    begun = (await omar.browser.post(f"{PASSKEYS}/begin", {})).json()
    assert reason(await omar.browser.post(PASSKEYS, sara.passkey.create(begun))) == REFUSED
    for _ in range(MAX_PASSKEYS - 1):
        await added(omar, local_passkey())
    begun = (await omar.browser.post(f"{PASSKEYS}/begin", {})).json()
    assert len(begun["known"]) == MAX_PASSKEYS
    answer = await omar.browser.post(PASSKEYS, local_passkey().create(begun))
    assert reason(answer) == (409, "TOO_MANY_PASSKEYS")


async def test_passkeys_of_others_cannot_be_removed(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "support"), await joined(stack, "Omar", "admin")
    [passkey] = (await sara.browser.send("GET", PASSKEYS)).json()["passkeys"]
    answer = await omar.browser.post(f"{PASSKEYS}/{passkey['id']}/remove", {})
    assert reason(answer) == (404, "PASSKEY_NOT_FOUND")
    assert (await sara.log_in()).status_code == 200
