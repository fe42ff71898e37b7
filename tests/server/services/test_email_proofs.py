"""Proofs of e-mail addresses, through the gateway and a real mail server, on both databases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.domain.mailboxes import MAX_CODES_A_DAY, MAX_GUESSES
from server.store.models import EmailCode, Letter
from tests.support.mailing_stack import DAY_SECONDS, MailingStack, mailing_stack
from tests.support.whole_stack import ADMIN, Stack, running_stack

ROLES = ("provider", "renter")
SARA = "sara@gmail.com"
WRONG = "a" * 26
JOB = {"job_type": "llm-inference", "duration_minutes": 3, "params": {"model": "m", "prompt": "hello"}}
IBAN = "SA0380000000608010167519"
WITHDRAWAL = {"amount_halala": 1000, "iban": IBAN}


@pytest.fixture
async def market(database_url: str, tmp_path: Path) -> AsyncIterator[MailingStack]:
    async with mailing_stack(tmp_path, database_url) as market:
        yield market


async def sql(market: MailingStack, work: Any) -> Any:
    return await market.stack.server._database.run(work)


def shape(answer: Any) -> tuple[int, list[str]]:
    """What of a response to a registration does not name the new account."""
    return answer.status_code, sorted(answer.json())


@pytest.mark.parametrize("role", ROLES)
async def test_mailed_code_proves_the_address(market: MailingStack, role: str) -> None:
    _, key = await market.stack.register(role, SARA)
    assert (await market.profile(role, key))["email_verified"] is False
    (letter,) = await market.letters(SARA)
    assert f"a {role} account at https://market.example" in letter.get_content().replace("\r\n", " ")
    answer = await market.verify(key, await market.code(SARA))
    assert (answer.status_code, answer.json()) == (200, {"success": True, "email_verified": True})
    assert (await market.profile(role, key))["email_verified"] is True
    again = await market.verify(key, WRONG)  # nothing is left to prove
    assert again.status_code == 200


async def test_renter_without_proof_can_read_and_neither_submit_nor_top_up(market: MailingStack) -> None:
    _, key = await market.stack.register("renter", SARA)
    for path, body in (("/api/jobs/submit", JOB), ("/api/renters/topup", {"amount_halala": 500})):
        refused = await market.post(path, body, key)
        assert (refused.status_code, refused.json()["code"]) == (403, "EMAIL_NOT_VERIFIED")
        assert "/api/accounts/verify-email" in refused.json()["error"]
    assert (await market.profile("renter", key))["must_prove_email"] is True
    await market.verify(key, await market.code(SARA))
    profile = await market.profile("renter", key)
    assert (profile["must_prove_email"], profile["can_top_up"]) == (False, True)
    assert (await market.post("/api/renters/topup", {"amount_halala": 500}, key)).status_code == 200
    submitted = await market.post("/api/jobs/submit", JOB | {"wait_for_supply": True}, key)
    assert submitted.status_code == 201, submitted.text


async def test_provider_without_proof_cannot_withdraw(market: MailingStack) -> None:
    _, key = await market.stack.register("provider", SARA)
    refused = await market.post("/api/providers/withdrawals", WITHDRAWAL, key)
    assert (refused.status_code, refused.json()["code"]) == (403, "EMAIL_NOT_VERIFIED")
    await market.verify(key, await market.code(SARA))
    refused = await market.post("/api/providers/withdrawals", WITHDRAWAL, key)
    assert refused.json()["code"] == "EARNINGS_TOO_LOW"


@pytest.mark.parametrize("role", ROLES)
async def test_registration_does_not_tell_who_has_an_account(market: MailingStack, role: str) -> None:
    await market.proven(role, SARA)
    path, body = f"/api/{role}s/register", {"name": "N", "email": "Sara+2@googlemail.com"}
    known = await market.post(path, body)
    unknown = await market.post(path, body | {"email": "omar@gmail.com"})
    assert shape(known) == shape(unknown) == (201, ["api_key", f"{role}_id", "success"])
    newest = (await market.letters(SARA))[-1]
    assert "Somebody tried to register" in newest["subject"]
    assert await market.letters("Sara+2@googlemail.com") == []
    keys = [answer.json()["api_key"] for answer in (known, unknown)]
    assert [await market.profile(role, key) for key in keys] != []
    resent = [await market.post("/api/accounts/verify-email/resend", {}, key) for key in keys]
    assert resent[0].json() == resent[1].json() == {"success": True, "email_verified": False}
    guesses = [await market.verify(key, WRONG) for key in keys]
    assert [guess.status_code for guess in guesses] == [403, 403]
    assert guesses[0].json() == guesses[1].json()


@pytest.mark.parametrize("role", ROLES)
async def test_account_without_proof_keeps_no_address_from_its_owner(market: MailingStack, role: str) -> None:
    _, squatter = await market.stack.register(role, SARA)
    first = await market.code(SARA)
    _, owner = await market.stack.register(role, SARA)
    second = await market.code(SARA)
    assert (await market.verify(squatter, second)).json()["code"] == "WRONG_CODE"  # it is of another account
    assert (await market.verify(owner, second)).status_code == 200
    refused = await market.verify(squatter, first)
    assert (refused.status_code, refused.json()["code"]) == (409, "EMAIL_TAKEN")
    assert (await market.profile(role, squatter))["email_verified"] is False


async def test_only_one_of_two_simultaneous_proofs_gets_the_mailbox(market: MailingStack) -> None:
    keys, codes = [], []
    for email in (SARA, "s.ara@gmail.com", "sara+x@gmail.com"):
        keys.append((await market.stack.register("renter", email))[1])
        codes.append(await market.code(email))
    answers = await asyncio.gather(*map(market.verify, keys, codes))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]


async def test_guesses_are_bounded(market: MailingStack) -> None:
    _, key = await market.stack.register("renter", SARA)
    code = await market.code(SARA)
    for _ in range(MAX_GUESSES):
        assert (await market.verify(key, WRONG)).json()["code"] == "WRONG_CODE"
    assert (await market.verify(key, code)).json()["code"] == "WRONG_CODE"
    assert (await market.post("/api/accounts/verify-email/resend", {}, key)).status_code == 200
    assert (await market.verify(key, await market.code(SARA))).status_code == 200


async def test_code_ends_after_a_day_and_another_can_be_had(market: MailingStack) -> None:
    _, key = await market.stack.register("renter", SARA)
    code = await market.code(SARA)
    market.stack.clock.advance(DAY_SECONDS)
    assert (await market.verify(key, code)).json()["code"] == "WRONG_CODE"
    await market.post("/api/accounts/verify-email/resend", {}, key)
    assert (await market.verify(key, await market.code(SARA))).status_code == 200


async def test_codes_of_a_day_are_bounded(market: MailingStack) -> None:
    _, key = await market.stack.register("renter", SARA)
    for _ in range(MAX_CODES_A_DAY - 1):
        assert (await market.post("/api/accounts/verify-email/resend", {}, key)).status_code == 200
    refused = await market.post("/api/accounts/verify-email/resend", {}, key)
    assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
    assert int(refused.headers["retry-after"]) > 0
    for _ in range(2):  # eight a tick
        await market.send()
    assert len(market.mail.to(SARA)) == MAX_CODES_A_DAY


async def test_mailbox_gets_few_letters_however_many_register_it(market: MailingStack) -> None:
    for number in range(12):
        await market.stack.register("renter", f"sara+{number}@gmail.com")
    for _ in range(3):
        await market.send()
    assert len(market.mail.letters) == 10


async def test_suspended_owner_does_not_come_back_by_a_proof(market: MailingStack) -> None:
    for role in ROLES:
        account_id, _ = await market.proven(role, SARA)
        await market.stack.post(f"/api/admin/{role}s/{account_id}/suspend", {"reason": "fraud"}, **ADMIN)
        _, key = await market.stack.register(role, "SARA+new@gmail.com")
        assert await market.letters("SARA+new@gmail.com") == []
        assert (await market.profile(role, key))["email_verified"] is False


async def test_owner_of_a_deleted_suspended_account_gets_no_code(market: MailingStack) -> None:
    renter_id, key = await market.proven("renter", SARA)
    await market.stack.post(f"/api/admin/renters/{renter_id}/suspend", {"reason": "fraud"}, **ADMIN)
    await market.stack.post("/api/renters/delete", {"email": SARA}, authorization=f"Bearer {key}")
    sent = len(market.mail.letters)
    await market.stack.register("renter", SARA)
    assert len(await market.letters(SARA)) == sent


async def test_letter_is_tried_again_until_the_mail_server_takes_it(market: MailingStack) -> None:
    market.mail.answer = "451 later"
    _, key = await market.stack.register("renter", SARA)
    await market.send()
    await market.send()  # it is not due yet
    assert (market.mail.attempts, market.mail.letters) == (1, [])
    market.mail.answer = "250 OK"
    market.stack.clock.advance(10)
    assert (await market.verify(key, await market.code(SARA))).status_code == 200
    await market.send()
    assert market.mail.attempts == 2


async def test_letter_that_is_refused_for_good_or_for_hours_is_given_up(market: MailingStack) -> None:
    market.mail.recipients = "550 no such mailbox"
    await market.stack.register("renter", SARA)
    await market.send()
    market.mail.recipients, market.mail.answer = "250 OK", "451 later"
    await market.stack.register("renter", "omar@gmail.com")
    for _ in range(40):
        await market.send()
        market.stack.clock.advance(1800)
    rows = await sql(market, lambda: list(Letter.select(Letter.status, Letter.attempts).tuples()))
    assert [status for status, _ in rows] == ["failed", "failed"]
    assert (rows[0][1], 10 < rows[1][1] < 20) == (1, True)


async def test_two_servers_send_a_letter_once(market: MailingStack) -> None:
    for number in range(6):
        await market.stack.register("renter", f"r{number}@example.com")
    await asyncio.gather(*(market.send() for _ in range(4)))
    recipients = [recipient for recipient, _ in market.mail.letters]
    assert sorted(recipients) == sorted(set(recipients))
    assert len(recipients) == 6


async def test_codes_and_addresses_reach_neither_the_database_in_plain_text_nor_the_log(
    market: MailingStack, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, key = await market.stack.register("renter", SARA)
        code = await market.code(SARA)
        await market.verify(key, code)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("server", "gateway"))]
    assert any("sent a letter" in line for line in ours)
    assert [line for line in ours if code in line or SARA in line] == []
    rows = await sql(market, lambda: [*EmailCode.select().dicts(), *Letter.select().dicts()])
    assert code not in str(rows)


async def test_old_letters_and_codes_are_removed(market: MailingStack) -> None:
    await market.stack.register("renter", SARA)
    await market.send()
    count = lambda: (Letter.select().count(), EmailCode.select().count())  # noqa: E731
    market.stack.clock.advance(2 * DAY_SECONDS + 1)
    await market.stack.server.services.mailer.clean()
    assert await sql(market, count) == (0, 1)
    market.stack.clock.advance(30 * DAY_SECONDS)
    await market.stack.server.services.mailer.clean()
    assert await sql(market, count) == (0, 0)


@pytest.fixture
async def mute(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """A market that sends no mail."""
    settings = {"DCP_DATABASE_URL": sqlite_url, "DCP_SANDBOX_TOPUP": "true"}
    async with running_stack(tmp_path, None, True, prove=True, **settings) as stack:
        yield stack


async def test_market_without_mail_needs_no_proof(mute: Stack) -> None:
    _, key = await mute.register("renter", SARA)
    headers = {"authorization": f"Bearer {key}"}
    await mute.post("/api/renters/topup", {"amount_halala": 500}, **headers)
    for path, body in (("verify-email", {"code": WRONG}), ("verify-email/resend", {})):
        refused = await mute.http.post(f"/api/accounts/{path}", json=body, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (409, "MAIL_OFF")


async def test_server_says_at_its_start_that_it_sends_no_mail(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with running_stack(tmp_path, None, True, DCP_DATABASE_URL=sqlite_url):
            pass
    assert "accounts need no proof of their e-mail addresses" in caplog.text


async def test_account_of_the_time_before_mail_proves_its_address(database_url: str, tmp_path: Path) -> None:
    async with running_stack(tmp_path, None, True, DCP_DATABASE_URL=database_url) as stack:
        _, old = await stack.register("renter", SARA)
        profile = (await stack.get("/api/renters/me", {"x-renter-key": old}))["renter"]
        assert (profile["must_prove_email"], profile["can_top_up"]) == (False, False)
    (tmp_path / "later").mkdir()
    async with mailing_stack(tmp_path / "later", database_url) as market:
        refused = await market.post("/api/renters/topup", {"amount_halala": 500}, old)
        assert refused.json()["code"] == "EMAIL_NOT_VERIFIED"
        await market.post("/api/accounts/verify-email/resend", {}, old)
        assert (await market.verify(old, await market.code(SARA))).status_code == 200
