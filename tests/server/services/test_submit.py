"""Submits: what is refused and why, which provider gets the job, and that repeats are harmless."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, ledger_pb2, providers_pb2, renters_pb2, sessions_pb2

from server.store import queue
from tests.support.running_server import MODEL, Market, Party, refusal

QUEUED, PENDING = jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_PENDING


async def post_heartbeat(market: Market, provider: Party) -> None:
    await market.provider_service.Heartbeat(
        providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus(gpu_name="RTX 4090")),
        metadata=provider.metadata,
    )


async def test_submit_without_money_is_refused_with_the_shortfall(market: Market) -> None:
    renter = await market.renter(100)
    refused = await refusal(market.submit(renter))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
    facts = refused.facts
    assert (facts.balance_halala, facts.required_halala, facts.shortfall_halala) == (100, 450, 350)
    assert await market.wallet(renter) == (100, 0)
    await market.assert_money_adds_up()


async def test_concurrent_submits_take_no_more_than_the_wallet_has(any_market: Market) -> None:
    renter = await any_market.renter(2000)
    outcomes = await asyncio.gather(*(any_market.submit(renter) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(outcome, jobs_pb2.Job) for outcome in outcomes) == 4
    assert await any_market.wallet(renter) == (200, 1800)
    await any_market.assert_money_adds_up()


async def test_suspended_renter_is_refused(market: Market) -> None:
    renter = await market.renter()
    await market.set_renter(renter, state="suspended")
    refused = await refusal(market.submit(renter))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RENTER_SUSPENDED")


async def test_unknown_provider_is_not_found(market: Market) -> None:
    refused = await refusal(market.submit(await market.renter(), Party(999, "")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PROVIDER_NOT_FOUND")
    assert refused.facts.field == "provider_id"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({}, "offline"),
        ({"state": "paused"}, "paused"),
        ({"state": "suspended"}, "suspended"),
        ({"state": "pending_approval"}, "pending_approval"),
        ({"draining": True}, "draining"),
    ],
)
async def test_named_provider_that_takes_no_jobs_is_refused_with_its_status(
    market: Market, state: dict[str, Any], status: str
) -> None:
    provider, renter = await market.provider(), await market.renter()
    if state:
        await post_heartbeat(market, provider)
        await market.set_provider(provider, **state)
    refused = await refusal(market.submit(renter, provider))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_UNAVAILABLE")
    assert (refused.facts.status, refused.facts.advice) == (status, "leave provider_id out")
    assert await market.wallet(renter) == (5000, 0)


async def test_provider_goes_offline_thirty_seconds_after_its_last_heartbeat(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=5)
    market.clock.advance(29.9)
    await market.submit(renter, provider)
    await daemon.expect("job_offer")
    market.clock.advance(0.1)
    assert (await refusal(market.submit(renter, provider))).facts.status == "offline"
    await daemon.heartbeat()
    await market.submit(renter, provider)


async def test_model_that_the_provider_does_not_serve_is_refused(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    params = jobs_pb2.JobParams(model="other", prompt="hi")
    refused = await refusal(market.submit(renter, provider, params=params))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_SERVED")
    assert refused.facts.field == "params.model"
    assert MODEL in refused.message


async def test_job_type_that_the_provider_does_not_run_is_refused(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    refused = await refusal(market.submit(renter, provider, job_type=jobs_pb2.JOB_TYPE_TRAINING))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "JOB_TYPE_NOT_SERVED")
    assert refused.facts.field == "job_type"


async def test_job_for_a_provider_that_heartbeats_by_post_only_is_queued(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await post_heartbeat(market, provider)
    job = await market.submit(renter, provider)
    assert (job.status, job.provider_id) == (QUEUED, provider.id)
    daemon = await market.daemon(provider)
    offer = await daemon.expect("job_offer")
    assert offer.lease.job_id == job.job_id


async def test_job_without_a_provider_waits_for_the_first_provider_that_can_run_it(market: Market) -> None:
    renter = await market.renter()
    job = await market.submit(renter)
    assert job.status == QUEUED
    assert not job.HasField("provider_id")
    other = await market.daemon(await market.provider(), models=[sessions_pb2.ServedModel(name="other")])
    provider = await market.provider()
    daemon = await market.daemon(provider)
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id
    now = await market.job(job)
    assert (now.status, now.provider_id) == (PENDING, provider.id)
    await other.heard_nothing()


async def test_offer_contains_the_whole_request(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    params = jobs_pb2.JobParams(
        model=MODEL,
        messages=[jobs_pb2.ChatMessage(role="user", content="مرحبا \N{GRINNING FACE}")],
        max_tokens=7,
        temperature=0,
    )
    spec = jobs_pb2.ContainerSpec(
        image_type="vllm-serve", command=["a", ""], env={"K": "v"}, gpu_count=1, vram_required_mb=0
    )
    await market.submit(renter, provider, params=params, container_spec=spec, duration_minutes=0.1)
    offer = await daemon.expect("job_offer")
    assert (offer.params, offer.container_spec) == (params, spec)
    assert (offer.attempt, offer.lease.lease_epoch) == (1, 1)
    assert offer.job_type == jobs_pb2.JOB_TYPE_LLM_INFERENCE
    assert (offer.run_limit.ToMilliseconds(), offer.offer_timeout.ToMilliseconds()) == (6_000, 10_000)
    assert len(offer.lease.lease_secret) == 16


async def test_daemon_with_full_slots_gets_the_next_job_when_one_ends(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=1)
    _, lease = await market.running_job(renter, provider, daemon)
    waiting = await market.submit(renter, provider)
    assert waiting.status == QUEUED
    await daemon.finished(lease)
    assert (await daemon.expect("job_offer")).lease.job_id == waiting.job_id


async def test_higher_priority_is_offered_first(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    jobs = {}
    for priority in (1, 9, 5):
        jobs[priority] = await market.submit(renter, priority=priority)
        market.clock.advance(1)
    daemon = await market.daemon(provider, slots=3)
    offered = [(await daemon.expect("job_offer")).lease.job_id for _ in jobs]
    assert offered == [jobs[9].job_id, jobs[5].job_id, jobs[1].job_id]


async def test_capacity_update_brings_waiting_jobs(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=0, models=[])
    job = await market.submit(renter)
    await daemon.heard_nothing()
    models = [sessions_pb2.ServedModel(name=MODEL)]
    await daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=models))
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_draining_daemon_gets_no_more_jobs(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    await daemon.say(drain=sessions_pb2.Drain())
    await daemon.heard_nothing()
    assert (await market.submit(renter)).status == QUEUED
    await market.tick()
    await daemon.heard_nothing()
    assert (await refusal(market.submit(renter, provider))).facts.status == "draining"


# Idempotency.


async def test_same_key_and_body_return_the_first_job(market: Market) -> None:
    renter = await market.renter()
    first = await market.submit(renter, key="k")
    again = await market.submit(renter, key="k")
    assert again.job_id == first.job_id
    assert await market.wallet(renter) == (4550, 450)


async def test_same_key_returns_the_first_job_after_it_ended_and_the_wallet_is_empty(
    market: Market,
) -> None:
    renter = await market.renter(450)
    first = await market.submit(renter, key="k")
    again = await market.submit(renter, key="k")
    assert again.job_id == first.job_id
    await market.cancel(first, renter)
    assert (await market.submit(renter, key="k")).status == jobs_pb2.JOB_STATE_CANCELLED


async def test_same_key_with_another_body_is_refused(market: Market) -> None:
    renter = await market.renter()
    await market.submit(renter, key="k")
    refused = await refusal(market.submit(renter, key="k", duration_minutes=4))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CLASH")
    assert await market.wallet(renter) == (4550, 450)


async def test_simultaneous_submits_with_one_key_create_one_job(any_market: Market) -> None:
    renter = await any_market.renter()
    jobs = await asyncio.gather(*(any_market.submit(renter, key="k") for _ in range(10)))
    assert len({job.job_id for job in jobs}) == 1
    assert await any_market.wallet(renter) == (4550, 450)


async def test_key_belongs_to_its_renter(market: Market) -> None:
    renter, other = await market.renter(), await market.renter()
    first, second = await market.submit(renter, key="k"), await market.submit(other, key="k")
    assert first.job_id != second.job_id


async def test_refused_submit_does_not_use_up_its_key(market: Market) -> None:
    renter = await market.renter(0)
    assert (await refusal(market.submit(renter, key="k"))).reason == "INSUFFICIENT_BALANCE"
    await market.ledger_service.CreditRenter(
        ledger_pb2.CreditRenterRequest(renter_id=renter.id, amount_halala=450),
        metadata=market.admin_metadata,
    )
    assert (await market.submit(renter, key="k")).status == QUEUED


async def test_a_prompt_of_a_million_characters_of_four_bytes_goes_through_both_databases(
    any_market: Market,
) -> None:
    provider, renter = await any_market.provider(), await any_market.renter()
    daemon = await any_market.daemon(provider)
    prompt = "\N{GRINNING FACE}" * 1_000_000
    await any_market.submit(renter, provider, params=jobs_pb2.JobParams(model=MODEL, prompt=prompt))
    assert (await daemon.expect("job_offer")).params.prompt == prompt


async def test_a_misspelt_model_is_refused_with_the_nearest_that_the_provider_serves(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    params = jobs_pb2.JobParams(model="Test/Modle", prompt="Say hello.")
    refused = await refusal(market.submit(renter, provider, params=params))
    assert refused.reason == "MODEL_NOT_SERVED"
    assert refused.message.endswith(f"serves {MODEL}; did you mean {MODEL}?")


# Jobs that name no provider, and what is known of the supply.


async def test_model_that_nobody_serves_is_refused_with_the_closest_name(any_market: Market) -> None:
    market = any_market
    await market.daemon(await market.provider())
    renter = await market.renter()
    params = jobs_pb2.JobParams(model=MODEL[:-1], prompt="Hi.")
    refused = await refusal(market.submit(renter, params=params))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_SERVED")
    assert refused.facts.field == "params.model"
    assert f"the closest names are {MODEL}" in refused.message
    assert await market.wallet(renter) == (5000, 0)
    waiting = await market.submit(renter, params=params, wait_for_supply=True)
    assert waiting.status == QUEUED
    await market.assert_money_adds_up()


async def test_job_type_that_nobody_runs_is_refused(market: Market) -> None:
    await market.daemon(await market.provider(), job_types=[jobs_pb2.JOB_TYPE_LLM_INFERENCE])
    renter = await market.renter()
    training: dict[str, Any] = {
        "job_type": jobs_pb2.JOB_TYPE_TRAINING,
        "params": jobs_pb2.JobParams(),
        "container_spec": jobs_pb2.ContainerSpec(image="docker.io/library/python:3.12"),
    }
    refused = await refusal(market.submit(renter, **training))
    assert (refused.reason, refused.facts.field) == ("JOB_TYPE_NOT_SERVED", "job_type")
    assert "choose one of llm-inference" in refused.message
    assert (await market.submit(renter, **training, wait_for_supply=True)).status == QUEUED


async def test_provider_that_was_there_a_moment_ago_counts_as_supply(market: Market) -> None:
    """A restart, a short outage: the job waits. After ten minutes the others' word counts."""
    gone, there = await market.provider(), await market.provider()
    daemon = await market.daemon(gone)
    await market.daemon(there, models=[sessions_pb2.ServedModel(name="another/model")])
    daemon.cut()
    renter = await market.renter()
    market.clock.advance(599)
    await post_heartbeat(market, there)
    assert (await market.submit(renter)).status == QUEUED
    market.clock.advance(2)
    await post_heartbeat(market, there)
    assert (await refusal(market.submit(renter))).reason == "MODEL_NOT_SERVED"


