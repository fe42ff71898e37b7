"""What operators look at before they decide: health, money by day, accounts, and the evidence of payouts."""

from __future__ import annotations

import pytest
from dcp.v1 import admin_pb2, keys_pb2, options_pb2, oversight_pb2, renters_pb2
from dcp.v1 import jobs_pb2 as jobs

from server.services.operators.health import KEPT_SECONDS
from tests.server.services.test_withdrawals import (
    pay,
    process,
    provider_with_earnings,
    reject,
    request_withdrawal,
)
from tests.support.running_server import Market, refusal

pytestmark = pytest.mark.in_turns

DAY_SECONDS = 24 * 3600
UNSERVED = jobs.JobParams(model="nobody/serves", prompt="Hi")
OTHER_IBAN = "SA4420000001234567891234"


async def health(market: Market) -> oversight_pb2.GetHealthResponse:
    request = oversight_pb2.GetHealthRequest()
    return await market.oversight_service.GetHealth(request, metadata=market.admin_metadata)


async def evidence(market: Market, withdrawal_id: int) -> oversight_pb2.GetPayoutEvidenceResponse:
    request = oversight_pb2.GetPayoutEvidenceRequest(withdrawal_id=withdrawal_id)
    return await market.oversight_service.GetPayoutEvidence(request, metadata=market.admin_metadata)


def codes(found: oversight_pb2.GetPayoutEvidenceResponse) -> set[str]:
    prefix = "PAYOUT_FINDING_CODE_"
    names = (oversight_pb2.PayoutFindingCode.Name(finding.code) for finding in found.findings)
    return {name.removeprefix(prefix) for name in names}


