"""Withdrawals through the whole server: the money, the states, and simultaneous requests."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, providers_pb2, sessions_pb2
from dcp.v1 import withdrawals_pb2 as pb

from server.domain import ledger as rules
from server.domain.jobs import JobType
from server.domain.ledger import EXTERNAL, Transfer, TransferKind
from server.domain.money import micros, whole_halala
from server.store import ledger
from server.store.models import Withdrawal as WithdrawalRow
from server.store.proof import prove
from tests.support.running_server import Market, Party, read_refusal, refusal

IBAN = "SA0380000000608010167519"


async def credit_earnings(market: Market, provider: Party, halala: int) -> None:
    """Credits earnings without a job; other tests earn them with jobs."""
    account = rules.provider(provider.id)
    transfer = Transfer(TransferKind.PAYOUT, EXTERNAL, account, micros(halala), job_type=JobType.BENCHMARK)
    await market.sql(lambda: ledger.apply([transfer], 0))


async def provider_with_earnings(market: Market, halala: int = 5000) -> Party:
    provider = await market.provider()
    await credit_earnings(market, provider, halala)
    return provider


async def request_withdrawal(market: Market, provider: Party, halala: int = 2000, iban: str = IBAN) -> Any:
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


async def cancel(market: Market, provider: Party, withdrawal_id: int) -> Any:
    request = pb.CancelWithdrawalRequest(withdrawal_id=withdrawal_id)
    return await market.withdrawal_service.CancelWithdrawal(request, metadata=provider.metadata)


async def list_as_operator(market: Market) -> admin_pb2.ListWithdrawalsResponse:
    request = admin_pb2.ListWithdrawalsRequest()
    return await market.admin_service.ListWithdrawals(request, metadata=market.admin_metadata)


async def list_own(market: Market, provider: Party, **page: int) -> pb.ListOwnWithdrawalsResponse:
    request = pb.ListOwnWithdrawalsRequest(**page)
    return await market.withdrawal_service.ListOwnWithdrawals(request, metadata=provider.metadata)


async def audit(market: Market, **filters: Any) -> list[admin_pb2.AuditEntry]:
    request = admin_pb2.ListAuditEntriesRequest(**filters)
    answer = await market.admin_service.ListAuditEntries(request, metadata=market.admin_metadata)
    return list(answer.entries)


async def proof(market: Market) -> tuple[int, int]:
    """The number and amount of open requests, after a proof without discrepancies."""
    result = await market.sql(prove)
    assert result.discrepancies == ()
    return result.open_withdrawals, whole_halala(result.open_withdrawals_micros)


async def test_request_reduces_what_can_be_withdrawn(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    requested = await request_withdrawal(market, provider, 2000, "sa03 8000 0000 6080 1016 7519")
    assert (requested.success, requested.claimable_halala) == (True, 3000)
    assert requested.withdrawal.status == admin_pb2.WITHDRAWAL_STATUS_PENDING
    assert (requested.withdrawal.amount_halala, requested.withdrawal.iban_last4) == (2000, "7519")
    assert await market.earned(provider) == 3000
    own = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert own.provider.earnings == providers_pb2.Earnings(
        total_halala=5000,
        total_micro_halala=micros(5000),
        claimable_halala=3000,
        claimable_micro_halala=micros(3000),
        held_halala=2000,
        held_micro_halala=micros(2000),
        maturing_hours=0,
    )
    assert await proof(market) == (1, 2000)


async def test_paid_request_has_its_bank_reference(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    assert (await process(market, number)).withdrawal.status == admin_pb2.WITHDRAWAL_STATUS_PROCESSING
    assert await proof(market) == (1, 2000)
    paid = (await pay(market, number, "SARIE-7")).withdrawal
    assert (paid.status, paid.reference) == (admin_pb2.WITHDRAWAL_STATUS_PAID, "SARIE-7")
    assert await market.earned(provider) == 3000
    assert await proof(market) == (0, 0)
    withdrawals = (await list_own(market, provider)).withdrawals
    assert [(entry.id, entry.status, entry.reference) for entry in withdrawals] == [
        (number, paid.status, "SARIE-7")
    ]
    summary = (await list_as_operator(market)).summary
    assert (summary.pending_count, summary.paid_count, summary.paid_halala) == (0, 1, 2000)


@pytest.mark.parametrize("ordered", [False, True])
async def test_rejected_request_returns_its_money(any_market: Market, ordered: bool) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    if ordered:
        await process(market, number)
    rejected = (await reject(market, number, "wrong name")).withdrawal
    assert (rejected.status, rejected.reason) == (admin_pb2.WITHDRAWAL_STATUS_REJECTED, "wrong name")
    assert await market.earned(provider) == 5000
    assert await proof(market) == (0, 0)
    await request_withdrawal(market, provider, 5000)  # the next request is accepted


FINAL = {"paid": pay, "rejected": reject}


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("action", [process, pay, reject])
async def test_ended_request_never_changes_again(market: Market, final: str, action: Any) -> None:
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    await process(market, number)
    await FINAL[final](market, number)
    before = (await list_own(market, provider)).withdrawals, await market.earned(provider)
    refused = await refusal(action(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", final)
    assert ((await list_own(market, provider)).withdrawals, await market.earned(provider)) == before
    assert len(await audit(market, object="withdrawal")) == 2
    await proof(market)


async def test_pending_request_cannot_be_paid_and_processing_request_cannot_be_processed_again(
    market: Market,
) -> None:
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    refused = await refusal(pay(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "pending")
    await process(market, number)
    refused = await refusal(process(market, number))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "processing")


@pytest.mark.parametrize("action", [process, pay, reject])
async def test_unknown_request_is_not_found(market: Market, action: Any) -> None:
    refused = await refusal(action(market, 999))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "WITHDRAWAL_NOT_FOUND")


async def test_provider_cancels_its_waiting_request_and_has_the_money_again(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    cancelled = (await cancel(market, provider, number)).withdrawal
    assert (cancelled.status, cancelled.reason) == (
        admin_pb2.WITHDRAWAL_STATUS_REJECTED,
        "cancelled by the provider",
    )
    assert await market.earned(provider) == 5000
    assert await proof(market) == (0, 0)
    assert (await refusal(cancel(market, provider, number))).reason == "WRONG_STATE"
    await request_withdrawal(market, provider, 5000)  # the next request is accepted


async def test_provider_cancels_no_request_that_is_processed_or_of_another(any_market: Market) -> None:
    market = any_market
    provider, other = await provider_with_earnings(market), await market.provider()
    number = (await request_withdrawal(market, provider)).withdrawal.id
    assert (await refusal(cancel(market, other, number))).reason == "WITHDRAWAL_NOT_FOUND"
    await process(market, number)
    assert (await refusal(cancel(market, provider, number))).reason == "WRONG_STATE"
    assert await proof(market) == (1, 2000)


async def test_provider_has_at_most_one_open_request(any_market: Market) -> None:
    market = any_market
    provider, other = await provider_with_earnings(market), await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    assert (await refusal(request_withdrawal(market, provider))).reason == "WITHDRAWAL_OPEN"
    await request_withdrawal(market, other)
    await process(market, number)
    assert (await refusal(request_withdrawal(market, provider))).reason == "WITHDRAWAL_OPEN"
    assert await market.earned(provider) == 3000
    assert await proof(market) == (2, 4000)


async def test_request_over_the_earnings_is_refused_with_the_amounts(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market, 1500)
    refused = await refusal(request_withdrawal(market, provider, 1501))
    assert (refused.reason, refused.facts.balance_halala) == ("EARNINGS_TOO_LOW", 1500)
    assert (refused.facts.required_halala, refused.facts.shortfall_halala) == (1501, 1)
    assert not (await list_own(market, provider)).withdrawals
    await request_withdrawal(market, provider, 1500)
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
async def test_request_with_a_bad_amount_or_iban_is_refused(
    market: Market, fields: dict[str, Any], field: str
) -> None:
    provider = await provider_with_earnings(market)
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
async def test_suspended_or_unapproved_provider_cannot_withdraw(
    market: Market, state: str, reason: str
) -> None:
    provider = await provider_with_earnings(market)
    await market.set_provider(provider, state=state)
    assert (await refusal(request_withdrawal(market, provider))).reason == reason
    assert await market.earned(provider) == 5000


async def test_full_iban_is_shown_only_to_the_operator_and_never_logged(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "server")
    provider = await provider_with_earnings(market)
    requested = await request_withdrawal(market, provider)
    number = requested.withdrawal.id
    processed = await process(market, number)
    whole = await market.withdrawal_service.GetWithdrawal(
        pb.GetWithdrawalRequest(withdrawal_id=number), metadata=market.admin_metadata
    )
    assert whole.iban == IBAN
    others = [requested, processed, await list_own(market, provider), await list_as_operator(market)]
    others += [*await audit(market), await pay(market, number)]
    everything_else = (
        " ".join(str(answer) for answer in others) + caplog.text + repr(await market.sql(_stored))
    )
    assert IBAN[:-4] not in everything_else
    assert "7519" in everything_else


def _stored() -> Any:
    from server.store import withdrawals

    return withdrawals.page(None, 0, 1)


async def test_simultaneous_requests_create_one_withdrawal(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market, 100_000)
    outcomes = await asyncio.gather(
        *(request_withdrawal(market, provider) for _ in range(20)), return_exceptions=True
    )
    refused = [read_refusal(error) for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
    assert {error.reason for error in refused} == {"WITHDRAWAL_OPEN"}
    assert len(refused) == 19
    assert await market.earned(provider) == 98_000
    assert await proof(market) == (1, 2000)


async def test_simultaneous_payments_and_rejections_move_the_request_once(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider)).withdrawal.id
    await process(market, number)
    outcomes = await asyncio.gather(
        *(pay(market, number) for _ in range(6)),
        *(reject(market, number) for _ in range(6)),
        return_exceptions=True,
    )
    refused = [read_refusal(error) for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
    assert [error.reason for error in refused] == ["WRONG_STATE"] * 11
    (ended,) = (await list_own(market, provider)).withdrawals
    paid = ended.status == admin_pb2.WITHDRAWAL_STATUS_PAID
    assert {error.facts.status for error in refused} == {"paid" if paid else "rejected"}
    assert await market.earned(provider) == (3000 if paid else 5000)
    assert await proof(market) == (0, 0)
    assert len(await audit(market, object="withdrawal", object_id=str(number))) == 2


async def test_withdrawal_during_a_settlement_loses_no_money(any_market: Market) -> None:
    """Both change the provider's balance at the same moment."""
    market = any_market
    provider, renter = await provider_with_earnings(market, 1000), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(75)
    await asyncio.gather(
        daemon.finished(lease, seconds=75),
        *(_ignore_refusal(request_withdrawal(market, provider, 1000)) for _ in range(5)),
    )
    assert await market.earned(provider) == 141
    found = await market.sql(prove)
    assert (found.open_withdrawals, found.open_withdrawals_micros) == (1, micros(1000))
    assert found.discrepancies == ()


