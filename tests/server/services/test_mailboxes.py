"""Whose an account is: proofs by mail, registrations that tell nobody who is a customer, and lost keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, mailboxes_pb2, providers_pb2, renters_pb2, withdrawals_pb2

from server.domain.mails import GIVE_UP_MS, MailTerms
from server.store.models import Mail, MailedCode, Renter
from tests.support import running_server
from tests.support.mail_server import MailServer, mail_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, bearer, refusal

HOUR = 3600.0
DAY = 24 * HOUR
OWNER = "owner@example.com"
RENTER, PROVIDER = mailboxes_pb2.ACCOUNT_ROLE_RENTER, mailboxes_pb2.ACCOUNT_ROLE_PROVIDER


@pytest.fixture
async def post() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def mailing(database_url: str, clock: ManualClock, post: MailServer) -> AsyncIterator[Market]:
    """A running server on each kind of database that sends mail."""
    terms = MailTerms(post.url, "Market <no-reply@example.com>", "https://market.example")
    async with running_server.running(database_url, clock, mail=terms, sandbox_topup=True) as market:
        yield market


async def register(market: Market, email: str = OWNER, role: str = "renter") -> Party:
    if role == "renter":
        made: Any = await market.renter_service.RegisterRenter(
            renters_pb2.RegisterRenterRequest(name="R", email=email)
        )
        return Party(made.renter_id, made.api_key)
    made = await market.provider_service.RegisterProvider(
        providers_pb2.RegisterProviderRequest(name="P", email=email)
    )
    return Party(made.provider_id, made.api_key)


async def send_mail(market: Market) -> None:
    await market.server.services.mails.tick()


async def prove(market: Market, code: str) -> Any:
    return await market.mailbox_service.ProveMailbox(mailboxes_pb2.ProveMailboxRequest(code=code))


async def ask(market: Market, email: str = OWNER, role: Any = RENTER) -> Any:
    request = mailboxes_pb2.StartKeyRecoveryRequest(role=role, email=email)
    return await market.mailbox_service.StartKeyRecovery(request)


async def redeem(market: Market, code: str) -> str:
    request = mailboxes_pb2.RedeemKeyRecoveryRequest(code=code)
    return (await market.mailbox_service.RedeemKeyRecovery(request)).api_key


async def top_up(market: Market, who: Party) -> int:
    request = renters_pb2.TopUpOwnWalletRequest(amount_halala=500)
    return (await market.renter_service.TopUpOwnWallet(request, metadata=who.metadata)).balance_halala


async def proven(market: Market, post: MailServer, email: str = OWNER, role: str = "renter") -> Party:
    party = await register(market, email, role)
    await send_mail(market)
    await prove(market, post.code(email))
    return party


async def works(market: Market, key: str, role: str = "renter") -> bool:
    call: Any = (
        market.renter_service.GetOwnRenter(renters_pb2.GetOwnRenterRequest(), metadata=bearer(key))
        if role == "renter"
        else market.provider_service.GetOwnProvider(
            providers_pb2.GetOwnProviderRequest(), metadata=bearer(key)
        )
    )
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


async def test_a_new_account_can_spend_nothing_until_its_mailbox_is_proven(
    mailing: Market, post: MailServer
) -> None:
    market = mailing
    provider = await register(market, "p@example.com", "provider")
    renter = await register(market)
    for call in (
        top_up(market, renter),
        market.submit(renter, provider),
        market.withdrawal_service.RequestWithdrawal(
            withdrawals_pb2.RequestWithdrawalRequest(amount_halala=1000, iban="SA0380000000608010167519"),
            metadata=provider.metadata,
        ),
    ):
        refused = await refusal(call)
        assert (refused.reason, refused.facts.advice) == ("EMAIL_NOT_PROVEN", "POST /api/mailbox/proof")
    await send_mail(market)
    answer = await prove(market, post.code(OWNER))
    assert (answer.role, answer.account_id) == (RENTER, renter.id)
    assert await top_up(market, renter) == 500
    assert (await prove(market, post.code("p@example.com"))).role == PROVIDER
    assert await market.sql(lambda: [row.email_key for row in Renter.select()]) == [OWNER]


async def test_without_mail_an_account_needs_no_proof_and_a_lost_key_is_the_operators(market: Market) -> None:
    await register(market)
    assert (await refusal(register(market))).reason == "EMAIL_TAKEN"
    refused = await refusal(ask(market))
    assert refused.reason == "MAIL_NOT_SET_UP"
    assert "operator" in refused.message


async def test_registration_answers_alike_whether_or_not_the_mailbox_has_an_account(
    mailing: Market, post: MailServer
) -> None:
    market = mailing
    first = await proven(market, post)
    post.mails.clear()
    second = await register(market, "OWNER+new@example.com")
    assert second.id > first.id
    assert len(second.metadata) == len(first.metadata)
    await send_mail(market)
    (text,) = post.to("OWNER+new@example.com")
    assert "You have one already" in text
    assert '"code"' not in text
    assert await works(market, second.key)
    assert (await refusal(top_up(market, second))).reason == "EMAIL_NOT_PROVEN"
    assert await top_up(market, first) == 500


async def test_whoever_proves_the_mailbox_first_has_it_and_a_squatter_holds_nothing(
    mailing: Market, post: MailServer
) -> None:
    market = mailing
    squatter = await register(market)
    owner = await register(market)
    await send_mail(market)
    codes = [text.split('"code": "')[1].split('"')[0] for text in post.to(OWNER)]
    assert len(codes) == 2
    assert (await prove(market, codes[1])).account_id == owner.id
    assert (await refusal(prove(market, codes[0]))).reason == "EMAIL_TAKEN"
    assert (await refusal(top_up(market, squatter))).reason == "EMAIL_NOT_PROVEN"


async def test_a_code_works_once_for_a_day_and_for_what_it_was_mailed_for(
    mailing: Market, post: MailServer, clock: ManualClock
) -> None:
    market = mailing
    renter = await register(market)
    await send_mail(market)
    code = post.code(OWNER)
    for wrong in ("x", code[:-1], code + "x", code.swapcase()):
        assert (await refusal(prove(market, wrong))).reason == "CODE_NOT_VALID"
    assert (await refusal(redeem(market, code))).reason == "CODE_NOT_VALID"
    await prove(market, f" {code} ")
    assert (await refusal(prove(market, code))).reason == "CODE_NOT_VALID"
    other = await register(market, "other@example.com")
    await send_mail(market)
    clock.advance(DAY)
    assert (await refusal(prove(market, post.code("other@example.com")))).reason == "CODE_NOT_VALID"
    request = mailboxes_pb2.SendMailboxProofRequest()
    await market.mailbox_service.SendMailboxProof(request, metadata=other.metadata)
    await send_mail(market)
    await prove(market, post.code("other@example.com"))
    refused = await refusal(market.mailbox_service.SendMailboxProof(request, metadata=renter.metadata))
    assert refused.reason == "WRONG_STATE"


async def test_proofs_are_mailed_at_most_once_an_hour(
    mailing: Market, post: MailServer, clock: ManualClock
) -> None:
    market = mailing
    renter = await register(market)
    for _ in range(5):
        request = mailboxes_pb2.SendMailboxProofRequest()
        await market.mailbox_service.SendMailboxProof(request, metadata=renter.metadata)
    await send_mail(market)
    assert len(post.to(OWNER)) == 1
    clock.advance(HOUR)
    await market.mailbox_service.SendMailboxProof(request, metadata=renter.metadata)
    await send_mail(market)
    assert len(post.to(OWNER)) == 2
    await prove(market, post.code(OWNER))


async def test_one_code_given_twice_at_once_is_used_once(mailing: Market, post: MailServer) -> None:
    market = mailing
    await register(market)
    await send_mail(market)
    code = post.code(OWNER)
    answers = await asyncio.gather(*(prove(market, code) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1


@pytest.mark.parametrize("role", ["renter", "provider"])
async def test_a_lost_key_is_replaced_after_a_day_by_a_mailed_code(
    mailing: Market, post: MailServer, clock: ManualClock, role: str
) -> None:
    market, number = mailing, RENTER if role == "renter" else PROVIDER
    party = await proven(market, post, role=role)
    post.mails.clear()
    await ask(market, "OWNER@Example.com", number)
    await send_mail(market)
    code = post.code(OWNER)
    refused = await refusal(redeem(market, code))
    assert (refused.reason, refused.facts.retry_after_seconds) == ("WRONG_STATE", DAY)
    assert await works(market, party.key, role)
    clock.advance(DAY)
    key = await redeem(market, code)
    assert await works(market, key, role)
    assert not await works(market, party.key, role)
    assert (await refusal(redeem(market, code))).reason == "CODE_NOT_VALID"
    await send_mail(market)
    assert "was replaced" in post.to(OWNER)[-1]


async def test_the_holder_of_the_key_can_stop_a_recovery(
    mailing: Market, post: MailServer, clock: ManualClock
) -> None:
    market = mailing
    party = await proven(market, post)
    await ask(market)
    await send_mail(market)
    own = renters_pb2.GetOwnRenterRequest()
    seen = (await market.renter_service.GetOwnRenter(own, metadata=party.metadata)).renter
    assert seen.key_recovery_from.ToMilliseconds() == round((clock.now() + DAY) * 1000)
    request = mailboxes_pb2.CancelKeyRecoveryRequest()
    answers = [
        (await market.mailbox_service.CancelKeyRecovery(request, metadata=party.metadata)).was_stopped
        for _ in range(2)
    ]
    assert answers == [True, False]
    seen = (await market.renter_service.GetOwnRenter(own, metadata=party.metadata)).renter
    assert not seen.HasField("key_recovery_from")
    clock.advance(2 * DAY)
    assert (await refusal(redeem(market, post.code(OWNER)))).reason == "CODE_NOT_VALID"


async def test_asking_again_delays_nothing_and_mails_at_most_once_an_hour(
    mailing: Market, post: MailServer, clock: ManualClock
) -> None:
    """Whoever knows an address can neither flood it nor push the owner's own recovery back."""
    market = mailing
    await proven(market, post)
    post.mails.clear()
    for _ in range(30):
        await ask(market)
        await send_mail(market)
        clock.advance(0.7 * HOUR)
    assert 10 < len(post.to(OWNER)) <= 21
    clock.advance(DAY - 30 * 0.7 * HOUR)
    await redeem(market, post.code(OWNER))


