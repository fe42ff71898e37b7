"""Withdrawals through the whole server: the money, the states, and everybody who acts at once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, providers_pb2, sessions_pb2
from dcp.v1 import withdrawals_pb2 as pb

from server.domain import ledger as rules
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.store import ledger
from server.store.models import Withdrawal as WithdrawalRow
from server.store.proof import prove
from tests.support.running_server import Market, Party, read_refusal, refusal

IBAN = "SA0380000000608010167519"


async def earn(market: Market, provider: Party, halala: int) -> None:
    """Earnings from nowhere: how they come from jobs is tested elsewhere."""
    transfer = Transfer(TransferKind.PAYOUT, EXTERNAL, rules.provider(provider.id), halala)
    await market.sql(lambda: ledger.apply([transfer], 0))


async def rich_provider(market: Market, halala: int = 5000) -> Party:
    provider = await market.provider()
    await earn(market, provider, halala)
    return provider


async def ask(market: Market, provider: Party, halala: int = 2000, iban: str = IBAN) -> Any:
    request = pb.RequestWithdrawalRequest(amount_halala=halala, iban=iban)
    return await market.withdrawal_service.RequestWithdrawal(request, metadata=provider.metadata)


async def process(market: Market, withdrawal_id: int) -> Any:
    request = pb.ProcessWithdrawalRequest(withdrawal_id=withdrawal_id)
    return await market.withdrawal_service.ProcessWithdrawal(request, metadata=market.admin_metadata)


async def pay(market: Market, withdrawal_id: int, reference: str = "BANK-1") -> Any:
    request = pb.PayWithdrawalRequest(withdrawal_id=withdrawal_id, reference=reference)
    return await market.withdrawal_service.PayWithdrawal(request, metadata=market.admin_metadata)


async def reject(market: Market, withdrawal_id: int, reason: str = "no such account") -> Any:
    request = pb.RejectWithdrawalRequest(withdrawal_id=withdrawal_id, reason=reason)
    return await market.withdrawal_service.RejectWithdrawal(request, metadata=market.admin_metadata)


async def listed(market: Market) -> admin_pb2.ListWithdrawalsResponse:
    request = admin_pb2.ListWithdrawalsRequest()
    return await market.admin_service.ListWithdrawals(request, metadata=market.admin_metadata)


async def own(market: Market, provider: Party, **page: int) -> pb.ListOwnWithdrawalsResponse:
    request = pb.ListOwnWithdrawalsRequest(**page)
    return await market.withdrawal_service.ListOwnWithdrawals(request, metadata=provider.metadata)


async def audit(market: Market, **which: Any) -> list[admin_pb2.AuditEntry]:
    request = admin_pb2.ListAuditEntriesRequest(**which)
    answer = await market.admin_service.ListAuditEntries(request, metadata=market.admin_metadata)
    return list(answer.entries)


async def proof(market: Market) -> tuple[int, int]:
    """Open requests and what they reserve, after a clean proof."""
    found = await market.sql(prove)
    assert found.discrepancies == ()
    return found.open_withdrawals, found.open_withdrawals_halala


async def test_request_takes_its_amount_from_what_can_be_withdrawn(any_market: Market) -> None:
    market = any_market
    provider = await rich_provider(market)
    made = await ask(market, provider, 2000, "sa03 8000 0000 6080 1016 7519")
    assert (made.success, made.claimable_halala) == (True, 3000)
    assert made.withdrawal.status == admin_pb2.WITHDRAWAL_STATUS_PENDING
    assert (made.withdrawal.amount_halala, made.withdrawal.iban_last4) == (2000, "7519")
    assert await market.earned(provider) == 3000
    me = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert me.provider.earnings == providers_pb2.Earnings(total_halala=5000, claimable_halala=3000)
    assert await proof(market) == (1, 2000)


async def test_paid_request_ends_with_its_reference(any_market: Market) -> None:
    market = any_market
    provider = await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    assert (await process(market, number)).withdrawal.status == admin_pb2.WITHDRAWAL_STATUS_PROCESSING
    assert await proof(market) == (1, 2000)
    paid = (await pay(market, number, "SARIE-7")).withdrawal
    assert (paid.status, paid.reference) == (admin_pb2.WITHDRAWAL_STATUS_PAID, "SARIE-7")
    assert await market.earned(provider) == 3000
    assert await proof(market) == (0, 0)
    seen = (await own(market, provider)).withdrawals
    assert [(one.id, one.status, one.reference) for one in seen] == [(number, paid.status, "SARIE-7")]
    summary = (await listed(market)).summary
    assert (summary.pending_count, summary.paid_count, summary.paid_halala) == (0, 1, 2000)


@pytest.mark.parametrize("ordered", [False, True])
async def test_rejected_request_returns_its_money(any_market: Market, ordered: bool) -> None:
    market = any_market
    provider = await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    if ordered:
        await process(market, number)
    rejected = (await reject(market, number, "wrong name")).withdrawal
    assert (rejected.status, rejected.reason) == (admin_pb2.WITHDRAWAL_STATUS_REJECTED, "wrong name")
    assert await market.earned(provider) == 5000
    assert await proof(market) == (0, 0)
    await ask(market, provider, 5000)  # the next may be asked for


FINAL = {"paid": pay, "rejected": reject}


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("action", [process, pay, reject])
async def test_ended_request_is_never_moved_again(market: Market, final: str, action: Any) -> None:
    provider = await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    await process(market, number)
    await FINAL[final](market, number)
    before = (await own(market, provider)).withdrawals, await market.earned(provider)
    refused = await refusal(action(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", final)
    assert ((await own(market, provider)).withdrawals, await market.earned(provider)) == before
    assert len(await audit(market, object="withdrawal")) == 2
    await proof(market)


async def test_request_that_waits_cannot_be_paid_and_one_that_is_ordered_not_again(market: Market) -> None:
    provider = await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    refused = await refusal(pay(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "pending")
    await process(market, number)
    refused = await refusal(process(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "processing")


@pytest.mark.parametrize("action", [process, pay, reject])
async def test_unknown_request_is_not_found(market: Market, action: Any) -> None:
    refused = await refusal(action(market, 999))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "WITHDRAWAL_NOT_FOUND")


async def test_provider_has_one_open_request(any_market: Market) -> None:
    market = any_market
    provider, other = await rich_provider(market), await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    assert (await refusal(ask(market, provider))).reason == "WITHDRAWAL_OPEN"
    await ask(market, other)
    await process(market, number)
    assert (await refusal(ask(market, provider))).reason == "WITHDRAWAL_OPEN"
    assert await market.earned(provider) == 3000
    assert await proof(market) == (2, 4000)


async def test_more_than_can_be_withdrawn_is_refused_with_the_facts(any_market: Market) -> None:
    market = any_market
    provider = await rich_provider(market, 1500)
    refused = await refusal(ask(market, provider, 1501))
    assert (refused.reason, refused.facts.balance_halala) == ("EARNINGS_TOO_LOW", 1500)
    assert (refused.facts.required_halala, refused.facts.shortfall_halala) == (1501, 1)
    assert not (await own(market, provider)).withdrawals
    await ask(market, provider, 1500)
    assert await market.earned(provider) == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount_halala": 999, "iban": IBAN}, "amount_halala"),
        ({"amount_halala": 0, "iban": IBAN}, "amount_halala"),
        ({"amount_halala": -1000, "iban": IBAN}, "amount_halala"),
        ({"amount_halala": 1000}, "iban"),
        ({"amount_halala": 1000, "iban": IBAN[:-1] + "8"}, "iban"),
        ({"amount_halala": 1000, "iban": IBAN[:-1]}, "iban"),
        ({"amount_halala": 1000, "iban": "DE89370400440532013000"}, "iban"),
        ({"amount_halala": 1000, "iban": IBAN.replace("0", "٠")}, "iban"),
    ],
)
async def test_request_out_of_its_limits_is_refused(
    market: Market, fields: dict[str, Any], field: str
) -> None:
    provider = await rich_provider(market)
    call = market.withdrawal_service.RequestWithdrawal(
        pb.RequestWithdrawalRequest(**fields), metadata=provider.metadata
    )
    refused = await refusal(call)
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)
    assert IBAN[4:-4] not in refused.message
    assert await market.earned(provider) == 5000


@pytest.mark.parametrize(
    ("state", "reason"),
    [("suspended", "PROVIDER_SUSPENDED"), ("pending_approval", "PROVIDER_NOT_APPROVED")],
)
async def test_provider_that_is_shut_out_cannot_withdraw(market: Market, state: str, reason: str) -> None:
    provider = await rich_provider(market)
    await market.set_provider(provider, state=state)
    assert (await refusal(ask(market, provider))).reason == reason
    assert await market.earned(provider) == 5000


async def test_whole_iban_is_shown_to_the_operator_alone_and_never_logged(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "server")
    provider = await rich_provider(market)
    made = await ask(market, provider)
    number = made.withdrawal.id
    ordered = await process(market, number)
    whole = await market.withdrawal_service.GetWithdrawal(
        pb.GetWithdrawalRequest(withdrawal_id=number), metadata=market.admin_metadata
    )
    assert whole.iban == IBAN
    others = [made, ordered, await own(market, provider), await listed(market)]
    others += [*await audit(market), await pay(market, number)]
    told = " ".join(str(answer) for answer in others) + caplog.text + repr(await market.sql(_stored))
    assert IBAN[:-4] not in told
    assert "7519" in told


def _stored() -> Any:
    from server.store import withdrawals

    return withdrawals.page(0, 1)


async def test_many_requests_at_once_make_one(any_market: Market) -> None:
    market = any_market
    provider = await rich_provider(market, 100_000)
    outcomes = await asyncio.gather(*(ask(market, provider) for _ in range(20)), return_exceptions=True)
    refused = [read_refusal(one) for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert {one.reason for one in refused} == {"WITHDRAWAL_OPEN"}
    assert len(refused) == 19
    assert await market.earned(provider) == 98_000
    assert await proof(market) == (1, 2000)


async def test_operators_who_act_at_once_move_it_once(any_market: Market) -> None:
    market = any_market
    provider = await rich_provider(market)
    number = (await ask(market, provider)).withdrawal.id
    await process(market, number)
    outcomes = await asyncio.gather(
        *(pay(market, number) for _ in range(6)),
        *(reject(market, number) for _ in range(6)),
        return_exceptions=True,
    )
    refused = [read_refusal(one) for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert [one.reason for one in refused] == ["WRONG_STATE"] * 11
    (ended,) = (await own(market, provider)).withdrawals
    paid = ended.status == admin_pb2.WITHDRAWAL_STATUS_PAID
    assert {one.facts.status for one in refused} == {"paid" if paid else "rejected"}
    assert await market.earned(provider) == (3000 if paid else 5000)
    assert await proof(market) == (0, 0)
    assert len(await audit(market, object="withdrawal", object_id=str(number))) == 2


async def test_withdrawal_while_a_job_is_settled_loses_nothing(any_market: Market) -> None:
    """Both change the provider's balance in the same moment."""
    market = any_market
    provider, renter = await rich_provider(market, 1000), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(75)
    await asyncio.gather(
        daemon.finished(lease, seconds=75), *(_quiet(ask(market, provider, 1000)) for _ in range(5))
    )
    assert await market.earned(provider) == 141
    found = await market.sql(prove)
    assert (found.open_withdrawals, found.open_withdrawals_halala) == (1, 1000)
    assert found.discrepancies == ()


