"""Outputs and cancels in each state of a job, and who may see a job."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from server.domain.leases import MARKER_BYTES
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party, refusal

FAILED = sessions_pb2.RUN_OUTCOME_FAILED
STOP = sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
NOT_YET = jobs_pb2.OUTPUT_AVAILABILITY_NOT_YET


async def job_in(state: str, market: Market, renter: Party, provider: Party, daemon: Daemon) -> jobs_pb2.Job:
    """A job in this state."""
    if state == "queued":
        params = jobs_pb2.JobParams(model="served by nobody", prompt="x")
        return await market.submit(renter, params=params, wait_for_supply=True)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    if state == "assigned":
        await daemon.accept(lease)
    elif state != "pending":
        await daemon.start(lease)
    if state == "completed":
        await daemon.output(lease, 1, b"text")
        await daemon.finished(lease, last_output_seq=1)
    elif state == "empty":
        await daemon.finished(lease)
    elif state == "failed":
        message = "the engine broke"
        await daemon.finished(lease, outcome=FAILED, failure_message=message)
    await daemon.heard_nothing()
    return job


@pytest.mark.parametrize("state", ["queued", "pending", "assigned", "running"])
async def test_output_of_an_unfinished_job_is_not_ready(market: Market, state: str) -> None:
    provider, renter = await market.provider(), await market.renter()
    job = await job_in(state, market, renter, provider, await market.daemon(provider))
    output = await market.output(job, renter)
    assert output.availability == NOT_YET
    assert state in output.message
    assert output.status == jobs_pb2.JobState.Value(f"JOB_STATE_{state.upper()}")
    assert not output.HasField("billing")


async def test_output_is_not_shown_before_the_job_completed(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"half")
    output = await market.output(job, renter)
    assert (output.availability, output.response) == (NOT_YET, "")


async def test_text_is_joined_across_chunks_that_split_a_character(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    text = "مرحبا \N{GRINNING FACE}"
    for seq, byte in enumerate(text.encode(), 1):
        await daemon.output(lease, seq, bytes([byte]))
    usage = jobs_pb2.Usage(prompt_tokens=3, completion_tokens=5, first_token_ms=7, tokens_per_second=1.5)
    await daemon.finished(lease, last_output_seq=len(text.encode()), usage=usage)
    output = await market.output(job, renter)
    assert output.availability == jobs_pb2.OUTPUT_AVAILABILITY_READY
    assert (output.type, output.response, output.usage) == ("text", text, usage)
    assert output.content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ({"prompt_tokens": -1, "completion_tokens": 5}, {"completion_tokens": 5}),
        ({"completion_tokens": -(2**31), "first_token_ms": -7}, {}),
        ({"tokens_per_second": float("nan"), "prompt_tokens": 3}, {"prompt_tokens": 3}),
        ({"tokens_per_second": float("inf"), "prompt_tokens": 3}, {"prompt_tokens": 3}),
        ({"tokens_per_second": -0.5, "prompt_tokens": 3}, {"prompt_tokens": 3}),
    ],
)
async def test_count_that_cannot_be_true_is_dropped_and_the_session_goes_on(
    market: Market, counts: dict[str, Any], kept: dict[str, Any]
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"Hello")
    await daemon.finished(lease, last_output_seq=1, usage=jobs_pb2.Usage(**counts))
    output = await market.output(job, renter)
    assert (output.response, output.usage) == ("Hello", jobs_pb2.Usage(**kept))
    await daemon.heard_nothing()


async def test_image_is_returned_as_bytes(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"\x89PNG\xff")
    await daemon.finished(lease, last_output_seq=1, content_type="image/png")
    output = await market.output(job, renter)
    assert (output.type, output.data, output.content_type) == ("image", b"\x89PNG\xff", "image/png")


async def test_job_that_wrote_nothing_has_an_empty_output(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job = await job_in("empty", market, renter, provider, await market.daemon(provider))
    assert (await market.output(job, renter)).availability == jobs_pb2.OUTPUT_AVAILABILITY_EMPTY


async def test_output_of_a_failed_job_is_refused_with_reason_and_refund(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job = await job_in("failed", market, renter, provider, await market.daemon(provider))
    refused = await refusal(market.output(job, renter))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_FAILED")
    facts = refused.facts
    assert (facts.status, facts.reason) == ("failed", "ENGINE_FAILED")
    assert (facts.charged_halala, facts.refunded_halala) == (0, 450)
    assert "the engine broke" in refused.message


async def test_only_the_parties_of_a_job_and_the_operator_see_it(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job = await job_in("completed", market, renter, provider, await market.daemon(provider))
    strangers = [await market.provider(), await market.renter(0)]
    for stranger in strangers:
        assert (await refusal(market.output(job, stranger))).reason == "NOT_OWNER"
        request = jobs_pb2.GetJobRequest(job_id=job.job_id)
        look = market.job_service.GetJob(request, metadata=stranger.metadata)
        assert (await refusal(look)).reason == "NOT_OWNER"
    assert (await refusal(market.cancel(job, strangers[1]))).reason == "NOT_OWNER"
    for party in (provider, renter):
        assert (await market.output(job, party)).response == "text"


async def test_unknown_job_is_not_found(market: Market) -> None:
    renter = await market.renter(0)
    for call in (market.output, market.cancel):
        refused = await refusal(call(jobs_pb2.Job(job_id="job-none"), renter))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


@pytest.mark.parametrize("state", ["queued", "pending", "assigned"])
async def test_job_that_is_not_running_is_cancelled_at_once(market: Market, state: str) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await job_in(state, market, renter, provider, daemon)
    cancelled = await market.cancel(job, renter)
    assert cancelled.status == jobs_pb2.JOB_STATE_CANCELLED
    assert cancelled.billing.refund_halala == 450
    assert await market.wallet(renter) == (5000, 0)
    if state != "queued":
        assert (await daemon.expect("cancel_run")).lease.job_id == job.job_id
    await market.assert_money_adds_up()
    refused = await refusal(market.output(job, renter))
    assert (refused.reason, refused.facts.refunded_halala) == ("JOB_CANCELLED", 450)


@pytest.mark.parametrize("by_operator", [False, True])
async def test_running_job_is_cancelled_once_its_daemon_has_stopped_it(
    market: Market, by_operator: bool
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    who = Party(0, market.admin_metadata[0][1].removeprefix("Bearer ")) if by_operator else renter
    asked = await market.cancel(job, who)
    assert (asked.status, asked.cancel_requested) == (jobs_pb2.JOB_STATE_RUNNING, True)
    assert (await daemon.expect("cancel_run")).lease == lease
    market.clock.advance(60)
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED, seconds=60)
    ended = await market.job(job)
    assert (ended.status, ended.billing.actual_cost_halala) == (jobs_pb2.JOB_STATE_CANCELLED, 150)
    assert not ended.cancel_requested
    assert await market.earned(provider) == 112  # and a half
    await market.assert_money_adds_up()


async def test_job_that_completes_before_the_cancel_arrives_stays_completed(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    await daemon.finished(lease)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_COMPLETED


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_ended_job_cannot_be_cancelled(market: Market, state: str) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await job_in("pending" if state == "cancelled" else state, market, renter, provider, daemon)
    if state == "cancelled":
        await market.cancel(job, renter)
    before = await market.job(job)
    refused = await refusal(market.cancel(job, renter))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ALREADY_FINAL")
    assert refused.facts.status == state
    assert await market.job(job) == before


async def test_cancel_is_sent_again_after_a_reconnect(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    daemon.cut()
    await market.cancel(job, renter)
    again = market.connect(provider)
    await again.hello(held_leases=[lease])
    assert (await again.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_KEEP
    assert (await again.expect("cancel_run")).lease == lease


# Truncated outputs.


@pytest.mark.parametrize("truncated", [False, True])
async def test_truncated_output_is_marked(market: Market, truncated: bool) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"text")
    await daemon.finished(lease, last_output_seq=1, output_truncated=truncated)
    output = await market.output(job, renter)
    assert (output.response, output.truncated) == ("text", truncated)


async def test_output_limit_is_in_the_offer_and_enforced_against_a_hostile_daemon(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with running_server.running(sqlite_url, clock, max_output_bytes=2000) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider)
        job = await market.submit(renter, provider)
        offer = await daemon.expect("job_offer")
        assert offer.output_limit_bytes == 2000
        await daemon.start(offer.lease)
        await daemon.output(offer.lease, 1, b"x" * (2000 + MARKER_BYTES))
    # The offer fixes the limit: a restart with another setting does not change it.
    async with running_server.running(sqlite_url, clock, max_output_bytes=5000) as market:
        daemon = market.connect(provider)
        await daemon.hello(held_leases=[offer.lease])
        await daemon.expect("lease_directive")
        await daemon.say(output_chunk=sessions_pb2.OutputChunk(lease=offer.lease, seq=2, data=b"y"))
        assert (await daemon.expect("lease_directive")).action == STOP
        # The attempt is lost, and its output is discarded.
        assert (await market.job(job)).output_bytes == 0