async def _ignore_refusal(call: Any) -> None:
    await asyncio.gather(call, return_exceptions=True)


async def test_provider_lists_only_its_own_requests_in_pages(market: Market) -> None:
    provider, other = await provider_with_earnings(market, 20_000), await provider_with_earnings(market)
    await request_withdrawal(market, other)
    numbers = []
    for _ in range(5):
        numbers.append((await request_withdrawal(market, provider, 1000)).withdrawal.id)
        await reject(market, numbers[-1])
    listed: list[int] = []
    page = await list_own(market, provider, page_size=2)
    while True:
        assert len(page.withdrawals) <= 2
        listed += [withdrawal.id for withdrawal in page.withdrawals]
        if not page.HasField("next_before_id"):
            break
        page = await list_own(market, provider, page_size=2, before_id=page.next_before_id)
    assert listed == sorted(numbers, reverse=True)
    assert not (await list_own(market, provider, page_size=5)).HasField("next_before_id")


@pytest.mark.parametrize(
    ("tampered_values", "discrepancy"),
    [
        ({"amount_micros": micros(1999)}, "should have moved 1999"),
        ({"state": "paid"}, "by withdrawal_paid and should have moved 2000"),
        ({"state": "rejected"}, "open withdrawals of 0"),
        ({"provider_id": 2}, "open withdrawals of 2000"),
    ],
)
async def test_proof_finds_a_tampered_request(
    market: Market, tampered_values: dict[str, Any], discrepancy: str
) -> None:
    provider = await provider_with_earnings(market)
    await market.provider()
    await request_withdrawal(market, provider)
    assert await proof(market) == (1, 2000)
    await market.sql(lambda: WithdrawalRow.update(**tampered_values).execute())
    assert discrepancy in " | ".join((await market.sql(prove)).discrepancies)


async def test_earnings_of_a_finished_job_can_be_withdrawn(market: Market) -> None:
    """The ledger balances from the renter's hold to the provider's bank."""
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=60)
    market.clock.advance(3600)
    disposition = await daemon.finished(lease, seconds=3600)
    assert disposition == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    earned = await market.earned(provider)
    number = (await request_withdrawal(market, provider, earned)).withdrawal.id
    await process(market, number)
    await pay(market, number)
    assert await market.earned(provider) == 0
    await market.assert_money_adds_up()
