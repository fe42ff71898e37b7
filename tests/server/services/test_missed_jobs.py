"""What a provider misses: jobs that wait without it, and offers that its daemon did not take."""

from __future__ import annotations

from dcp.v1 import jobs_pb2, providers_pb2, terms_pb2

from tests.support.running_server import MODEL, Market, Party

INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
SECRET_MODEL = "acme/secret-model"


async def missed(market: Market, provider: Party, **page: int) -> providers_pb2.GetOwnMissedJobsResponse:
    request = providers_pb2.GetOwnMissedJobsRequest(**page)
    return await market.provider_service.GetOwnMissedJobs(request, metadata=provider.metadata)


async def waiting(market: Market, provider: Party) -> list[tuple[str, int, int]]:
    """The obstacles, job types and needs of what waits without a provider."""
    found = (await missed(market, provider)).waiting
    return [
        (jobs_pb2.Obstacle.Name(each.obstacle).removeprefix("OBSTACLE_"), each.job_type, each.needs)
        for each in found
    ]


async def test_offer_that_a_daemon_refuses_or_leaves_unanswered_is_listed_for_its_provider(
    any_market: Market,
) -> None:
    market = any_market
    provider, other, renter = await market.provider(), await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    first = await market.submit(renter, wait_for_supply=True)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await market.tick()
    second = await market.submit(renter, provider)
    await daemon.expect("job_offer")
    assert len((await missed(market, provider)).offers) == 1, "an offer that waits is not missed"
    market.clock.advance(11)
    await daemon.heartbeat()
    await market.tick()
    newest, oldest = (await missed(market, provider)).offers
    assert (newest.job_id, newest.outcome) == (second.job_id, jobs_pb2.ATTEMPT_OUTCOME_EXPIRED)
    assert (oldest.job_id, oldest.outcome) == (first.job_id, jobs_pb2.ATTEMPT_OUTCOME_REFUSED)
    assert newest.job_type == oldest.job_type == INFERENCE
    assert newest.ended_at.ToMilliseconds() >= newest.offered_at.ToMilliseconds() + 10_000
    assert [each.job_id for each in (await missed(market, provider, limit=1)).offers] == [second.job_id]
    assert list((await missed(market, other)).offers) == []


async def test_accepted_job_is_not_missed(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease, seconds=1)
    assert await missed(market, provider) == providers_pb2.GetOwnMissedJobsResponse()


async def test_waiting_jobs_are_grouped_by_obstacle_without_what_they_contain(
    any_market: Market,
) -> None:
    market = any_market
    provider, other, renter = await market.provider(), await market.provider(), await market.renter()
    await market.daemon(provider)
    rate = terms_pb2.SetOwnRateRequest(job_type=INFERENCE, halala_per_minute=400)
    await market.terms_service.SetOwnRate(rate, metadata=provider.metadata)
    for prompt in ("one need", "is counted once"):
        params = jobs_pb2.JobParams(model=MODEL, prompt=prompt)
        await market.submit(renter, params=params, wait_for_supply=True)
    params = jobs_pb2.JobParams(model=SECRET_MODEL, prompt="a secret")
    await market.submit(renter, params=params, wait_for_supply=True)
    params = jobs_pb2.JobParams(model="acme/other-secret", prompt="a secret")
    await market.submit(renter, params=params, wait_for_supply=True)
    assert await waiting(market, provider) == [
        ("MODEL_NOT_SERVED", INFERENCE, 2),
        ("RATE_ABOVE_QUOTE", INFERENCE, 1),
    ]
    assert "secret" not in str(await missed(market, provider))
    assert {obstacle for obstacle, *_ in await waiting(market, other)} == {"NOT_LIVE"}


async def test_job_that_names_another_provider_is_nobodys_business(market: Market) -> None:
    provider, other, renter = await market.provider(), await market.provider(), await market.renter()
    await market.daemon(other)
    await market.submit(renter, other)
    await market.submit(renter, other)
    assert await waiting(market, provider) == []
    assert [obstacle for obstacle, *_ in await waiting(market, other)] == ["BUSY"]