@pytest.mark.parametrize("posts", [False, True])
async def test_job_waits_where_nothing_is_known_of_models(market: Market, posts: bool) -> None:
    """No provider at all, or one that only posts heartbeats: nobody knows what may be served."""
    if posts:
        await post_heartbeat(market, await market.provider())
    assert (await market.submit(await market.renter())).status == QUEUED


@pytest.mark.parametrize("state", ["suspended", "pending_approval"])
async def test_provider_that_is_not_admitted_is_no_supply(market: Market, state: str) -> None:
    refused, there = await market.provider(), await market.provider()
    await market.daemon(refused)
    await market.daemon(there, models=[sessions_pb2.ServedModel(name="another/model")])
    await market.set_provider(refused, state=state)
    await market.later(30)
    await post_heartbeat(market, there)
    assert (await refusal(market.submit(await market.renter()))).reason == "MODEL_NOT_SERVED"


async def test_repeat_returns_the_first_job_though_nobody_serves_its_model_any_more(market: Market) -> None:
    renter = await market.renter()
    first = await market.submit(renter, key="k")
    await market.daemon(await market.provider(), models=[sessions_pb2.ServedModel(name="another/model")])
    assert (await market.submit(renter, key="k")).job_id == first.job_id
    assert (await refusal(market.submit(renter, key="l"))).reason == "MODEL_NOT_SERVED"