async def test_queues_say_what_waits_and_why(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(20_000), await market.provider()
    await market.daemon(provider)
    assert list((await health(market)).queues) == []
    first = await market.submit(renter, params=UNSERVED, wait_for_supply=True)
    market.clock.advance(KEPT_SECONDS)
    await market.submit(renter, params=UNSERVED, wait_for_supply=True)
    assert [queue.jobs for queue in (await health(market)).queues] == [2]
    (queue,) = (await health(market)).queues
    assert (queue.model, queue.job_type, queue.first_job_id) == (
        "nobody/serves",
        "llm-inference",
        first.job_id,
    )
    assert queue.code == jobs.JOB_CONDITION_NO_PROVIDER
    assert [(each.code, each.providers) for each in queue.obstacles] == [(jobs.OBSTACLE_MODEL_NOT_SERVED, 1)]


async def test_health_is_read_once_for_all_who_ask_within_seconds(market: Market) -> None:
    provider = await market.provider()
    assert (await health(market)).sessions.live == 0
    daemon = await market.daemon(provider)
    assert (await health(market)).sessions.live == 0
    market.clock.advance(KEPT_SECONDS)
    found = await health(market)
    assert (found.sessions.live, found.sessions.slots, found.sessions.slots_used) == (1, 1, 0)
    daemon.cut()


async def test_health_counts_jobs_calls_payouts_and_disputes(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(20_000), await market.provider()
    daemon = await market.daemon(provider)
    await market.running_job(renter, provider, daemon)
    earner = await provider_with_earnings(market)
    await request_withdrawal(market, earner, 2000)
    market.clock.advance(KEPT_SECONDS)
    found = await health(market)
    assert (found.payouts.requests, found.payouts.amount_halala) == (1, 2000)
    assert found.sessions.slots_used == 1
    assert found.calls.calls > 3
    assert found.calls.failed == 0
    assert 0 < found.calls.p50_ms <= found.calls.p95_ms <= found.calls.p99_ms
    waiting = await market.submit(renter, params=UNSERVED, wait_for_supply=True)
    await market.cancel(waiting, renter)
    market.clock.advance(KEPT_SECONDS)
    assert (await health(market)).jobs.cancelled == 1
    market.clock.advance(3601)
    assert (await health(market)).jobs.cancelled == 0


async def test_money_by_day_is_the_same_before_and_after_days_are_added_up(any_market: Market) -> None:
    market = any_market
    service, metadata = market.oversight_service, market.admin_metadata

    async def days() -> list[oversight_pb2.DayMoney]:
        request = oversight_pb2.ListMoneyByDayRequest(days=5)
        return list((await service.ListMoneyByDay(request, metadata=metadata)).days)

    await market.renter(1234)
    provider = await provider_with_earnings(market, 5000)
    number = (await request_withdrawal(market, provider, 2000)).withdrawal.id
    await process(market, number)
    await pay(market, number)
    before = await days()
    assert len(before) == 5
    assert (before[0].credited_halala, before[0].paid_out_halala) == (1234, 2000)
    market.clock.advance(3 * DAY_SECONDS)
    as_read = await days()
    assert as_read[3] == before[0]
    await market.server.services.statements.tick()
    assert await days() == as_read
    assert as_read[0].credited_halala == 0


async def test_evidence_names_what_asks_for_a_second_look(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market, 9000)
    first = (await request_withdrawal(market, provider, 1000)).withdrawal.id
    found = await evidence(market, first)
    assert codes(found) == {"NEW_ACCOUNT", "FIRST_WITHDRAWAL"}
    assert all(finding.message for finding in found.findings)
    assert found.provider.id == provider.id
    await process(market, first)
    await pay(market, first)
    market.clock.advance(15 * DAY_SECONDS)
    second = (await request_withdrawal(market, provider, 1000)).withdrawal.id
    found = await evidence(market, second)
    assert codes(found) == set()
    assert [earlier.id for earlier in found.earlier] == [first]
    await reject(market, second)
    third = (await request_withdrawal(market, provider, 1000, OTHER_IBAN)).withdrawal.id
    assert codes(await evidence(market, third)) == {"NEW_BANK_ACCOUNT"}
    other = await provider_with_earnings(market, 9000)
    await request_withdrawal(market, other, 1000, OTHER_IBAN)
    found = await evidence(market, third)
    assert codes(found) == {"NEW_BANK_ACCOUNT", "SHARED_BANK_ACCOUNT"}
    assert list(found.same_bank_account) == [other.id]


async def test_evidence_names_who_paid(market: Market) -> None:
    renter, provider = await market.renter(20_000), await market.provider()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=20)
    market.clock.advance(1200)
    await daemon.finished(lease, seconds=1200, last_output_seq=1)
    await daemon.heartbeat()
    market.clock.advance(120)
    await market.server.services.standings.tick()
    number = (await request_withdrawal(market, provider, 2000)).withdrawal.id
    found = await evidence(market, number)
    assert [(payer.renter_id, payer.paid_halala) for payer in found.payers] == [(renter.id, 2250)]
    assert "FEW_PAYERS" in codes(found)


async def test_provider_s_transfers_come_in_pages(any_market: Market) -> None:
    market = any_market
    provider = await provider_with_earnings(market)
    number = (await request_withdrawal(market, provider, 2000)).withdrawal.id
    await reject(market, number)
    seen: list[oversight_pb2.ProviderTransfer] = []
    before = None
    while True:
        request = oversight_pb2.ListProviderLedgerRequest(
            provider_id=provider.id, page_size=1, before_id=before
        )
        page = await market.oversight_service.ListProviderLedger(request, metadata=market.admin_metadata)
        seen += page.transfers
        if not page.HasField("next_before_id"):
            break
        before = page.next_before_id
    kinds = oversight_pb2.ProviderAccountKind
    moves = [
        (row.amount_halala, kinds.Name(row.from_account)[22:], kinds.Name(row.to_account)[22:])
        for row in seen
    ]
    assert moves == [
        (2000, "WITHDRAWAL", "PROVIDER"),
        (2000, "PROVIDER", "WITHDRAWAL"),
        (5000, "UNSPECIFIED", "PROVIDER"),
    ]
    assert [row.withdrawal_id for row in seen] == [number, number, 0]


async def test_renter_s_account_shows_its_state_its_ledger_and_its_keys_without_secrets(
    market: Market,
) -> None:
    renter = await market.renter(1234)
    created = await market.key_service.CreateKey(
        keys_pb2.CreateKeyRequest(name="ci", scopes=[options_pb2.SCOPE_READ]), metadata=renter.metadata
    )
    service, metadata = market.oversight_service, market.admin_metadata
    account = await service.GetRenterAccount(
        oversight_pb2.GetRenterAccountRequest(renter_id=renter.id), metadata=metadata
    )
    own = await market.renter_service.GetOwnRenter(
        renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata
    )
    assert (account.renter, account.suspended, account.deleted) == (own.renter, False, False)
    lines = await service.ListRenterLedger(
        oversight_pb2.ListRenterLedgerRequest(renter_id=renter.id), metadata=metadata
    )
    assert [line.amount_halala for line in lines.lines] == [1234]
    keys = await service.ListRenterKeys(
        oversight_pb2.ListRenterKeysRequest(renter_id=renter.id), metadata=metadata
    )
    assert [key.name for key in keys.keys] == ["ci", ""]
    assert created.api_key not in str(keys)


@pytest.mark.parametrize("name", ["GetRenterAccount", "ListRenterLedger", "ListRenterKeys"])
async def test_unknown_renter_is_not_found(market: Market, name: str) -> None:
    request = getattr(oversight_pb2, f"{name}Request")(renter_id=99)
    call = getattr(market.oversight_service, name)(request, metadata=market.admin_metadata)
    assert (await refusal(call)).reason == "RENTER_NOT_FOUND"


@pytest.mark.parametrize("name", ["GetProviderAccount", "ListProviderLedger", "ListProviderKeys"])
async def test_unknown_provider_is_not_found(market: Market, name: str) -> None:
    request = getattr(oversight_pb2, f"{name}Request")(provider_id=99)
    call = getattr(market.oversight_service, name)(request, metadata=market.admin_metadata)
    assert (await refusal(call)).reason == "PROVIDER_NOT_FOUND"


async def test_audit_log_of_one_name(any_market: Market) -> None:
    provider = await provider_with_earnings(any_market)
    number = (await request_withdrawal(any_market, provider, 2000)).withdrawal.id
    await process(any_market, number)
    for actor, count in (("admin", 1), ("nobody", 0), ("", 1)):
        request = admin_pb2.ListAuditEntriesRequest(object="withdrawal", actor=actor)
        found = await any_market.admin_service.ListAuditEntries(request, metadata=any_market.admin_metadata)
        assert len(found.entries) == count, actor
