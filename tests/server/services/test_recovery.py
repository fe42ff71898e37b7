"""Lost keys, through the gateway and a real mail server, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.mailing_stack import DAY_SECONDS, MailingStack, mailing_stack
from tests.support.webhook_receiver import receiving
from tests.support.whole_stack import ADMIN, Stack, running_stack

ROLES = ("provider", "renter")
SARA = "sara@gmail.com"
WRONG = "a" * 26


@pytest.fixture
async def market(database_url: str, tmp_path: Path) -> AsyncIterator[MailingStack]:
    settings = {"DCP_WEBHOOKS_ALLOW_PRIVATE": "true", "DCP_LIMIT_REGISTRATIONS": "0"}
    async with mailing_stack(tmp_path, database_url, **settings) as market:
        yield market


@pytest.fixture
async def mute(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """A market that sends no mail."""
    async with running_stack(tmp_path, None, True, DCP_DATABASE_URL=sqlite_url) as stack:
        yield stack


async def report(market: MailingStack, role: str, email: str = SARA) -> httpx.Response:
    return await market.post("/api/accounts/lost-key", {"email": email, "role": role})


async def redeem(market: MailingStack, code: str) -> httpx.Response:
    return await market.post("/api/accounts/lost-key/redeem", {"code": code})


async def works(market: MailingStack, role: str, key: str) -> bool:
    answer = await market.stack.http.get(f"/api/{role}s/me", headers={"authorization": f"Bearer {key}"})
    return answer.status_code == 200


async def begun(market: MailingStack, role: str) -> tuple[int, str, str]:
    """An account whose code was sent once: its id, its key and the code."""
    account_id, key = await market.proven(role, SARA)
    await report(market, role)
    code = await market.code(SARA)
    answer = await redeem(market, code)
    assert (answer.status_code, "api_key" in answer.json()) == (200, False), answer.text
    return account_id, key, code


async def actions(market: MailingStack, role: str, account_id: int) -> list[tuple[str, str]]:
    path = f"/api/admin/audit?object={role}&object_id={account_id}"
    entries = (await market.stack.get(path, ADMIN))["entries"]
    return [(entry["actor"], entry["action"]) for entry in entries]


@pytest.mark.parametrize("role", ROLES)
async def test_code_gives_a_new_key_once_and_only_after_the_delay(market: MailingStack, role: str) -> None:
    account_id, old, code = await begun(market, role)
    market.stack.clock.advance(DAY_SECONDS - 1)
    early = (await redeem(market, code)).json()
    assert "api_key" not in early
    assert (early["role"], early["account_id"]) == (role, account_id)
    assert await works(market, role, old)
    market.stack.clock.advance(1)
    assert await works(market, role, old)  # until the new key is there
    answer = (await redeem(market, code)).json()
    assert answer["ready_at"] == early["ready_at"]
    assert await works(market, role, answer["api_key"])
    assert not await works(market, role, old)
    again = await redeem(market, code)
    assert (again.status_code, again.json()["code"]) == (403, "WRONG_CODE")
    assert await actions(market, role, account_id) == [
        ("owner", f"{role}.replace_key"),
        ("owner", f"{role}.redeem_code"),
    ]


async def test_renter_sees_the_old_key_revoked_and_keeps_its_sub_keys(market: MailingStack) -> None:
    _, old, code = await begun(market, "renter")
    created = await market.post("/api/renters/keys", {"name": "n", "scopes": ["read"]}, old)
    rotated = await market.post("/api/renters/keys/rotate", {}, old)  # the first key is in its grace period
    market.stack.clock.advance(DAY_SECONDS - 60)
    assert "api_key" not in (await redeem(market, code)).json()
    market.stack.clock.advance(60)
    new = (await redeem(market, code)).json()["api_key"]
    assert not await works(market, "renter", rotated.json()["api_key"])
    assert await works(market, "renter", created.json()["api_key"])
    keys = (await market.stack.get("/api/renters/keys", {"authorization": f"Bearer {new}"}))["keys"]
    assert [(key["main"], "revoked_at" in key) for key in keys] == [
        (True, False),
        (True, True),
        (False, False),
        (True, True),
    ]


@pytest.mark.parametrize("role", ROLES)
async def test_present_key_cancels(market: MailingStack, role: str) -> None:
    account_id, key, code = await begun(market, role)
    answer = await market.post("/api/accounts/lost-key/cancel", {}, key)
    assert answer.json() == {"success": True, "cancelled": True}
    market.stack.clock.advance(DAY_SECONDS)
    assert (await redeem(market, code)).json()["code"] == "WRONG_CODE"
    assert await works(market, role, key)
    assert (await market.post("/api/accounts/lost-key/cancel", {}, key)).json()["cancelled"] is False
    assert (await actions(market, role, account_id))[0] == ("owner", f"{role}.keep_key")


async def test_sub_key_cannot_cancel(market: MailingStack) -> None:
    _, key, _ = await begun(market, "renter")
    created = await market.post("/api/renters/keys", {"name": "n", "scopes": ["read"]}, key)
    refused = await market.post("/api/accounts/lost-key/cancel", {}, created.json()["api_key"])
    assert (refused.status_code, refused.json()["code"]) == (403, "MAIN_KEY_NEEDED")


@pytest.mark.parametrize("role", ROLES)
async def test_code_used_many_times_at_once_gives_one_key(market: MailingStack, role: str) -> None:
    _, _, code = await begun(market, role)
    market.stack.clock.advance(DAY_SECONDS)
    answers = await asyncio.gather(*(redeem(market, code) for _ in range(6)))
    keys = [answer.json()["api_key"] for answer in answers if answer.status_code == 200]
    assert len(keys) == 1
    assert await works(market, role, keys[0])


async def test_code_against_a_cancel_at_once_has_one_winner(market: MailingStack) -> None:
    _, old, code = await begun(market, "renter")
    market.stack.clock.advance(DAY_SECONDS)
    redeemed, cancelled = await asyncio.gather(
        redeem(market, code), market.post("/api/accounts/lost-key/cancel", {}, old)
    )
    is_replaced = redeemed.status_code == 200
    assert await works(market, "renter", old) is not is_replaced
    assert (cancelled.status_code == 200 and cancelled.json()["cancelled"]) is not is_replaced


@pytest.mark.parametrize("role", ROLES)
async def test_answer_does_not_tell_who_has_an_account(market: MailingStack, role: str) -> None:
    await market.proven(role, SARA)
    await market.stack.register(role, "unproven@example.com")
    sent = len(market.mail.letters)
    names = (SARA, "S.ARA+lost@googlemail.com", "unproven@example.com", "nobody@example.com")
    answers = [await report(market, role, name) for name in names]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"success":true}')}
    await market.send()
    new = [recipient for recipient, _ in market.mail.letters[sent:]]
    assert sorted(set(new)) == [SARA, "unproven@example.com"]
    assert [letter["subject"] for letter in market.mail.to("unproven@example.com")] == [
        "Prove your e-mail address · إثبات بريدك الإلكتروني"
    ]


async def test_mailbox_gets_at_most_three_codes_a_day_and_all_work(market: MailingStack) -> None:
    _, old = await market.proven("renter", SARA)
    await report(market, "renter")
    first = await market.code(SARA)
    for _ in range(5):
        await report(market, "renter")
        await market.send()
    assert len(market.mail.to(SARA)) == 1 + 3
    assert (await redeem(market, first)).status_code == 200
    assert await works(market, "renter", old)


async def test_wrong_code_is_refused_and_guesses_are_limited(database_url: str, tmp_path: Path) -> None:
    async with mailing_stack(tmp_path, database_url, DCP_LIMIT_REGISTRATIONS="5") as market:
        await market.proven("renter", SARA)
        codes = [(await redeem(market, WRONG)).json()["code"] for _ in range(6)]
        assert codes == ["WRONG_CODE"] * 4 + ["RATE_LIMITED"] * 2


async def test_code_ends_after_a_day_and_its_key_a_week_after_the_delay(market: MailingStack) -> None:
    await market.proven("renter", SARA)
    await report(market, "renter")
    late = await market.code(SARA)
    market.stack.clock.advance(DAY_SECONDS)
    assert (await redeem(market, late)).json()["code"] == "WRONG_CODE"
    await report(market, "renter")
    code = await market.code(SARA)
    assert (await redeem(market, code)).status_code == 200
    market.stack.clock.advance(8 * DAY_SECONDS)
    assert (await redeem(market, code)).json()["code"] == "WRONG_CODE"


async def test_owner_is_informed_by_mail_and_webhook(market: MailingStack) -> None:
    _, key = await market.proven("renter", SARA)
    async with receiving() as receiver:
        response = await market.post("/api/renters/webhook", {"url": receiver.url}, key)
        assert response.is_success, response.text
        await report(market, "renter")
        ready_at = (await redeem(market, await market.code(SARA))).json()["ready_at"]
        await market.stack.server.services.deliveries.tick()
        await market.stack.server.services.deliveries.settled()
        (event,) = receiver.received
    assert event.headers["dcp-event"] == "key.recovery_started"
    assert f'"data":{{"ready_at":"{ready_at}"}}'.encode() in event.body
    notice = (await market.letters(SARA))[-1].get_content()
    assert "POST https://market.example/api/accounts/lost-key/cancel" in notice
    assert f"From {ready_at[:10]} {ready_at[11:16]} UTC on" in notice.replace("\r\n", " ")


@pytest.mark.parametrize("role", ROLES)
async def test_operator_starts_it_and_the_code_goes_to_the_owner(market: MailingStack, role: str) -> None:
    account_id, old = await market.proven(role, SARA)
    path = f"/api/admin/{role}s/{account_id}/recover-key"
    answer = await market.stack.post(path, {"reason": "called"}, **ADMIN)
    assert answer == {"success": True, f"{role}_id": account_id}
    code = await market.code(SARA)
    await redeem(market, code)
    market.stack.clock.advance(DAY_SECONDS)
    assert await works(market, role, (await redeem(market, code)).json()["api_key"])
    assert not await works(market, role, old)
    assert ("admin", f"{role}.recover_key") in await actions(market, role, account_id)


async def test_operator_reaches_the_owner_also_when_strangers_used_up_the_letters(
    market: MailingStack,
) -> None:
    renter_id, _ = await market.proven("renter", SARA)
    for _ in range(4):
        await report(market, "renter")
    await market.send()
    sent = len(market.mail.to(SARA))
    await market.stack.post(f"/api/admin/renters/{renter_id}/recover-key", {"reason": "r"}, **ADMIN)
    assert len(await market.letters(SARA)) == sent + 1


@pytest.mark.parametrize("role", ROLES)
async def test_without_mail_only_the_operator_starts_it(mute: Stack, role: str) -> None:
    account_id, old = await mute.register(role, SARA)
    refused = await mute.http.post("/api/accounts/lost-key", json={"email": SARA, "role": role})
    assert (refused.status_code, refused.json()["code"]) == (409, "MAIL_OFF")
    assert "ask the marketplace's operator" in refused.json()["error"]
    path = f"/api/admin/{role}s/{account_id}/recover-key"
    code = (await mute.post(path, {"reason": "called"}, **ADMIN))["code"]
    assert code != (await mute.post(path, {"reason": "called"}, **ADMIN))["code"]
    first = await mute.post("/api/accounts/lost-key/redeem", {"code": f" {code.upper()} "})
    assert "api_key" not in first
    mute.clock.advance(DAY_SECONDS)
    new = (await mute.post("/api/accounts/lost-key/redeem", {"code": code}))["api_key"]
    assert (await mute.get(f"/api/{role}s/me", {"authorization": f"Bearer {new}"}))[role]["id"] == account_id
    entries = str(await mute.get(f"/api/admin/audit?object={role}", ADMIN))
    assert [secret for secret in (code, new, old) if secret in entries] == []


async def test_operator_cannot_recover_what_is_not_there(mute: Stack) -> None:
    _, key = await mute.register("renter", SARA)
    await mute.post("/api/renters/delete", {"email": SARA}, authorization=f"Bearer {key}")
    for path, reason in (
        ("renters/1", "RENTER_DELETED"),
        ("renters/9", "RENTER_NOT_FOUND"),
        ("providers/9", "PROVIDER_NOT_FOUND"),
    ):
        refused = await mute.http.post(f"/api/admin/{path}/recover-key", json={"reason": "r"}, headers=ADMIN)
        assert refused.json()["code"] == reason


async def test_delay_of_zero_gives_the_key_at_once(sqlite_url: str, tmp_path: Path) -> None:
    async with mailing_stack(tmp_path, sqlite_url, DCP_RECOVERY_HOURS="0") as market:
        _, old = await market.proven("renter", SARA)
        await report(market, "renter")
        new = (await redeem(market, await market.code(SARA))).json()["api_key"]
        assert await works(market, "renter", new)
        assert not await works(market, "renter", old)
