"""Log-ins of browsers, through the gateway and a real mail server, on both databases."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.domain.errors import DomainError, Reason
from server.domain.letters import MOST_A_DAY, LetterKind
from server.domain.log_ins import ASKED_MS, LOG_IN_MS, MAX_LOG_INS
from server.store.models import EmailCode, Letter
from tests.support import browsers
from tests.support.mailing_stack import MailingStack, mailing_stack
from tests.support.plans import recorded
from tests.support.whole_stack import ADMIN, running_stack

pytestmark = pytest.mark.in_turns

ROLES = ("provider", "renter")
SARA = "sara@gmail.com"
WRONG = "a" * 26


@pytest.fixture
async def market(database_url: str, tmp_path: Path) -> AsyncIterator[MailingStack]:
    async with mailing_stack(tmp_path, database_url, DCP_LIMIT_REGISTRATIONS="0") as market:
        yield market


class Browser(browsers.Browser):
    """A browser of an account's owner."""

    async def status(self, role: str) -> int:
        """The status of the account's profile: 200 while it is logged in."""
        return (await self.send("GET", f"/api/{role}s/me")).status_code

    async def ask(self, role: str, email: str = SARA) -> httpx.Response:
        return await self.post("/api/log-in/ask", {"email": email, "role": role})

    async def redeem(self, code: str) -> httpx.Response:
        return await self.post("/api/log-in/redeem", {"code": code})

    async def log_in(self, key: str) -> None:
        answer = await self.post("/api/log-in", {"api_key": key})
        assert answer.status_code == 200, answer.text


def browser(market: MailingStack) -> Browser:
    return Browser(market.stack.http)


async def logged_in(market: MailingStack, role: str, email: str = SARA) -> tuple[Browser, int, str]:
    """A browser that is logged in, and the account's id and key."""
    account_id, key = await market.proven(role, email)
    mine = browser(market)
    await mine.log_in(key)
    assert await mine.status(role) == 200
    return mine, account_id, key


@pytest.mark.parametrize("role", ROLES)
async def test_mailed_code_logs_in_the_browser_that_asked_once(market: MailingStack, role: str) -> None:
    account_id, _ = await market.proven(role, SARA)
    mine, other = browser(market), browser(market)
    assert (await mine.ask(role)).status_code == 200
    code = await market.code(SARA)
    assert f"https://market.example/log-in#{code}" in market.mail.to(SARA)[-1].get_content()
    await other.ask(role, "nobody@gmail.com")
    for stranger in (browser(market), other):  # one that never asked, and one that asked for somebody else
        answer = await stranger.redeem(code)
        assert (answer.status_code, answer.json()["code"]) == (403, "WRONG_CODE")
        assert await stranger.status(role) == 401
    answer = await mine.redeem(code.upper())
    assert (answer.status_code, answer.json()["account_id"]) == (200, account_id)
    assert set(answer.json()) == {"success", "role", "account_id", "expires_at"}, "no secret in the body"
    assert await mine.status(role) == 200
    again = await mine.redeem(code)
    assert (again.status_code, again.json()["code"]) == (403, "WRONG_CODE")


async def test_code_ends_after_fifteen_minutes(market: MailingStack) -> None:
    await market.proven("renter", SARA)
    mine = browser(market)
    await mine.ask("renter")
    code = await market.code(SARA)
    market.stack.clock.advance(ASKED_MS / 1000)
    assert (await mine.redeem(code)).status_code == 403


async def test_after_ten_wrong_codes_the_right_one_is_void(market: MailingStack) -> None:
    await market.proven("renter", SARA)
    mine = browser(market)
    await mine.ask("renter")
    code = await market.code(SARA)
    for _ in range(10):
        assert (await mine.redeem(WRONG)).status_code == 403
    assert (await mine.redeem(code)).status_code == 403


async def test_answer_to_who_asks_is_the_same_without_an_account(market: MailingStack) -> None:
    await market.proven("renter", SARA)
    await market.stack.register("renter", "unproven@gmail.com")
    await market.send()
    before = len(market.mail.to("unproven@gmail.com"))
    answers = [
        (await browser(market).ask("renter", email)).json()
        for email in (SARA, "unproven@gmail.com", "nobody@gmail.com")
    ]
    assert answers[0] == answers[1] == answers[2]
    await market.send()
    assert len(market.mail.to("unproven@gmail.com")) == before, "who registered it may not be its owner"


