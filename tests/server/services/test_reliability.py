"""The public history of a provider, and that its reliability can be recomputed from it by anybody."""

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

SUCCEEDED, FAILED = jobs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, jobs_pb2.ATTEMPT_OUTCOME_FAILED
# As docs/renters.md and the proto define it, written down once more: what fails by the provider's fault.
FAULTS = {
    jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
    jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED,
    jobs_pb2.FAILURE_REASON_PROVIDER_LOST,
    jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED,
    jobs_pb2.FAILURE_REASON_CONTAINER_ENGINE_UNAVAILABLE,
    jobs_pb2.FAILURE_REASON_GPU_FAILED,
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


def recomputed(attempts: list[providers_pb2.PastAttempt]) -> tuple[float, int]:
    """The figure by its definition alone, and how many attempts it counts."""
    newest = attempts[:50]
    good = sum(one.outcome == SUCCEEDED for one in newest)
    bad = sum(
        one.outcome in UNFINISHED or (one.outcome == FAILED and one.failure_reason in FAULTS)
        for one in newest
    )
    return (good / (good + bad) if good + bad else 1.0), good + bad


async def shown(market: Market, provider: Party) -> list[tuple[float, int]]:
    """The figure in the public list and in the provider's own profile."""
    await market.daemon(provider)
    request = renters_pb2.ListAvailableProvidersRequest()
    listed = (await market.renter_service.ListAvailableProviders(request)).providers
    me = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    found: list[Any] = [*(one for one in listed if one.id == provider.id), me.provider]
    return [(one.reliability, one.reliability_attempts) for one in found]


@pytest.mark.parametrize("seed", range(5))
async def test_figure_is_the_one_that_the_public_history_gives(any_market: Market, seed: int) -> None:
    market, rng = any_market, Random(seed)
    rows = Rows(market.server._database)
    renter_id = await rows.renter()
    provider, other = await market.provider(), await market.provider()
    expected = []
    for number in range(rng.choice([0, 3, 49, 50, 51, 90])):
        whose = other if rng.random() < 0.1 else provider
        was_attempt = rng.random() < 0.9
        state = LeaseState.RUNNING if was_attempt else LeaseState.OFFERED
        ref = await rows.leased(whose.id, await rows.job(renter_id), state, rng.randbytes(16))
        outcome = rng.choice([*LeaseOutcome, LeaseOutcome.SUCCEEDED, LeaseOutcome.FAILED])
        reason = rng.choice([None, *FailureReason]) if outcome is LeaseOutcome.FAILED else None
        at_ms = NOW_MS + number // 7  # some end at the same moment
        lease = await rows.lease(ref)
        await market.sql(partial(leases.end, lease, outcome, at_ms, failure_reason=reason, run_ms=number))
        if whose is provider and was_attempt:
            expected.append((at_ms, number))
    attempts = await history(market, provider, rng.choice([1, 7, 50, 200]))
    ended = [(one.ended_at.ToMilliseconds(), round(one.run_seconds * 1000)) for one in attempts]
    assert sorted(ended) == expected
    assert attempts == await history(market, provider)
    order = [(one.ended_at.ToMilliseconds(), one.number) for one in attempts]
    assert order == sorted(order, reverse=True)
    assert len({one.number for one in attempts}) == len(attempts)
    figure = recomputed(attempts)
    assert await shown(market, provider) == [figure, figure]
    counted = [one.counts for one in attempts[:50] if one.counts != NEITHER]
    assert figure[1] == len(counted)
    if counted:
        assert figure[0] == counted.count(FOR) / len(counted)


async def test_renters_cancel_and_the_jobs_own_limit_do_not_count(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(2)
    await daemon.finished(lease, seconds=1.5)
    job, lease = await market.running_job(renter, provider, daemon)
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    market.clock.advance(1)  # of two ends in one millisecond, the numbers decide
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
    assert [one.counts for one in attempts] == [AGAINST, NEITHER, NEITHER, FOR]
    assert attempts[1].failure_reason == jobs_pb2.FAILURE_REASON_DURATION_LIMIT
    first = attempts[3]
    assert (first.outcome, first.job_type, first.run_seconds) == (
        SUCCEEDED,
        jobs_pb2.JOB_TYPE_LLM_INFERENCE,
        1.5,
    )
    assert first.ended_at.ToMilliseconds() - first.started_at.ToMilliseconds() == 2000
    assert await shown(market, provider) == [(0.5, 2)] * 2


async def test_run_that_the_server_ended_at_its_limit_counts_neither_way(market: Market) -> None:
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


async def test_history_tells_nothing_of_jobs_and_renters(market: Market) -> None:
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
async def test_place_that_no_page_told_is_refused(market: Market, before: str) -> None:
    provider = await market.provider()
    request = providers_pb2.ListProviderHistoryRequest(provider_id=provider.id, before=before)
    refused = await refusal(market.provider_service.ListProviderHistory(request))
    assert (refused.reason, refused.facts.field) == ("PAGE_NOT_FOUND", "before")


async def test_provider_that_there_is_not_has_no_history(market: Market) -> None:
    request = providers_pb2.ListProviderHistoryRequest(provider_id=999)
    refused = await refusal(market.provider_service.ListProviderHistory(request))
    assert refused.reason == "PROVIDER_NOT_FOUND"