async def _quiet(call: Any) -> None:
    await asyncio.gather(call, return_exceptions=True)


async def test_own_requests_come_in_pages_and_nobody_elses(market: Market) -> None:
    provider, other = await rich_provider(market, 20_000), await rich_provider(market)
    await ask(market, other)
    numbers = []
    for _ in range(5):
        numbers.append((await ask(market, provider, 1000)).withdrawal.id)
        await reject(market, numbers[-1])
    seen: list[int] = []
    page = await own(market, provider, page_size=2)
    while True:
        assert len(page.withdrawals) <= 2
        seen += [one.id for one in page.withdrawals]
        if not page.HasField("next_before_id"):
            break
        page = await own(market, provider, page_size=2, before_id=page.next_before_id)
    assert seen == sorted(numbers, reverse=True)
    assert not (await own(market, provider, page_size=5)).HasField("next_before_id")


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        ({"amount_halala": 1999}, "should have moved 1999"),
        ({"state": "paid"}, "by withdrawal_paid and should have moved 2000"),
        ({"state": "rejected"}, "open withdrawals of 0"),
        ({"provider_id": 2}, "open withdrawals of 2000"),
    ],
)
async def test_proof_finds_a_request_that_was_tampered_with(
    market: Market, tamper: dict[str, Any], told: str
) -> None:
    provider = await rich_provider(market)
    await market.provider()
    await ask(market, provider)
    assert await proof(market) == (1, 2000)
    await market.sql(lambda: WithdrawalRow.update(**tamper).execute())
    assert told in " | ".join((await market.sql(prove)).discrepancies)


async def test_finished_job_pays_into_what_can_be_withdrawn(market: Market) -> None:
    """From a renter's hold to the bank: the whole way of the money proves clean."""
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=60)
    market.clock.advance(3600)
    done = await daemon.finished(lease, seconds=3600)
    assert done == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    earned = await market.earned(provider)
    number = (await ask(market, provider, earned)).withdrawal.id
    await process(market, number)
    await pay(market, number)
    assert await market.earned(provider) == 0
    await market.assert_money_adds_up()