async def test_asking_for_an_unknown_suspended_or_unproven_account_answers_alike_and_mails_nothing(
    mailing: Market, post: MailServer
) -> None:
    market = mailing
    known = await proven(market, post)
    await register(market, "unproven@example.com")
    await market.set_renter(known, state="suspended")
    await send_mail(market)
    post.mails.clear()
    answers = [await ask(market, email) for email in (OWNER, "nobody@example.com", "unproven@example.com")]
    assert {answer.SerializeToString() for answer in answers} == {answers[0].SerializeToString()}
    await send_mail(market)
    assert post.mails == []


async def test_an_operator_recovers_a_key_where_no_mail_is_sent(market: Market, clock: ManualClock) -> None:
    renter = await register(market)
    begun = await market.mailbox_service.RecoverRenterKey(
        mailboxes_pb2.RecoverRenterKeyRequest(renter_id=renter.id, reason="Called."),
        metadata=market.admin_metadata,
    )
    assert begun.works_from.ToMilliseconds() == round((clock.now() + DAY) * 1000)
    assert (await refusal(redeem(market, begun.code))).reason == "WRONG_STATE"
    clock.advance(DAY)
    assert await works(market, await redeem(market, begun.code))
    assert not await works(market, renter.key)
    entries = await market.admin_service.ListAuditEntries(
        admin_pb2.ListAuditEntriesRequest(), metadata=market.admin_metadata
    )
    assert [entry.action for entry in entries.entries] == ["renter.recover_key"]
    assert begun.code not in str(entries)
    unknown = mailboxes_pb2.RecoverProviderKeyRequest(provider_id=9, reason="r")
    refused = await refusal(
        market.mailbox_service.RecoverProviderKey(unknown, metadata=market.admin_metadata)
    )
    assert refused.reason == "PROVIDER_NOT_FOUND"


