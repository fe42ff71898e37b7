"""A provider's public history, from which anybody can recompute its reliability."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, providers_pb2, renters_pb2, sessions_pb2

from server.domain.jobs import FailureReason
from server.domain.leases import LeaseOutcome, LeaseState
from server.store import leases
from tests.server.store.rows import NOW_MS, Rows
from tests.support.running_server import Market, Party, refusal

pytestmark = pytest.mark.in_turns

SUCCEEDED, FAILED = jobs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, jobs_pb2.ATTEMPT_OUTCOME_FAILED
# The failures that are the provider's fault, as docs/renters.md and the proto define them.
FAULTS = {
    jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
    jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED,
    jobs_pb2.FAILURE_REASON_PROVIDER_LOST,
    jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED,
    jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE,
    jobs_pb2.FAILURE_REASON_GPU_FAILED,
    jobs_pb2.FAILURE_REASON_IMPOSSIBLE_REPORT,
}
UNFINISHED = {jobs_pb2.ATTEMPT_OUTCOME_LOST, jobs_pb2.ATTEMPT_OUTCOME_RELEASED}
FOR, AGAINST, NEITHER = (
    providers_pb2.ATTEMPT_WEIGHT_FOR,
    providers_pb2.ATTEMPT_WEIGHT_AGAINST,
    providers_pb2.ATTEMPT_WEIGHT_NEITHER,
)


async def history(market: Market, provider: Party, page_size: int = 200) -> list[providers_pb2.PastAttempt]:
    """The whole history, page by page, without a credential."""
    found: list[providers_pb2.PastAttempt] = []
    before = ""
    while True:
        request = providers_pb2.ListProviderHistoryRequest(
            provider_id=provider.id, before=before, page_size=page_size
        )
        page = await market.provider_service.ListProviderHistory(request)
        assert len(page.attempts) <= page_size
        found += page.attempts
        if not page.HasField("next_before"):
            return found
        before = page.next_before


def was_busy(attempt: providers_pb2.PastAttempt) -> bool:
    return (attempt.outcome, attempt.failure_reason) == (
        jobs_pb2.ATTEMPT_OUTCOME_RELEASED,
        jobs_pb2.FAILURE_REASON_ENGINE_BUSY,
    )


def recomputed(attempts: list[providers_pb2.PastAttempt]) -> tuple[float | None, int]:
    """The reliability by its definition, and the number of attempts that it counts."""
    newest = attempts[:50]
    good = sum(attempt.outcome == SUCCEEDED for attempt in newest)
    bad = sum(
        (attempt.outcome in UNFINISHED and not was_busy(attempt))
        or (attempt.outcome == FAILED and attempt.failure_reason in FAULTS)
        for attempt in newest
    )
    return (good / (good + bad) if good + bad else None), good + bad


async def shown(market: Market, provider: Party) -> list[tuple[float | None, int]]:
    """The reliability in the public list and in the provider's own profile."""
    await market.daemon(provider)
    request = renters_pb2.ListAvailableProvidersRequest()
    listed = (await market.renter_service.ListAvailableProviders(request)).providers
    own = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    found: list[Any] = [*(entry for entry in listed if entry.id == provider.id), own.provider]
    return [
        (entry.reliability if entry.HasField("reliability") else None, entry.reliability_attempts)
        for entry in found
    ]


