"""Reports that cannot be true: uncharged, in the provider's public history, and with counts that were cut."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, providers_pb2, sessions_pb2

from tests.server.services.test_reliability import history
from tests.support.running_server import MODEL, Daemon, Market, Party

FAILED, CANCELLED = sessions_pb2.RUN_OUTCOME_FAILED, sessions_pb2.RUN_OUTCOME_CANCELLED
IMPOSSIBLE = jobs_pb2.FAILURE_REASON_IMPOSSIBLE_REPORT
AGAINST = providers_pb2.ATTEMPT_WEIGHT_AGAINST
FOR = providers_pb2.ATTEMPT_WEIGHT_FOR


async def ended(
    market: Market,
    provider: Party,
    daemon: Daemon,
    *,
    params: jobs_pb2.JobParams | None = None,
    **report: Any,
) -> jobs_pb2.Job:
    """An inference of a minute with five bytes of output, and this report."""
    changes = {"params": params} if params is not None else {}
    renter = await market.renter()
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello", **changes)
    market.clock.advance(60)
    await daemon.finished(lease, seconds=60, last_output_seq=1, **report)
    return await market.job(job)


@pytest.mark.parametrize(
    "name",
    [
        "CONTAINER_EXIT",
        "OUT_OF_MEMORY",
        "DISK_LIMIT",
        "PROCESS_LIMIT",
        "IMAGE_PULL_FAILED",
        "OUTPUT_TOO_LARGE",
    ],
)
async def test_reason_of_a_container_charges_no_inference(market: Market, name: str) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    number = jobs_pb2.FailureReason.Value(f"FAILURE_REASON_{name}")
    job = await ended(market, provider, daemon, outcome=FAILED, failure_reason=number)
    assert (job.status, job.failure_reason) == (jobs_pb2.JOB_STATE_FAILED, IMPOSSIBLE)
    assert job.billing.actual_cost_halala == 0
    assert name in job.failure_message
    (attempt,) = await history(market, provider)
    assert (attempt.failure_reason, attempt.counts) == (IMPOSSIBLE, AGAINST)
    await market.assert_money_adds_up()


async def test_cancel_that_nobody_asked_for_counts_against_the_provider(any_market: Market) -> None:
    provider = await any_market.provider()
    daemon = await any_market.daemon(provider)
    job = await ended(any_market, provider, daemon, outcome=CANCELLED)
    assert (job.failure_reason, job.billing.actual_cost_halala) == (IMPOSSIBLE, 0)
    (attempt,) = await history(any_market, provider)
    assert attempt.outcome == jobs_pb2.ATTEMPT_OUTCOME_CANCELLED
    assert (attempt.failure_reason, attempt.counts) == (IMPOSSIBLE, AGAINST)


@pytest.mark.parametrize(
    "reason", [jobs_pb2.FAILURE_REASON_BAD_PARAMS, jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG]
)
async def test_excuse_that_the_server_can_refute_counts_against_the_provider(
    market: Market, reason: Any
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)  # which announces a context of 2,048 tokens
    await ended(market, provider, daemon, outcome=FAILED, failure_reason=reason)
    await daemon.heartbeat()
    long = jobs_pb2.JobParams(model=MODEL, prompt="x" * 2048, temperature=0.5)
    await ended(market, provider, daemon, params=long, outcome=FAILED, failure_reason=reason)
    second, first = await history(market, provider)
    assert (first.failure_reason, first.counts) == (IMPOSSIBLE, AGAINST)
    assert (second.failure_reason, second.counts) == (reason, providers_pb2.ATTEMPT_WEIGHT_NEITHER)


async def test_counts_are_bounded_by_what_was_relayed(any_market: Market) -> None:
    provider = await any_market.provider()
    daemon = await any_market.daemon(provider)
    true = jobs_pb2.Usage(prompt_tokens=12, completion_tokens=5, first_token_ms=900, tokens_per_second=2.5)
    assert (await ended(any_market, provider, daemon, usage=true)).usage == true
    await daemon.heartbeat()
    thoughts = jobs_pb2.Usage(completion_tokens=200)
    job = await ended(any_market, provider, daemon, usage=thoughts)
    assert job.usage == jobs_pb2.Usage(completion_tokens=6, bounded=["completion_tokens"])
    await daemon.heartbeat()
    false = jobs_pb2.Usage(prompt_tokens=100_000, completion_tokens=5)
    job = await ended(any_market, provider, daemon, usage=false)
    assert job.usage.bounded == ["prompt_tokens"]
    assert job.usage.prompt_tokens < 2000
    assert job.status == jobs_pb2.JOB_STATE_COMPLETED
    counted = [(attempt.failure_reason, attempt.counts) for attempt in await history(any_market, provider)]
    assert counted == [(IMPOSSIBLE, AGAINST), (0, FOR), (0, FOR)]


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": -1},
        {"completion_tokens": -(2**31)},
        {"first_token_ms": -5},
        {"tokens_per_second": math.nan},
        {"tokens_per_second": math.inf},
        {"tokens_per_second": -0.5},
    ],
    ids=str,
)
async def test_counts_that_are_no_counts_are_left_out(market: Market, counts: dict[str, Any]) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    usage = jobs_pb2.Usage(**({"completion_tokens": 2} | counts))
    job = await ended(market, provider, daemon, usage=usage)
    (name,) = counts
    assert job.status == jobs_pb2.JOB_STATE_COMPLETED
    assert getattr(job.usage, name) == 0


async def test_run_time_is_bounded_by_the_servers_clock(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello")
    market.clock.advance(60)
    await daemon.finished(lease, seconds=2**33, last_output_seq=1)
    billed = (await market.job(job)).billing
    assert (billed.billed_seconds, billed.actual_cost_halala) == (60, 150)


async def test_negative_run_time_ends_the_lease_without_a_charge(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello")
    await daemon.finish(lease, seconds=-(2**33), last_output_seq=1)
    assert (await daemon.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
    assert await market.wallet(renter) == (4550, 450)
    (attempt,) = await history(market, provider)
    assert attempt.counts == AGAINST