async def test_an_operators_recovery_is_mailed_where_mail_is_sent(mailing: Market, post: MailServer) -> None:
    market = mailing
    provider = await proven(market, post, role="provider")
    post.mails.clear()
    begun = await market.mailbox_service.RecoverProviderKey(
        mailboxes_pb2.RecoverProviderKeyRequest(provider_id=provider.id, reason="r"),
        metadata=market.admin_metadata,
    )
    assert not begun.HasField("code")
    await send_mail(market)
    assert post.code(OWNER)


async def test_mail_that_cannot_be_sent_now_is_tried_again_and_given_up_in_the_end(
    mailing: Market, post: MailServer, clock: ManualClock
) -> None:
    market = mailing
    await register(market)
    post.answer = "451 try again later"
    await send_mail(market)
    assert await market.sql(lambda: [row.attempts for row in Mail.select()]) == [1]
    post.answer = "250 OK"
    await send_mail(market)
    assert post.mails == []  # it is not due
    clock.advance(60)
    await send_mail(market)
    assert len(post.to(OWNER)) == 1
    assert await market.sql(Mail.select().count) == 0
    await register(market, "b@example.com")
    post.answer = "451 try again later"
    for _ in range(40):
        await send_mail(market)
        clock.advance(GIVE_UP_MS / 1000 / 20)
    assert await market.sql(Mail.select().count) == 0
    await register(market, "c@example.com")
    post.recipient_answer = "550 no such mailbox"
    await send_mail(market)
    assert await market.sql(Mail.select().count) == 0


async def test_codes_are_stored_as_digests_and_removed_when_they_end(
    mailing: Market, post: MailServer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    market = mailing
    await register(market)
    await send_mail(market)
    code = post.code(OWNER)
    rows = await market.sql(lambda: [bytes(row.sha256) for row in MailedCode.select()])
    assert len(rows) == 1
    assert code.encode() not in rows[0]
    assert code not in caplog.text
    clock.advance(DAY)
    await send_mail(market)
    assert await market.sql(MailedCode.select().count) == 0


async def test_a_mail_server_that_is_away_delays_no_caller(
    database_url: str, clock: ManualClock, post: MailServer
) -> None:
    terms = MailTerms("smtp://127.0.0.1:1", "m@example.com", "https://market.example")
    async with running_server.running(database_url, clock, mail=terms) as market:
        await register(market)
        await send_mail(market)
        assert await market.sql(lambda: [row.attempts for row in Mail.select()]) == [1]