async def test_whoever_asks_cannot_tell_by_the_work_whether_an_address_has_an_account(
    market: MailingStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same statements and commits run for each, so that the time of an answer says nothing."""
    await market.proven("renter", SARA)
    await market.proven("provider", SARA)
    await market.stack.register("renter", "unproven@gmail.com")
    for _ in range(MOST_A_DAY[LetterKind.LOG_IN]):
        await browser(market).ask("renter", SARA)
    works: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for role, email in itertools.product(ROLES, (SARA, "unproven@gmail.com", "nobody@gmail.com")):
        mine = browser(market)
        for path, body in (
            ("/api/log-in/ask", {"email": email, "role": role}),
            ("/api/log-in/redeem", {"code": WRONG}),
            ("/api/accounts/lost-key", {"email": email, "role": role}),
        ):
            with recorded(market.stack.server._database, monkeypatch) as seen:
                await mine.post(path, body)
            works.setdefault((role, path), set()).add(tuple(sql for sql, _ in seen))
    assert {each: len(found) for each, found in works.items()} == dict.fromkeys(works, 1)
    assert all(len(sql) >= 2 for found in works.values() for sql in found), works
    await market.send()
    for stranger in ("unproven@gmail.com", "nobody@gmail.com"):
        subjects = {str(letter["subject"]) for letter in market.mail.to(stranger)}
        assert not [subject for subject in subjects if "Log in" in subject]
    rows = await market.stack.server._database.read(
        lambda: [*EmailCode.select().dicts(), *Letter.select().dicts()]
    )
    assert "nobody" not in str(rows), "whom somebody else names is not kept"


async def test_cookies_are_hidden_from_scripts_and_strict(market: MailingStack) -> None:
    _, key = await market.proven("renter", SARA)
    mine = browser(market)
    await mine.log_in(key)
    (cookie,) = mine.set_cookies
    assert cookie.startswith("dcp-session=dcp-session-")
    for part in ("HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={LOG_IN_MS // 1000}"):
        assert part in cookie.split("; ")
    await mine.ask("renter")
    assert f"Max-Age={ASKED_MS // 1000}" in mine.set_cookies[0]
    await mine.post("/api/log-out", {})
    assert "Max-Age=0" in mine.set_cookies[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": ""},
        {"sec-fetch-site": "", "origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": "http://gateway"},
        {"sec-fetch-site": "", "origin": "https://evil.example"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "text/plain", "dcp-page": "1"},
        {"sec-fetch-site": "cross-site", "content-type": "application/octet-stream"},
    ],
    ids=str,
)
async def test_another_site_can_do_nothing_with_the_cookie(
    market: MailingStack, headers: dict[str, Any]
) -> None:
    mine, _, key = await logged_in(market, "renter")
    requests: list[tuple[str, Any]] = [
        ("/api/renters/topup", {"amount_halala": 100}),
        ("/api/log-out", {"everywhere": True}),
        ("/api/log-in", {"api_key": key}),
        ("/api/log-in/ask", {"email": SARA, "role": "renter"}),
        ("/api/log-in/redeem", {"code": WRONG}),
    ]
    for path, body in requests:
        answer = await mine.post(path, body, **headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "CROSS_ORIGIN"), path
    assert (await market.profile("renter", key))["balance_halala"] == 0
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") or "origin" in headers:
        assert (await mine.send("GET", "/api/renters/me", **headers)).status_code == 403
    assert await mine.status("renter") == 200
    topped = await mine.post("/api/renters/topup", {"amount_halala": 100})
    assert topped.status_code == 200, topped.text


async def test_log_in_is_no_key(market: MailingStack) -> None:
    mine, _, key = await logged_in(market, "renter")
    secret = mine.cookies["dcp-session"]
    for headers in ({"x-renter-key": secret}, {"authorization": f"Bearer {secret}"}):
        answer = await market.stack.http.get("/api/renters/me", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_CREDENTIAL")
    listed = (await market.stack.get("/api/renters/keys", {"x-renter-key": key}))["keys"]
    assert len(listed) == 1, "a log-in is not one of the account's keys"
    again = await mine.post("/api/log-in", {})
    assert (again.status_code, again.json()["code"]) == (409, "WRONG_STATE"), "it cannot prolong itself"


async def test_key_that_is_sent_counts_and_not_the_cookie(market: MailingStack) -> None:
    mine, _, _ = await logged_in(market, "renter")
    answer = await mine.send("GET", "/api/renters/me", **{"x-renter-key": "dcp-renter-wrong"})
    assert answer.status_code == 401


async def test_sub_key_does_not_log_in(market: MailingStack) -> None:
    mine, _, _ = await logged_in(market, "renter")
    made = await mine.post("/api/renters/keys", {"name": "sub", "scopes": ["read"]})
    assert made.status_code in (200, 201), made.text
    answer = await browser(market).post("/api/log-in", {"api_key": made.json()["api_key"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "MAIN_KEY_NEEDED")


@pytest.mark.parametrize("role", ROLES)
async def test_log_in_ends_after_seven_days(market: MailingStack, role: str) -> None:
    mine, _, _ = await logged_in(market, role)
    market.stack.clock.advance(LOG_IN_MS / 1000 - 1)
    assert await mine.status(role) == 200
    market.stack.clock.advance(1)
    assert await mine.status(role) == 401


@pytest.mark.parametrize("role", ROLES)
async def test_log_out_ends_one_log_in_or_all(market: MailingStack, role: str) -> None:
    mine, _, key = await logged_in(market, role)
    second, third = browser(market), browser(market)
    await second.log_in(key)
    await third.log_in(key)
    kept = dict(mine.cookies)
    assert (await mine.post("/api/log-out", {})).json()["ended"] == 1
    assert mine.cookies == {}
    mine.cookies = kept
    assert [await each.status(role) for each in (mine, second, third)] == [401, 200, 200]
    await second.ask(role)
    code = await market.code(SARA)
    assert (await third.post("/api/log-out", {"everywhere": True})).json()["ended"] == 2
    assert await second.status(role) == 401
    assert (await second.redeem(code)).status_code == 403, "what was asked for before has ended too"
    assert (await market.profile(role, key))["email"] == SARA, "keys stay valid"


@pytest.mark.parametrize("role", ROLES)
async def test_new_main_key_logs_out_everywhere_at_once(market: MailingStack, role: str) -> None:
    mine, _, key = await logged_in(market, role)
    path = f"/api/{role}s/keys/rotate"
    answer = await market.post(path, {"grace_seconds": 3600}, key)
    assert answer.status_code == 200, answer.text
    assert await mine.status(role) == 401
    assert (await market.profile(role, key))["email"] == SARA, "the key itself has its grace"


@pytest.mark.parametrize("role", ROLES)
async def test_log_in_does_not_outlive_the_key_that_made_it(market: MailingStack, role: str) -> None:
    _, key = await market.proven(role, SARA)
    await market.post(f"/api/{role}s/keys/rotate", {"grace_seconds": 3600}, key)
    mine = browser(market)
    await mine.log_in(key)
    market.stack.clock.advance(3599)
    assert await mine.status(role) == 200
    market.stack.clock.advance(1)
    assert await mine.status(role) == 401


@pytest.mark.parametrize("role", ROLES)
async def test_key_that_another_server_still_caches_does_not_log_in(market: MailingStack, role: str) -> None:
    _, key = await market.proven(role, SARA)
    services = market.stack.server.services
    cached = await services.keys.identify(key)
    await market.post(f"/api/{role}s/keys/rotate", {"grace_seconds": 0}, key)
    with pytest.raises(DomainError) as refused:
        await services.log_ins.by_key(cached)
    assert refused.value.reason is Reason.INVALID_CREDENTIAL


async def test_replaced_key_that_is_revoked_takes_the_log_ins_with_it(market: MailingStack) -> None:
    _, key = await market.proven("renter", SARA)
    answer = await market.post("/api/renters/keys/rotate", {"grace_seconds": 3600}, key)
    new_key = answer.json()["api_key"]
    mine = browser(market)
    await mine.log_in(key)
    listed = (await market.stack.get("/api/renters/keys", {"x-renter-key": new_key}))["keys"]
    (replaced,) = [each["id"] for each in listed if each.get("expires_at")]
    answer = await market.post(f"/api/renters/keys/{replaced}/revoke", {}, new_key)
    assert answer.status_code == 200, answer.text
    assert await mine.status("renter") == 401


@pytest.mark.parametrize("role", ROLES)
async def test_suspended_account_is_logged_out(market: MailingStack, role: str) -> None:
    mine, account_id, _ = await logged_in(market, role)
    await market.stack.http.post(
        f"/api/admin/{role}s/{account_id}/suspend", json={"reason": "checked"}, headers=ADMIN
    )
    assert await mine.status(role) == 401


async def test_deleted_account_is_logged_out(market: MailingStack) -> None:
    mine, _, _ = await logged_in(market, "renter")
    kept = dict(mine.cookies)
    answer = await mine.post("/api/renters/delete", {"email": SARA})
    assert answer.status_code == 200, answer.text
    mine.cookies = kept
    assert await mine.status("renter") == 401


async def test_one_more_browser_ends_the_oldest(market: MailingStack) -> None:
    oldest, _, key = await logged_in(market, "renter")
    second = browser(market)
    await second.log_in(key)
    for _ in range(MAX_LOG_INS - 1):
        await browser(market).log_in(key)
    assert [await each.status("renter") for each in (oldest, second)] == [401, 200]


async def test_old_log_ins_are_deleted_and_keys_stay(market: MailingStack) -> None:
    _, _, key = await logged_in(market, "renter")
    asking = browser(market)
    await asking.ask("renter")
    services = market.stack.server.services
    market.stack.clock.advance(40 * 24 * 3600)
    await services.log_ins.clean()
    counts = await services.keys._database.read(_counts)
    assert counts == (0, 0)
    assert (await market.profile("renter", key))["email"] == SARA


async def test_log_ins_that_were_ended_are_deleted_after_a_day(market: MailingStack) -> None:
    mine, _, key = await logged_in(market, "renter")
    for _ in range(3):
        other = browser(market)
        await other.log_in(key)
        await other.post("/api/log-out", {})
    services = market.stack.server.services
    await services.log_ins.clean()
    assert (await services.keys._database.read(_counts))[0] == 4
    market.stack.clock.advance(24 * 3600 + 1)
    await services.log_ins.clean()
    assert (await services.keys._database.read(_counts))[0] == 1
    assert await mine.status("renter") == 200


def _counts() -> tuple[int, int]:
    from server.store.models import ApiKey, LogInCode

    return ApiKey.select().where(ApiKey.is_log_in).count(), LogInCode.select().count()


async def test_market_without_mail_says_how_to_log_in(sqlite_url: str, tmp_path: Path) -> None:
    async with running_stack(tmp_path, None, True, DCP_DATABASE_URL=sqlite_url) as stack:
        answer = await Browser(stack.http).ask("renter")
        assert (answer.status_code, answer.json()["code"]) == (409, "MAIL_OFF")
        assert "key" in answer.json()["error"]


async def test_log_ins_by_key_are_bounded_as_registrations_are(sqlite_url: str, tmp_path: Path) -> None:
    async with running_stack(
        tmp_path, None, True, DCP_DATABASE_URL=sqlite_url, DCP_LIMIT_REGISTRATIONS="3"
    ) as stack:
        _, key = await stack.register("renter", SARA)
        answers = [await Browser(stack.http).post("/api/log-in", {"api_key": key}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


@pytest.mark.parametrize("role", ROLES)
async def test_new_main_key_needs_the_present_one(market: MailingStack, role: str) -> None:
    """Or whoever reads the account's mail would have one without the delay of lost keys."""
    mine, _, _ = await logged_in(market, role)
    answer = await mine.post(f"/api/{role}s/keys/rotate", {"grace_seconds": 0})
    assert (answer.status_code, answer.json()["code"]) == (403, "MAIN_KEY_NEEDED")
    assert "lost-key" in answer.json()["error"]