@pytest.mark.parametrize("seed", range(5))
async def test_reliability_can_be_recomputed_from_the_public_history(any_market: Market, seed: int) -> None:
    market, rng = any_market, Random(seed)
    rows = Rows(market.server._database)
    renter_id = await rows.renter()
    provider, other = await market.provider(), await market.provider()
    expected = []
    for number in range(rng.choice([0, 3, 49, 50, 51, 90])):
        owner = other if rng.random() < 0.1 else provider
        was_attempt = rng.random() < 0.9
        state = LeaseState.RUNNING if was_attempt else LeaseState.OFFERED
        ref = await rows.leased(owner.id, await rows.job(renter_id), state, rng.randbytes(16))
        outcome = rng.choice([*LeaseOutcome, LeaseOutcome.SUCCEEDED, LeaseOutcome.FAILED])
        has_reason = outcome in (LeaseOutcome.FAILED, LeaseOutcome.RELEASED)
        reason = rng.choice([None, *FailureReason]) if has_reason else None
        at_ms = NOW_MS + number // 7  # some end at the same moment
        lease = await rows.lease(ref)
        await market.sql(partial(leases.end, lease, outcome, at_ms, failure_reason=reason, run_ms=number))
        if owner is provider and was_attempt:
            expected.append((at_ms, number))
    attempts = await history(market, provider, rng.choice([1, 7, 50, 200]))
    ended = [(attempt.ended_at.ToMilliseconds(), round(attempt.run_seconds * 1000)) for attempt in attempts]
    assert sorted(ended) == expected
    assert attempts == await history(market, provider)
    order = [(attempt.ended_at.ToMilliseconds(), attempt.number) for attempt in attempts]
    assert order == sorted(order, reverse=True)
    assert len({attempt.number for attempt in attempts}) == len(attempts)
    expected_reliability = recomputed(attempts)
    assert await shown(market, provider) == [expected_reliability, expected_reliability]
    counted = [attempt.counts for attempt in attempts[:50] if attempt.counts != NEITHER]
    assert expected_reliability[1] == len(counted)
    if counted:
        assert expected_reliability[0] == counted.count(FOR) / len(counted)


async def test_cancels_and_duration_limits_do_not_change_reliability(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(2)
    await daemon.finished(lease, seconds=1.5)
    job, lease = await market.running_job(renter, provider, daemon)
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    market.clock.advance(1)  # attempts that end in the same millisecond are ordered by number
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED)
    _, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(180)
    failed: dict[str, Any] = {"outcome": sessions_pb2.RUN_OUTCOME_FAILED, "seconds": 180}
    await daemon.finished(lease, failure_reason=jobs_pb2.FAILURE_REASON_DURATION_LIMIT, **failed)
    await daemon.heartbeat()
    _, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(1)
    await daemon.finished(lease, failure_reason=jobs_pb2.FAILURE_REASON_ENGINE_FAILED, **failed)
    attempts = await history(market, provider)
    assert [attempt.counts for attempt in attempts] == [AGAINST, NEITHER, NEITHER, FOR]
    assert attempts[1].failure_reason == jobs_pb2.FAILURE_REASON_DURATION_LIMIT
    first = attempts[3]
    assert (first.outcome, first.job_type, first.run_seconds) == (
        SUCCEEDED,
        jobs_pb2.JOB_TYPE_LLM_INFERENCE,
        1.5,
    )
    assert first.ended_at.ToMilliseconds() - first.started_at.ToMilliseconds() == 2000
    assert await shown(market, provider) == [(0.5, 2)] * 2


async def test_run_that_the_server_ended_at_its_limit_does_not_change_reliability(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider)
    await market.running_job(renter, provider, daemon)
    for _ in range(22):
        market.clock.advance(10)
        await daemon.heartbeat()
    await market.tick()
    await daemon.expect("cancel_run")
    (only,) = await history(market, provider)
    assert (only.outcome, only.failure_reason, only.counts) == (
        FAILED,
        jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
        NEITHER,
    )


async def test_history_shows_no_job_and_no_renter(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease)
    (only,) = await history(market, provider)
    assert job.job_id not in str(only)
    assert lease.lease_secret not in only.SerializeToString()
    assert {field.name for field, _ in only.ListFields()} <= {
        *("number", "job_type", "outcome", "failure_reason", "counts"),
        *("accepted_at", "started_at", "ended_at", "run_seconds"),
    }


@pytest.mark.parametrize("before", ["x", "1", "1-", "-1-2", "1-2-3", "99999999999999999-1"])
async def test_position_that_no_page_named_is_refused(market: Market, before: str) -> None:
    provider = await market.provider()
    request = providers_pb2.ListProviderHistoryRequest(provider_id=provider.id, before=before)
    refused = await refusal(market.provider_service.ListProviderHistory(request))
    assert (refused.reason, refused.facts.field) == ("PAGE_NOT_FOUND", "before")


async def test_history_of_an_unknown_provider_is_refused(market: Market) -> None:
    request = providers_pb2.ListProviderHistoryRequest(provider_id=999)
    refused = await refusal(market.provider_service.ListProviderHistory(request))
    assert refused.reason == "PROVIDER_NOT_FOUND"
