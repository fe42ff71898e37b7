"""Attempts that end because a model server is busy, or because the model wrote no answer."""

from __future__ import annotations

from typing import Any

from dcp.v1 import jobs_pb2, providers_pb2, sessions_pb2

from server.services.dispatch import RETRY_SAME_PROVIDER_SECONDS
from tests.server.services.test_reliability import history
from tests.support.running_server import Market

BUSY: dict[str, Any] = {
    "outcome": sessions_pb2.RUN_OUTCOME_RELEASED,
    "failure_reason": jobs_pb2.FAILURE_REASON_ENGINE_BUSY,
}
AGAINST, NEITHER = providers_pb2.ATTEMPT_WEIGHT_AGAINST, providers_pb2.ATTEMPT_WEIGHT_NEITHER


async def test_job_of_a_busy_model_server_goes_to_another_provider(any_market: Market) -> None:
    market = any_market
    first, second, renter = await market.provider(), await market.provider(), await market.renter()
    busy_daemon = await market.daemon(first)
    job = await market.submit(renter)
    lease = (await busy_daemon.expect("job_offer")).lease
    await busy_daemon.start(lease)
    await busy_daemon.heard_nothing()
    other_daemon = await market.daemon(second)
    assert await busy_daemon.finished(lease, **BUSY) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    await market.tick()
    assert (await other_daemon.expect("job_offer")).attempt == 2
    assert "model server was busy" in (await market.why(job)).attempts[0].detail
    (attempt,) = await history(market, first)
    assert (attempt.failure_reason, attempt.counts) == (jobs_pb2.FAILURE_REASON_ENGINE_BUSY, NEITHER)


async def test_busy_provider_is_not_asked_again_at_once(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter)
    for attempt in range(1, 6):
        offer = await daemon.expect("job_offer")
        assert offer.attempt == attempt
        await daemon.start(offer.lease)
        await daemon.heard_nothing()
        await daemon.finished(offer.lease, **BUSY)
        await market.tick()
        await daemon.heard_nothing()
        market.clock.advance(RETRY_SAME_PROVIDER_SECONDS + 1)
        await daemon.heartbeat()
        await market.tick()
    ended = await market.job(job)
    assert (ended.status, ended.failure_reason) == (
        jobs_pb2.JOB_STATE_FAILED,
        jobs_pb2.FAILURE_REASON_ENGINE_BUSY,
    )
    assert await market.wallet(renter) == (5000, 0)


async def test_model_server_that_has_answered_cannot_have_been_busy(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    await daemon.output(lease, 1, b"Hel")
    await daemon.finished(lease, last_output_seq=1, **BUSY)
    (attempt,) = await history(market, provider)
    assert attempt.counts == AGAINST


async def test_answer_without_text_is_explained_and_not_charged(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(60)
    await daemon.heartbeat()
    await daemon.finished(
        lease,
        seconds=60,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        failure_reason=jobs_pb2.FAILURE_REASON_NO_ANSWER,
        failure_message="raise params.max_tokens",
    )
    ended = await market.job(job)
    assert (ended.failure_reason, ended.failure_message) == (
        jobs_pb2.FAILURE_REASON_NO_ANSWER,
        "raise params.max_tokens",
    )
    assert await market.wallet(renter) == (5000, 0)
    (attempt,) = await history(market, provider)
    assert attempt.counts == NEITHER
