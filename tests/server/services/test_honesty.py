"""Careless and hostile messages cost the other parties nothing. Each case was once a bug."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, providers_pb2, sessions_pb2

from tests.support.running_server import MODEL, Market, refusal

FAILED = sessions_pb2.RUN_OUTCOME_FAILED
ACCEPTED = sessions_pb2.RESULT_DISPOSITION_ACCEPTED


async def test_many_submits_that_name_one_provider_all_succeed(any_market: Market) -> None:
    provider, renter = await any_market.provider(), await any_market.renter(450 * 24)
    await any_market.daemon(provider)
    jobs = await asyncio.gather(*(any_market.submit(renter, provider) for _ in range(24)))
    states = [job.status for job in jobs]
    assert states.count(jobs_pb2.JOB_STATE_PENDING) == 1
    assert states.count(jobs_pb2.JOB_STATE_QUEUED) == 23
    assert await any_market.wallet(renter) == (0, 450 * 24)
    await any_market.assert_money_adds_up()


async def test_limit_that_was_not_reached_is_not_charged(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(60)
    reason = jobs_pb2.FAILURE_REASON_DURATION_LIMIT
    assert await daemon.finished(lease, outcome=FAILED, failure_reason=reason, seconds=60) == ACCEPTED
    assert (await market.job(job)).billing.actual_cost_halala == 0
    assert await market.wallet(renter) == (5000, 0)
    assert await market.earned(provider) == 0


async def test_cancel_without_a_request_is_not_charged(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(60)
    outcome = sessions_pb2.RUN_OUTCOME_CANCELLED
    assert await daemon.finished(lease, outcome=outcome, seconds=60) == ACCEPTED
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_FAILED
    assert ended.billing.actual_cost_halala == 0


async def test_empty_chunk_ends_only_its_lease(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=1))
    directive = await daemon.expect("lease_directive")
    assert (directive.lease, directive.action) == (lease, sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD)
    assert (await daemon.expect("job_offer")).lease.lease_epoch == lease.lease_epoch + 1
    assert (await market.job(job)).attempt == 1
    await daemon.heard_nothing()


async def test_output_that_is_not_utf8_can_be_fetched_in_full(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for seq in range(1, 33):
        await daemon.output(lease, seq, b"\xff" * 65536)
    assert await daemon.finished(lease, last_output_seq=32) == ACCEPTED
    output = await market.output(job, renter)
    assert len(output.response) == 32 * 65536


async def test_blanks_around_a_model_name_are_removed(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.submit(renter, provider, params=jobs_pb2.JobParams(model=f" {MODEL}\n", prompt="hi"))
    assert (await daemon.expect("job_offer")).params.model == MODEL


@pytest.mark.parametrize(
    ("field", "wants"),
    [
        ("gpu_requirements.min_vram_gb", {"gpu_requirements": jobs_pb2.GpuRequirements(min_vram_gb=8)}),
        ("gpu_requirements.min_vram_gb", {"container_spec": jobs_pb2.ContainerSpec(vram_required_mb=8000)}),
        ("gpu_requirements.gpu_model", {"gpu_requirements": jobs_pb2.GpuRequirements(gpu_model="H100")}),
    ],
)
async def test_requirement_that_the_named_provider_cannot_meet_is_refused(
    market: Market, field: str, wants: dict[str, Any]
) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    refused = await refusal(market.submit(renter, provider, **wants))
    assert (refused.code, refused.facts.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert await market.wallet(renter) == (5000, 0)


async def test_environment_with_a_nul_character_is_refused(market: Market) -> None:
    renter = await market.renter()
    for env in ({"A": "x\0"}, {"A\0": "x"}, {"A" * 9000: "x"}):
        refused = await refusal(market.submit(renter, container_spec=jobs_pb2.ContainerSpec(env=env)))
        assert refused.reason == "INVALID_FIELD"
        assert refused.facts.field.startswith("container_spec.env")


async def test_provider_does_not_see_a_job_that_it_never_ran(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=0)
    job = await market.submit(renter, provider)
    await market.cancel(job, renter)
    await daemon.heard_nothing()
    me = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert me.provider.total_jobs == 0


async def test_offer_lost_with_its_stream_is_repeated_at_once(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.expect("job_offer")
    daemon.cut()
    again = await market.daemon(provider)
    offer = await again.expect("job_offer")
    assert (offer.lease.job_id, offer.lease.lease_epoch, offer.attempt) == (job.job_id, 2, 1)
