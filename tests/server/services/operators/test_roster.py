"""Named operators: invitations, roles, keys, log-ins and the audit log, by the gateway, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.domain.operators import INVITATION_MS, LOG_IN_MS, MAX_KEYS, MAX_LOG_INS, MAX_OPERATORS
from server.store.models import Operator
from tests.support.browsers import Browser
from tests.support.operators import Person, accept, invite, joined, local_passkey, opened, reason, status
from tests.support.whole_stack import ADMIN, Stack, running_stack


@pytest.fixture
async def without_token(tmp_path: Path) -> AsyncIterator[Stack]:
    """A market without the admin token, where nobody is an operator yet."""
    settings: dict[str, Any] = {"DCP_LIMIT_REGISTRATIONS": "0"}
    async with running_stack(tmp_path, None, True, **settings, DCP_ADMIN_TOKEN="") as stack:
        await stack.server._end_loops()
        yield stack


async def by_key(stack: Stack, key: str, method: str = "GET", path: str = "/api/admin/me") -> httpx.Response:
    body: dict[str, Any] = {} if method == "GET" else {"json": {}}
    return await stack.http.request(method, path, headers={"x-admin-token": key}, **body)


async def acts(stack: Stack) -> list[tuple[str, str, str]]:
    """The audit log, oldest first: who did what to which object."""
    entries = (await stack.get("/api/admin/audit?page_size=200", ADMIN))["entries"]
    return [(each["actor"], each["action"], each["object_id"]) for each in reversed(entries)]


async def test_operator_acts_in_a_browser_under_its_own_name(stack: Stack) -> None:
    renter_id, _ = await stack.register("renter", "sara@example.com")
    sara = await joined(stack, "Sara", "finance")
    who = (await sara.browser.send("GET", "/api/admin/me")).json()
    assert (who["operator"]["name"], who["operator"]["role"], who["by"]) == ("Sara", "finance", "log_in")
    credited = await sara.browser.post(f"/api/admin/renters/{renter_id}/credit", {"amount_halala": 500})
    assert credited.status_code == 200, credited.text
    assert await acts(stack) == [
        ("admin", "operator.invite", str(sara.id)),
        ("Sara", "operator.accept_invitation", str(sara.id)),
        ("Sara", "renter.credit", str(renter_id)),
    ]


async def test_name_in_a_request_does_not_change_who_acts(stack: Stack) -> None:
    renter_id, _ = await stack.register("renter", "sara@example.com")
    sara = await joined(stack, "Sara", "finance")
    path = f"/api/admin/renters/{renter_id}/credit"
    answer = await sara.browser.post(
        path, {"amount_halala": 500, "actor": "Omar"}, **{"x-account": "admin:1"}
    )
    assert reason(answer) == (400, "UNKNOWN_FIELD")
    await sara.browser.post(path, {"amount_halala": 500}, **{"x-account": "admin:99", "x-operator": "Omar"})
    assert (await acts(stack))[-1] == ("Sara", "renter.credit", str(renter_id))


@pytest.mark.parametrize(
    ("role", "path", "needed"),
    [
        ("support", "/api/admin/renters/1/credit", "finance or more"),
        ("finance", "/api/admin/renters/1/suspend", "admin"),
    ],
)
async def test_call_below_the_role_names_the_role_that_it_needs(
    stack: Stack, role: str, path: str, needed: str
) -> None:
    sara = await joined(stack, "Sara", role)
    answer = await sara.browser.post(path, {})
    assert reason(answer) == (403, "OPERATOR_ROLE_NEEDED")
    assert f"the role {needed}; yours is {role}" in answer.json()["error"]


async def test_invitation_is_used_once_and_within_a_day(stack: Stack) -> None:
    _, code = await invite(stack, "Sara", "support")
    first, second = Browser(stack.http), Browser(stack.http)
    late = local_passkey().create(await opened(second, code))
    assert (await accept(first, code, local_passkey())).status_code == 200
    for browser in (first, second):
        answer = await browser.post("/api/invitation/open", {"invitation": code})
        assert reason(answer) == (400, "INVITATION_OVER")
    # Whoever opened it before it was used is too late as well.
    assert reason(await second.post("/api/invitation/accept", {"invitation": code, **late})) == (
        400,
        "INVITATION_OVER",
    )
    _, code = await invite(stack, "Omar", "support")
    stack.clock.advance(INVITATION_MS / 1000 - 1)
    await opened(first, code)
    stack.clock.advance(1)
    answer = await first.post("/api/invitation/open", {"invitation": code})
    assert reason(answer) == (400, "INVITATION_OVER")


async def test_one_of_two_browsers_that_use_an_invitation_at_once_is_too_late(stack: Stack) -> None:
    _, code = await invite(stack, "Sara", "support")
    browsers = [Browser(stack.http), Browser(stack.http)]
    found = [local_passkey().create(await opened(each, code)) for each in browsers]
    answers = await asyncio.gather(
        *(
            each.post("/api/invitation/accept", {"invitation": code, **body})
            for each, body in zip(browsers, found, strict=True)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 400]


async def test_new_invitation_ends_the_one_before_it_and_all_that_the_operator_had(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    _, key = await sara.create_key()
    again = await stack.post(f"/api/admin/operators/{sara.id}/invite", {}, **ADMIN)
    newest = await stack.post(f"/api/admin/operators/{sara.id}/invite", {}, **ADMIN)
    assert await status(sara.browser) == 401
    assert reason(await by_key(stack, key)) == (401, "INVALID_CREDENTIAL")
    assert reason(await sara.log_in()) == (403, "PASSKEY_REFUSED")
    codes = [each["link"].partition("#")[2] for each in (again, newest)]
    assert reason(await sara.browser.post("/api/invitation/open", {"invitation": codes[0]})) == (
        400,
        "INVITATION_OVER",
    )
    assert (await accept(sara.browser, codes[1], local_passkey())).status_code == 200
    assert await status(sara.browser) == 200


async def test_guesses_of_invitations_are_bounded_for_each_address(tmp_path: Path) -> None:
    async with running_stack(tmp_path, None, True, DCP_LIMIT_REGISTRATIONS="5") as stack:
        browser = Browser(stack.http)
        answers = [
            await browser.post("/api/invitation/open", {"invitation": f"guess{number}"})
            for number in range(8)
        ]
        assert {reason(answer) for answer in answers[:5]} == {(400, "INVITATION_OVER")}
        assert {reason(answer) for answer in answers[5:]} == {(429, "RATE_LIMITED")}


async def test_operator_removed_in_mid_session_can_do_nothing_more(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "finance"), await joined(stack, "Omar", "admin")
    _, key = await sara.create_key()
    assert (await by_key(stack, key)).status_code == await status(sara.browser) == 200
    removed = await omar.browser.post(f"/api/admin/operators/{sara.id}/remove", {})
    assert removed.status_code == 200, removed.text
    assert await status(sara.browser) == 401
    assert reason(await by_key(stack, key)) == (401, "INVALID_CREDENTIAL")
    assert reason(await sara.log_in()) == (403, "PASSKEY_REFUSED")
    assert (await acts(stack))[-1] == ("Omar", "operator.remove", str(sara.id))
    # Removing it again changes nothing, and inviting it again is refused.
    assert (await omar.browser.post(f"/api/admin/operators/{sara.id}/remove", {})).status_code == 200
    answer = await omar.browser.post(f"/api/admin/operators/{sara.id}/invite", {})
    assert reason(answer) == (409, "WRONG_STATE")


async def test_new_role_ends_log_ins_and_holds_for_keys_at_once(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "finance")
    _, key = await sara.create_key()
    credit = "/api/admin/renters/99/credit"
    assert reason(await by_key(stack, key, "POST", credit))[1] == "INVALID_FIELD"  # admitted
    answer = await stack.post(f"/api/admin/operators/{sara.id}/role", {"role": "support"}, **ADMIN)
    assert answer["operator"]["role"] == "support"
    assert await status(sara.browser) == 401
    assert reason(await by_key(stack, key, "POST", credit)) == (403, "OPERATOR_ROLE_NEEDED")
    assert (await sara.log_in()).status_code == 200


async def test_log_in_ends_after_twelve_hours_also_while_it_is_used(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    assert any("Max-Age=43200" in each and "HttpOnly" in each for each in sara.browser.set_cookies)
    assert all("SameSite=Strict" in each for each in sara.browser.set_cookies)
    for _ in range(11):
        stack.clock.advance(3600)
        assert await status(sara.browser) == 200
    stack.clock.advance(LOG_IN_MS / 1000 - 11 * 3600)
    assert await status(sara.browser) == 401


async def test_log_in_works_only_on_our_own_pages_and_in_no_header(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "admin")
    body = {"name": "Omar", "role": "support"}
    foreign = {"sec-fetch-site": "cross-site"}
    assert reason(await sara.browser.post("/api/admin/operators", body, **foreign)) == (403, "CROSS_ORIGIN")
    plain = await sara.browser.post("/api/admin/operators", body, **{"content-type": "text/plain"})
    assert plain.status_code in (403, 415)
    secret = sara.browser.cookies["dcp-session"]
    assert reason(await by_key(stack, secret)) == (401, "INVALID_CREDENTIAL")


async def test_log_out_ends_one_browser_and_everywhere_all(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    second, third = Browser(stack.http), Browser(stack.http)
    for browser in (second, third):
        assert (await sara.log_in(browser)).status_code == 200
    assert (await second.post("/api/log-out", {})).json()["ended"] == 1
    assert [await status(each) for each in (sara.browser, second, third)] == [200, 401, 200]
    assert (await third.post("/api/log-out", {"everywhere": True})).json()["ended"] == 2
    assert [await status(each) for each in (sara.browser, second, third)] == [401, 401, 401]


async def test_one_more_browser_than_allowed_logs_the_oldest_out(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    browsers = [Browser(stack.http) for _ in range(MAX_LOG_INS)]
    for browser in browsers:
        assert (await sara.log_in(browser)).status_code == 200
    assert await status(sara.browser) == 401
    assert [await status(each) for each in (browsers[0], browsers[-1])] == [200, 200]


async def test_key_acts_under_the_operators_name_until_it_is_revoked_or_ends(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "admin")
    key_id, key = await sara.create_key()
    who = (await by_key(stack, key)).json()
    assert (who["operator"]["name"], who["by"]) == ("Sara", "key")
    _, short = await sara.create_key(60)
    stack.clock.advance(60)
    assert reason(await by_key(stack, short)) == (401, "INVALID_CREDENTIAL")
    listed = (await sara.browser.send("GET", "/api/admin/me/keys")).json()["keys"]
    assert [each["id"] for each in listed][-1] == key_id
    assert key not in str(listed)
    assert (await sara.browser.post(f"/api/admin/me/keys/{key_id}/revoke", {})).status_code == 200
    assert reason(await by_key(stack, key)) == (401, "INVALID_CREDENTIAL")
    assert ("Sara", "operator.revoke_key", str(sara.id)) in await acts(stack)


async def test_key_logs_a_browser_in_and_creates_nothing_that_outlives_it(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "admin"), await joined(stack, "Omar", "support")
    key_id, key = await sara.create_key(600)
    browser = Browser(stack.http)
    entered = await browser.post("/api/log-in/operator", {"api_key": key})
    assert entered.status_code == 200, entered.text
    assert await status(browser) == 200
    for path, body in (
        ("/api/admin/me/keys", {"name": "other", "expires_in_seconds": 60}),
        ("/api/admin/me/passkeys/begin", {}),
        ("/api/admin/operators", {"name": "Accomplice", "role": "admin"}),
        (f"/api/admin/operators/{sara.id}/invite", {}),
        (f"/api/admin/operators/{omar.id}/role", {"role": "admin"}),
        (f"/api/admin/operators/{omar.id}/remove", {}),
    ):
        assert reason(await browser.post(path, body)) == (403, "LOG_IN_NEEDED")
        answer = await stack.http.post(path, json=body, headers={"x-admin-token": key})
        assert reason(answer) == (403, "LOG_IN_NEEDED") or answer.json()["code"] == "CROSS_ORIGIN"
    await sara.browser.post(f"/api/admin/me/keys/{key_id}/revoke", {})
    assert await status(browser) == 401


async def test_operators_see_only_their_own_keys(stack: Stack) -> None:
    sara, omar = await joined(stack, "Sara", "admin"), await joined(stack, "Omar", "admin")
    key_id, key = await sara.create_key()
    assert (await omar.browser.send("GET", "/api/admin/me/keys")).json()["keys"] == []
    answer = await omar.browser.post(f"/api/admin/me/keys/{key_id}/revoke", {})
    assert reason(answer) == (404, "KEY_NOT_FOUND")
    assert (await by_key(stack, key)).status_code == 200


async def test_number_of_keys_is_bounded(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    for _ in range(MAX_KEYS):
        await sara.create_key()
    answer = await sara.browser.post("/api/admin/me/keys", {"name": "more", "expires_in_seconds": 60})
    assert reason(answer) == (409, "TOO_MANY_KEYS")


@pytest.mark.parametrize("name", ["sara", "SARA ", "Ｓara", "  Sara"])
async def test_name_is_never_given_twice(stack: Stack, name: str) -> None:
    operator_id, _ = await invite(stack, "Sara", "support")
    await stack.post(f"/api/admin/operators/{operator_id}/remove", {}, **ADMIN)
    body = {"name": name, "role": "support"}
    answer = await stack.http.post("/api/admin/operators", json=body, headers=ADMIN)
    assert reason(answer) == (409, "OPERATOR_NAME_TAKEN")


@pytest.mark.parametrize("name", ["admin", "Owner", "server"])
async def test_name_that_the_audit_log_has_for_no_person_is_refused(stack: Stack, name: str) -> None:
    body = {"name": name, "role": "support"}
    answer = await stack.http.post("/api/admin/operators", json=body, headers=ADMIN)
    assert (*reason(answer), answer.json()["field"]) == (400, "INVALID_FIELD", "name")


async def test_number_of_operators_is_bounded(stack: Stack) -> None:
    rows = [
        {
            "name": f"n{i}",
            "name_key": f"n{i}",
            "email": "",
            "role": "support",
            "handle": b"%d" % i,
            "created_ms": 1,
        }
        for i in range(MAX_OPERATORS)
    ]
    await stack.server._database.run(lambda: Operator.insert_many(rows).execute())
    body = {"name": "Sara", "role": "support"}
    answer = await stack.http.post("/api/admin/operators", json=body, headers=ADMIN)
    assert reason(answer) == (409, "TOO_MANY_OPERATORS")


async def test_operators_are_listed_in_pages_with_how_they_can_log_in(stack: Stack) -> None:
    sara = await joined(stack, "Sara", "support")
    omar_id, _ = await invite(stack, "Omar", "admin")
    first = await stack.get("/api/admin/operators?page_size=1", ADMIN)
    rest = await stack.get(f"/api/admin/operators?before_id={first['next_before_id']}", ADMIN)
    assert [each["id"] for each in first["operators"] + rest["operators"]] == [omar_id, sara.id]
    assert (first["operators"][0]["passkeys"], "invited_until" in first["operators"][0]) == (0, True)
    assert (rest["operators"][0]["passkeys"], "invited_until" in rest["operators"][0]) == (1, False)


async def test_admin_token_belongs_to_nobody(stack: Stack) -> None:
    who = await stack.get("/api/admin/me", ADMIN)
    assert (who["operator"]["name"], who["operator"]["role"], who["by"]) == ("admin", "admin", "token")
    body = {"name": "script", "expires_in_seconds": 60}
    answer = await stack.http.post("/api/admin/me/keys", json=body, headers=ADMIN)
    assert reason(answer) == (403, "LOG_IN_NEEDED")


async def test_market_without_a_token_keeps_its_last_admin(without_token: Stack) -> None:
    from server.commands.invite import add  # the way in without a token

    stack = without_token
    refused = await stack.http.get("/api/admin/me", headers={"x-admin-token": "dcp-operator-" + "x" * 43})
    assert reason(refused) == (503, "ADMIN_NOT_CONFIGURED")
    code = (
        await stack.server._database.run(lambda: add("Sara", "admin", int(stack.clock.now() * 1000)))
    ).code
    stack.clock.advance(10)
    sara = Person(1, Browser(stack.http), local_passkey())
    assert (await accept(sara.browser, code, sara.passkey)).status_code == 200
    for path, body in (("role", {"role": "finance"}), ("remove", {})):
        answer = await sara.browser.post(f"/api/admin/operators/1/{path}", body)
        assert reason(answer) == (409, "WRONG_STATE")
    answer = await sara.browser.post("/api/admin/operators", {"name": "Omar", "role": "admin"})
    assert answer.status_code == 201, answer.text
    # Who is only invited cannot manage operators yet.
    answer_of_removal = await sara.browser.post("/api/admin/operators/1/remove", {})
    assert reason(answer_of_removal) == (409, "WRONG_STATE")
    invitation = answer.json()["link"].partition("#")[2]
    assert (await accept(Browser(stack.http), invitation, local_passkey())).status_code == 200
    assert (await sara.browser.post("/api/admin/operators/1/remove", {})).status_code == 200
