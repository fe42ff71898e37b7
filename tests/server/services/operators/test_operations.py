"""How operators search lists, requeue jobs and change rates, through the whole server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, jobs_pb2, providers_pb2, renters_pb2, sessions_pb2
from dcp.v1 import operations_pb2 as pb

from server.store.operators import operations
from tests.server.services.operators.test_audit import page as audit_page
from tests.support.plans import recorded, sorts
from tests.support.running_server import Market, Party, refusal

LLM = jobs_pb2.JOB_TYPE_LLM_INFERENCE
TRAINING = jobs_pb2.JOB_TYPE_TRAINING


async def call(market: Market, method: str, request: Any) -> Any:
    return await getattr(market.operation_service, method)(request, metadata=market.admin_metadata)


async def register_renter(market: Market, name: str, email: str) -> int:
    response = await market.renter_service.RegisterRenter(
        renters_pb2.RegisterRenterRequest(name=name, email=email)
    )
    return response.renter_id


async def register_provider(market: Market, name: str, email: str) -> int:
    response = await market.provider_service.RegisterProvider(
        providers_pb2.RegisterProviderRequest(name=name, email=email, gpu_model="RTX 4090")
    )
    return response.provider_id


async def found_renters(market: Market, **filters: Any) -> list[int]:
    answer = await call(market, "ListRenters", pb.ListRentersRequest(**filters))
    return [account.id for account in answer.renters]


async def found_providers(market: Market, **filters: Any) -> list[int]:
    answer = await call(market, "ListProviders", pb.ListProvidersRequest(**filters))
    return [account.id for account in answer.providers]


async def found_jobs(market: Market, **filters: Any) -> list[str]:
    answer = await call(market, "ListJobs", pb.ListJobsRequest(**filters))
    return [job.job_id for job in answer.jobs]


# Lists.


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", [3, 2, 1]),
        ("ACME", [1]),
        ("@exa", [3, 2, 1]),
        ("Shop@", [2]),
        ("3", [3]),
        ("%", [2]),
        ("_", [3]),
        ("100%", [2]),
        ("a_", []),
        ("\\", []),
        ("سوق", [3]),
        ("' OR 1=1 --", []),
    ],
)
async def test_search_finds_a_literal_part_of_the_name_or_address(
    any_market: Market, search: str, found: list[int]
) -> None:
    """The wildcards of LIKE are ordinary characters."""
    market = any_market
    await register_renter(market, "Acme AI", "one@example.com")
    await register_renter(market, "100% GPU", "shop@example.com")
    await register_renter(market, "سوق 🚀", "x_y@example.com")
    await register_provider(market, "Acme AI", "one@example.com")
    await register_provider(market, "100% GPU", "shop@example.com")
    await register_provider(market, "سوق 🚀", "x_y@example.com")
    assert await found_renters(market, search=search) == found
    assert await found_providers(market, search=search) == found


async def test_lists_show_the_state_and_balance_of_each_account(any_market: Market) -> None:
    market = any_market
    number = await register_provider(market, "Riyadh", "node@example.com")
    party = await market.renter(700)
    (listed,) = (await call(market, "ListProviders", pb.ListProvidersRequest())).providers
    assert (listed.id, listed.email, listed.gpu_model) == (number, "node@example.com", "RTX 4090")
    assert listed.status == providers_pb2.PROVIDER_STATUS_OFFLINE
    assert not listed.HasField("last_heartbeat_at")
    (entry,) = (await call(market, "ListRenters", pb.ListRentersRequest())).renters
    assert (entry.id, entry.balance_halala, entry.suspended) == (party.id, 700, False)
    await market.set_renter(party, state="suspended")
    (entry,) = (await call(market, "ListRenters", pb.ListRentersRequest())).renters
    assert entry.suspended


async def test_accounts_come_in_pages(market: Market) -> None:
    for n in range(5):
        await register_renter(market, "R", f"r{n}@example.com")
        await register_provider(market, "P", f"p{n}@example.com")
    assert await found_renters(market, page_size=2) == [5, 4]
    first = await call(market, "ListProviders", pb.ListProvidersRequest(page_size=2))
    assert first.next_before_id == 4
    assert await found_providers(market, page_size=2, before_id=4) == [3, 2]
    last = await call(market, "ListRenters", pb.ListRentersRequest(page_size=2, before_id=2))
    assert ([account.id for account in last.renters], last.HasField("next_before_id")) == ([1], False)


async def test_jobs_are_found_by_state_party_and_prefix_of_the_id(any_market: Market) -> None:
    market = any_market
    payer, other_renter, provider = await market.renter(), await market.renter(), await market.provider()
    first = await market.submit(payer)
    await market.cancel(first, payer)
    market.clock.advance(1)
    second = await market.submit(other_renter, job_type=TRAINING)  # a job type that no daemon here runs
    market.clock.advance(1)
    daemon = await market.daemon(provider)
    third, _ = await market.running_job(payer, provider, daemon)
    ids = [third.job_id, second.job_id, first.job_id]
    assert await found_jobs(market) == ids
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_CANCELLED) == [first.job_id]
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_RUNNING) == [third.job_id]
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_QUEUED) == [second.job_id]
    assert await found_jobs(market, renter_id=other_renter.id) == [second.job_id]
    assert await found_jobs(market, provider_id=provider.id) == [third.job_id]
    assert await found_jobs(market, search=second.job_id[:14]) == [second.job_id]
    assert await found_jobs(market, search="job") == ids
    assert await found_jobs(market, search="%") == []
    assert await found_jobs(market, search="ob-") == []
    page = await call(market, "ListJobs", pb.ListJobsRequest(page_size=2))
    assert [job.job_id for job in page.jobs] == ids[:2]
    assert await found_jobs(market, before_job_id=page.next_before_job_id) == ids[2:]
    refused = await refusal(call(market, "ListJobs", pb.ListJobsRequest(before_job_id="job-none")))
    assert (refused.reason, refused.facts.field) == ("JOB_NOT_FOUND", "before_job_id")


async def test_a_search_that_finds_too_many_ids_reads_the_newest_jobs_in_their_order(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    renter, other_renter = await market.renter(), await market.renter()
    ids: list[str] = []
    for submits in (renter, other_renter, renter):
        ids.insert(0, (await market.submit(submits)).job_id)
        market.clock.advance(1)
    monkeypatch.setattr(operations, "SEARCH_LIMIT", 1)
    with recorded(market.server._database, monkeypatch) as seen:
        page = await call(market, "ListJobs", pb.ListJobsRequest(search="JOB-", page_size=2))
        statements = list(seen)
    assert [job.job_id for job in page.jobs] == ids[:2]
    assert await found_jobs(market, search="job-", before_job_id=page.next_before_job_id) == ids[2:]
    assert await found_jobs(market, search="job-", renter_id=renter.id) == [ids[0], ids[2]]
    assert await found_jobs(market, search=ids[1]) == [ids[1]]
    assert await found_jobs(market, search="job-", status=jobs_pb2.JOB_STATE_RUNNING) == []
    assert await sorts(market.server._database, statements) == []


# Requeue.


async def requeue(market: Market, job_id: str, reason: str = "it hangs") -> Any:
    return (await call(market, "RequeueJob", pb.RequeueJobRequest(job_id=job_id, reason=reason))).job


async def assert_run_is_cancelled(daemon: Any, lease: Any) -> None:
    message = await daemon.expect("cancel_run")
    assert (message.lease.job_id, message.lease.lease_epoch) == (lease.job_id, lease.lease_epoch)


@pytest.mark.parametrize("how_far", ["offered", "accepted", "running"])
async def test_requeued_job_is_queued_again_without_a_charge(any_market: Market, how_far: str) -> None:
    market = any_market
    provider, payer = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(payer)
    lease = (await daemon.expect("job_offer")).lease
    if how_far == "accepted":
        await daemon.accept(lease)
    elif how_far == "running":
        await daemon.start(lease)
    if how_far != "offered":
        await daemon.heard_nothing()
    market.clock.advance(20)
    again = await requeue(market, job.job_id)
    assert (again.status, again.cost_halala) == (jobs_pb2.JOB_STATE_QUEUED, 450)
    await assert_run_is_cancelled(daemon, lease)
    await market.tick()  # does not offer it to the same provider at once
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_QUEUED
    assert await market.wallet(payer) == (4550, 450)
    (entry,) = (await audit_page(market, object="job")).entries
    assert (entry.action, entry.object_id) == ("job.requeue", job.job_id)
    assert json.loads(entry.before)["provider_id"] == provider.id
    assert json.loads(entry.after) == {"status": "queued", "reason": "it hangs"}
    (attempt,) = [
        attempt for attempt in (await market.why(job)).attempts if attempt.lease_epoch == lease.lease_epoch
    ]
    assert (attempt.outcome, attempt.detail) == (jobs_pb2.ATTEMPT_OUTCOME_REVOKED, "it hangs")
    await market.assert_money_adds_up()


async def test_late_result_of_a_requeued_run_changes_nothing_and_the_next_run_is_billed(
    any_market: Market,
) -> None:
    market = any_market
    payer, slow, fast = await market.renter(), await market.provider(), await market.provider()
    hanging = await market.daemon(slow)
    job = await market.submit(payer)
    lease = (await hanging.expect("job_offer")).lease
    await hanging.start(lease)
    await hanging.heard_nothing()
    market.clock.advance(20)
    await requeue(market, job.job_id)
    await assert_run_is_cancelled(hanging, lease)
    assert await hanging.finished(lease, seconds=20) == sessions_pb2.RESULT_DISPOSITION_STALE
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_QUEUED
    daemon = await market.daemon(fast)
    await market.tick()
    second = (await daemon.expect("job_offer")).lease
    assert second.lease_epoch == lease.lease_epoch + 1
    await daemon.start(second)
    await daemon.output(second, 1, b"Hello.")
    market.clock.advance(10)
    assert await daemon.finished(second, seconds=10) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    assert (await market.job(job)).billing.actual_cost_halala == 25
    assert (await market.earned(slow), await market.earned(fast)) == (0, 18)
    await market.assert_money_adds_up()


async def test_simultaneous_requeue_and_finish_have_one_winner(any_market: Market) -> None:
    market = any_market
    payer, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(payer, provider, daemon, output=b"Hello.")
    market.clock.advance(60)
    outcomes = await asyncio.gather(
        requeue(market, job.job_id), daemon.finish(lease, seconds=60), return_exceptions=True
    )
    await market.later(0)
    now = await market.job(job)
    if isinstance(outcomes[0], grpc.aio.AioRpcError):
        assert (now.status, now.billing.actual_cost_halala) == (jobs_pb2.JOB_STATE_COMPLETED, 150)
    else:
        assert now.status in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_PENDING)
        assert await market.wallet(payer) == (4550, 450)
    await market.assert_money_adds_up()


async def test_waiting_or_ended_job_is_not_requeued(any_market: Market) -> None:
    market = any_market
    payer, provider = await market.renter(), await market.provider()
    waiting = await market.submit(payer)
    refused = await refusal(requeue(market, waiting.job_id))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "queued")
    await market.cancel(waiting, payer)
    refused = await refusal(requeue(market, waiting.job_id))
    assert (refused.reason, refused.facts.status) == ("JOB_ALREADY_FINAL", "cancelled")
    assert (await refusal(requeue(market, "job-none"))).reason == "JOB_NOT_FOUND"
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(payer, provider, daemon)
    await market.cancel(job, payer)
    assert (await refusal(requeue(market, job.job_id))).reason == "WRONG_STATE"
    assert not (await audit_page(market, object="job")).entries


# Rates.


async def change_rate(market: Market, kind: int, rate: int) -> dict[int, int]:
    request = pb.ChangeRateRequest(job_type=kind, halala_per_minute=rate)  # type: ignore[arg-type]
    response = await call(market, "ChangeRate", request)
    return {rate.job_type: rate.halala_per_minute for rate in response.rates}


async def public_rates(market: Market, provider: Party) -> dict[str, int]:
    request = renters_pb2.ListAvailableProvidersRequest()
    (offered,) = (await market.renter_service.ListAvailableProviders(request)).providers
    assert offered.id == provider.id
    return dict(offered.rates_halala_per_minute)


async def test_changed_rate_is_quoted_shown_and_billed_but_not_for_earlier_jobs(
    any_market: Market,
) -> None:
    market = any_market
    payer, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    await daemon.heartbeat()
    earlier, lease = await market.running_job(payer, provider, daemon, output=b"Hello.")
    assert (await public_rates(market, provider))["llm-inference"] == 150
    card = await change_rate(market, LLM, 300)
    assert (card[LLM], card[TRAINING], len(card)) == (300, 250, 8)
    assert (await public_rates(market, provider))["llm-inference"] == 300
    market.clock.advance(60)
    await daemon.finished(lease, seconds=60)
    assert (await market.job(earlier)).billing.actual_cost_halala == 150
    await daemon.heartbeat()
    later = await market.submit(payer, provider)
    assert (later.cost_halala, later.rate_halala_per_minute) == (900, 300)
    listed = await call(market, "ListRates", pb.ListRatesRequest())
    assert {rate.job_type: rate.halala_per_minute for rate in listed.rates} == card
    await market.assert_money_adds_up()


async def test_rate_change_is_logged_with_the_values_before_and_after(any_market: Market) -> None:
    market = any_market
    await change_rate(market, LLM, 300)
    await change_rate(market, LLM, 300)  # nothing changes: no entry
    await change_rate(market, LLM, 140)
    newest, oldest = (await audit_page(market, object="rate")).entries
    assert (newest.action, newest.object_id) == ("rate.change", "llm-inference")
    assert [json.loads(entry.before)["halala_per_minute"] for entry in (oldest, newest)] == [150, 300]
    assert [json.loads(entry.after)["halala_per_minute"] for entry in (oldest, newest)] == [300, 140]


@pytest.mark.parametrize(("kind", "rate"), [(LLM, 0), (LLM, -1), (LLM, 100_001), (0, 100), (99, 100)])
async def test_rate_out_of_its_bounds_is_refused(market: Market, kind: int, rate: int) -> None:
    assert (await refusal(change_rate(market, kind, rate))).reason == "INVALID_FIELD"
    listed = await call(market, "ListRates", pb.ListRatesRequest())
    assert {rate.halala_per_minute for rate in listed.rates} == {100, 150, 200, 250}


async def test_simultaneous_rate_changes_leave_an_unbroken_chain_in_the_log(any_market: Market) -> None:
    market = any_market
    await asyncio.gather(*(change_rate(market, LLM, 200 + n) for n in range(10)))
    entries = (await audit_page(market, object="rate")).entries[::-1]
    befores = [json.loads(entry.before)["halala_per_minute"] for entry in entries]
    afters = [json.loads(entry.after)["halala_per_minute"] for entry in entries]
    assert befores == [150, *afters[:-1]]
    assert len(entries) == 10


# Dashboard.


async def test_dashboard_shows_fees_gpus_and_signups(any_market: Market) -> None:
    market = any_market
    offline = await register_provider(market, "Offline", "off@example.com")
    payer, provider = await market.renter(), await market.provider()
    await market.set_provider(provider, gpu_model="RTX 4090")
    daemon = await market.daemon(provider)
    await daemon.heartbeat()
    _, lease = await market.running_job(payer, provider, daemon, output=b"Hello.")
    market.clock.advance(75)
    await daemon.finished(lease, seconds=75)
    await daemon.heartbeat()
    await market.tick()

    async def dashboard() -> admin_pb2.GetDashboardResponse:
        request = admin_pb2.GetDashboardRequest()
        return await market.admin_service.GetDashboard(request, metadata=market.admin_metadata)

    today = await dashboard()
    assert (today.stats.fee_halala, today.stats.fee_today_halala) == (47, 47)
    assert [(gpu.gpu_model, gpu.providers, gpu.live) for gpu in today.gpus] == [("RTX 4090", 2, 1)]
    assert dict(today.providers_by_gpu) == {"RTX 4090": 2}
    assert {(account.role, account.id) for account in today.recent_signups} == {
        ("provider", offline),
        ("provider", provider.id),
        ("renter", payer.id),
    }
    market.clock.advance(24 * 3600)
    tomorrow = await dashboard()
    assert (tomorrow.stats.fee_halala, tomorrow.stats.fee_today_halala) == (47, 0)


async def test_dashboard_shows_the_ten_newest_accounts(market: Market) -> None:
    for n in range(12):
        market.clock.advance(1)
        await register_renter(market, f"R{n}", f"r{n}@example.com")
    request = admin_pb2.GetDashboardRequest()
    dashboard = await market.admin_service.GetDashboard(request, metadata=market.admin_metadata)
    assert [account.id for account in dashboard.recent_signups] == list(range(12, 2, -1))