async def test_job_that_is_submitted_while_a_slot_becomes_free_does_not_wait_for_the_next_look(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the queue began before the job was there, and the submit saw no free slot."""
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    looked, may_go_on, glance = threading.Event(), threading.Event(), queue.glance

    def slow(provider_id: int) -> tuple[int, int, bool]:
        found = glance(provider_id)
        looked.set()
        assert may_go_on.wait(20)
        return found

    monkeypatch.setattr(queue, "glance", slow)
    await daemon.finished(lease, seconds=0)
    assert await asyncio.to_thread(looked.wait, 20)
    monkeypatch.setattr(queue, "glance", glance)
    job = await market.submit(renter)
    may_go_on.set()
    assert (await daemon.expect("job_offer")).lease.job_id == job.job_id


async def test_job_type_that_no_daemon_can_run_is_refused_also_if_the_job_would_wait(market: Market) -> None:
    renter, provider = await market.renter(), await market.provider()
    await market.daemon(provider)
    for who in (None, provider):
        submit = market.submit(renter, who, job_type=jobs_pb2.JOB_TYPE_VLLM_SERVE, wait_for_supply=True)
        refused = await refusal(submit)
        assert (refused.reason, refused.facts.field) == ("JOB_TYPE_NOT_SERVED", "job_type")
        assert "llm-inference" in refused.message
    assert await market.wallet(renter) == (5000, 0)


async def test_price_list_of_a_provider_has_the_job_types_that_it_runs(market: Market) -> None:
    provider = await market.provider()
    await market.daemon(provider)
    request = renters_pb2.ListAvailableProvidersRequest()
    (listed,) = (await market.renter_service.ListAvailableProviders(request)).providers
    assert dict(listed.rates_halala_per_minute) == {"llm-inference": 150}
