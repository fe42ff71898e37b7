"""What operators search, put back into the queue, and price, through the whole server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from dcp.v1 import admin_pb2, jobs_pb2, providers_pb2, renters_pb2, sessions_pb2
from dcp.v1 import operations_pb2 as pb

from tests.server.services.operators.test_audit import page as audit_page
from tests.support.running_server import Market, Party, refusal

LLM = jobs_pb2.JOB_TYPE_LLM_INFERENCE
TRAINING = jobs_pb2.JOB_TYPE_TRAINING


async def ask(market: Market, method: str, request: Any) -> Any:
    return await getattr(market.operation_service, method)(request, metadata=market.admin_metadata)


async def renter(market: Market, name: str, email: str) -> int:
    made = await market.renter_service.RegisterRenter(
        renters_pb2.RegisterRenterRequest(name=name, email=email)
    )
    return made.renter_id


async def provider(market: Market, name: str, email: str) -> int:
    made = await market.provider_service.RegisterProvider(
        providers_pb2.RegisterProviderRequest(name=name, email=email, gpu_model="RTX 4090")
    )
    return made.provider_id


async def found_renters(market: Market, **which: Any) -> list[int]:
    answer = await ask(market, "ListRenters", pb.ListRentersRequest(**which))
    return [one.id for one in answer.renters]


async def found_providers(market: Market, **which: Any) -> list[int]:
    answer = await ask(market, "ListProviders", pb.ListProvidersRequest(**which))
    return [one.id for one in answer.providers]


async def found_jobs(market: Market, **which: Any) -> list[str]:
    answer = await ask(market, "ListJobs", pb.ListJobsRequest(**which))
    return [one.job_id for one in answer.jobs]


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
async def test_search_finds_a_part_of_the_name_or_address_as_it_is_written(
    any_market: Market, search: str, found: list[int]
) -> None:
    """What LIKE would take for a wildcard is a letter like any other."""
    market = any_market
    await renter(market, "Acme AI", "one@example.com")
    await renter(market, "100% GPU", "shop@example.com")
    await renter(market, "سوق 🚀", "x_y@example.com")
    await provider(market, "Acme AI", "one@example.com")
    await provider(market, "100% GPU", "shop@example.com")
    await provider(market, "سوق 🚀", "x_y@example.com")
    assert await found_renters(market, search=search) == found
    assert await found_providers(market, search=search) == found


async def test_lists_tell_what_an_operator_needs(any_market: Market) -> None:
    market = any_market
    number = await provider(market, "Riyadh", "node@example.com")
    party = await market.renter(700)
    (listed,) = (await ask(market, "ListProviders", pb.ListProvidersRequest())).providers
    assert (listed.id, listed.email, listed.gpu_model) == (number, "node@example.com", "RTX 4090")
    assert listed.status == providers_pb2.PROVIDER_STATUS_OFFLINE
    assert not listed.HasField("last_heartbeat_at")
    (entry,) = (await ask(market, "ListRenters", pb.ListRentersRequest())).renters
    assert (entry.id, entry.balance_halala, entry.suspended) == (party.id, 700, False)
    await market.set_renter(party, state="suspended")
    (entry,) = (await ask(market, "ListRenters", pb.ListRentersRequest())).renters
    assert entry.suspended


async def test_accounts_come_in_pages(market: Market) -> None:
    for n in range(5):
        await renter(market, "R", f"r{n}@example.com")
        await provider(market, "P", f"p{n}@example.com")
    assert await found_renters(market, page_size=2) == [5, 4]
    first = await ask(market, "ListProviders", pb.ListProvidersRequest(page_size=2))
    assert first.next_before_id == 4
    assert await found_providers(market, page_size=2, before_id=4) == [3, 2]
    last = await ask(market, "ListRenters", pb.ListRentersRequest(page_size=2, before_id=2))
    assert ([one.id for one in last.renters], last.HasField("next_before_id")) == ([1], False)


async def test_jobs_are_found_by_state_party_and_beginning_of_the_id(any_market: Market) -> None:
    market = any_market
    one, two, worker = await market.renter(), await market.renter(), await market.provider()
    first = await market.submit(one)
    await market.cancel(first, one)
    market.clock.advance(1)
    second = await market.submit(two, job_type=TRAINING)  # which no daemon here runs
    market.clock.advance(1)
    daemon = await market.daemon(worker)
    third, _ = await market.running_job(one, worker, daemon)
    ids = [third.job_id, second.job_id, first.job_id]
    assert await found_jobs(market) == ids
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_CANCELLED) == [first.job_id]
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_RUNNING) == [third.job_id]
    assert await found_jobs(market, status=jobs_pb2.JOB_STATE_QUEUED) == [second.job_id]
    assert await found_jobs(market, renter_id=two.id) == [second.job_id]
    assert await found_jobs(market, provider_id=worker.id) == [third.job_id]
    assert await found_jobs(market, search=second.job_id[:14]) == [second.job_id]
    assert await found_jobs(market, search="job") == ids
    assert await found_jobs(market, search="%") == []
    assert await found_jobs(market, search="ob-") == []
    page = await ask(market, "ListJobs", pb.ListJobsRequest(page_size=2))
    assert [job.job_id for job in page.jobs] == ids[:2]
    assert await found_jobs(market, before_job_id=page.next_before_job_id) == ids[2:]
    refused = await refusal(ask(market, "ListJobs", pb.ListJobsRequest(before_job_id="job-none")))
    assert (refused.reason, refused.facts.field) == ("JOB_NOT_FOUND", "before_job_id")


# Requeue.


async def requeue(market: Market, job_id: str, reason: str = "it hangs") -> Any:
    return (await ask(market, "RequeueJob", pb.RequeueJobRequest(job_id=job_id, reason=reason))).job


async def told_to_cancel(daemon: Any, lease: Any) -> None:
    told = await daemon.expect("cancel_run")
    assert (told.lease.job_id, told.lease.lease_epoch) == (lease.job_id, lease.lease_epoch)


@pytest.mark.parametrize("how_far", ["offered", "accepted", "running"])
async def test_requeued_job_waits_again_without_a_charge(any_market: Market, how_far: str) -> None:
    market = any_market
    worker, payer = await market.provider(), await market.renter()
    daemon = await market.daemon(worker)
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
    await told_to_cancel(daemon, lease)
    await market.tick()  # and is not offered to the same provider at once
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_QUEUED
    assert await market.wallet(payer) == (4550, 450)
    (entry,) = (await audit_page(market, object="job")).entries
    assert (entry.action, entry.object_id) == ("job.requeue", job.job_id)
    assert json.loads(entry.before)["provider_id"] == worker.id
    assert json.loads(entry.after) == {"status": "queued", "reason": "it hangs"}
    (attempt,) = [one for one in (await market.why(job)).attempts if one.lease_epoch == lease.lease_epoch]
    assert (attempt.outcome, attempt.detail) == (jobs_pb2.ATTEMPT_OUTCOME_REVOKED, "it hangs")
    await market.assert_money_adds_up()


async def test_late_result_of_a_requeued_run_changes_nothing_and_the_next_one_is_billed(
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
    await told_to_cancel(hanging, lease)
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
    assert (await market.earned(slow), await market.earned(fast)) == (0, 19)
    await market.assert_money_adds_up()


async def test_requeue_and_finish_at_once_have_one_winner(any_market: Market) -> None:
    market = any_market
    payer, worker = await market.renter(), await market.provider()
    daemon = await market.daemon(worker)
    job, lease = await market.running_job(payer, worker, daemon, output=b"Hello.")
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


async def test_job_that_waits_or_ended_is_not_requeued(any_market: Market) -> None:
    market = any_market
    payer, worker = await market.renter(), await market.provider()
    waiting = await market.submit(payer)
    refused = await refusal(requeue(market, waiting.job_id))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "queued")
    await market.cancel(waiting, payer)
    refused = await refusal(requeue(market, waiting.job_id))
    assert (refused.reason, refused.facts.status) == ("JOB_ALREADY_FINAL", "cancelled")
    assert (await refusal(requeue(market, "job-none"))).reason == "JOB_NOT_FOUND"
    daemon = await market.daemon(worker)
    job, _ = await market.running_job(payer, worker, daemon)
    await market.cancel(job, payer)
    assert (await refusal(requeue(market, job.job_id))).reason == "WRONG_STATE"
    assert not (await audit_page(market, object="job")).entries


# Rates.


async def change(market: Market, kind: int, rate: int) -> dict[int, int]:
    request = pb.ChangeRateRequest(job_type=kind, halala_per_minute=rate)  # type: ignore[arg-type]
    return {one.job_type: one.halala_per_minute for one in (await ask(market, "ChangeRate", request)).rates}


async def public_rates(market: Market, worker: Party) -> dict[str, int]:
    request = renters_pb2.ListAvailableProvidersRequest()
    (offered,) = (await market.renter_service.ListAvailableProviders(request)).providers
    assert offered.id == worker.id
    return dict(offered.rates_halala_per_minute)


async def test_changed_rate_is_quoted_shown_and_billed_and_never_touches_earlier_jobs(
    any_market: Market,
) -> None:
    market = any_market
    payer, worker = await market.renter(), await market.provider()
    daemon = await market.daemon(worker)
    await daemon.heartbeat()
    earlier, lease = await market.running_job(payer, worker, daemon, output=b"Hello.")
    assert (await public_rates(market, worker))["llm-inference"] == 150
    card = await change(market, LLM, 300)
    assert (card[LLM], card[TRAINING], len(card)) == (300, 250, 7)
    assert (await public_rates(market, worker))["llm-inference"] == 300
    market.clock.advance(60)
    await daemon.finished(lease, seconds=60)
    assert (await market.job(earlier)).billing.actual_cost_halala == 150
    await daemon.heartbeat()
    later = await market.submit(payer, worker)
    assert (later.cost_halala, later.rate_halala_per_minute) == (900, 300)
    listed = await ask(market, "ListRates", pb.ListRatesRequest())
    assert {one.job_type: one.halala_per_minute for one in listed.rates} == card
    await market.assert_money_adds_up()


async def test_rate_change_is_noted_with_before_and_after(any_market: Market) -> None:
    market = any_market
    await change(market, LLM, 300)
    await change(market, LLM, 300)  # nothing changes: nothing is noted
    await change(market, LLM, 140)
    newest, oldest = (await audit_page(market, object="rate")).entries
    assert (newest.action, newest.object_id) == ("rate.change", "llm-inference")
    assert [json.loads(one.before)["halala_per_minute"] for one in (oldest, newest)] == [150, 300]
    assert [json.loads(one.after)["halala_per_minute"] for one in (oldest, newest)] == [300, 140]


@pytest.mark.parametrize(("kind", "rate"), [(LLM, 0), (LLM, -1), (LLM, 100_001), (0, 100), (99, 100)])
async def test_rate_out_of_its_bounds_is_refused(market: Market, kind: int, rate: int) -> None:
    assert (await refusal(change(market, kind, rate))).reason == "INVALID_FIELD"
    listed = await ask(market, "ListRates", pb.ListRatesRequest())
    assert {one.halala_per_minute for one in listed.rates} == {100, 150, 200, 250}


async def test_changes_at_once_leave_an_unbroken_chain_in_the_log(any_market: Market) -> None:
    market = any_market
    await asyncio.gather(*(change(market, LLM, 200 + n) for n in range(10)))
    entries = (await audit_page(market, object="rate")).entries[::-1]
    befores = [json.loads(one.before)["halala_per_minute"] for one in entries]
    afters = [json.loads(one.after)["halala_per_minute"] for one in entries]
    assert befores == [150, *afters[:-1]]
    assert len(entries) == 10


# Dashboard.


async def test_dashboard_tells_fees_gpus_and_signups(any_market: Market) -> None:
    market = any_market
    offline = await provider(market, "Offline", "off@example.com")
    payer, worker = await market.renter(), await market.provider()
    await market.set_provider(worker, gpu_model="RTX 4090")
    daemon = await market.daemon(worker)
    await daemon.heartbeat()
    _, lease = await market.running_job(payer, worker, daemon, output=b"Hello.")
    market.clock.advance(75)
    await daemon.finished(lease, seconds=75)
    await daemon.heartbeat()
    await market.tick()

    async def board() -> admin_pb2.GetDashboardResponse:
        request = admin_pb2.GetDashboardRequest()
        return await market.admin_service.GetDashboard(request, metadata=market.admin_metadata)

    told = await board()
    assert (told.stats.fee_halala, told.stats.fee_today_halala) == (47, 47)
    assert [(one.gpu_model, one.providers, one.live) for one in told.gpus] == [("RTX 4090", 2, 1)]
    assert dict(told.providers_by_gpu) == {"RTX 4090": 2}
    assert {(one.role, one.id) for one in told.recent_signups} == {
        ("provider", offline),
        ("provider", worker.id),
        ("renter", payer.id),
    }
    market.clock.advance(24 * 3600)
    tomorrow = await board()
    assert (tomorrow.stats.fee_halala, tomorrow.stats.fee_today_halala) == (47, 0)


async def test_dashboard_shows_the_ten_newest_accounts(market: Market) -> None:
    for n in range(12):
        market.clock.advance(1)
        await renter(market, f"R{n}", f"r{n}@example.com")
    request = admin_pb2.GetDashboardRequest()
    told = await market.admin_service.GetDashboard(request, metadata=market.admin_metadata)
    assert [one.id for one in told.recent_signups] == list(range(12, 2, -1))
