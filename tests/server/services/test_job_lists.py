"""A renter's list of its jobs: its own alone, in pages, by state."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from tests.support.running_server import Market, Party, refusal


async def own(market: Market, renter: Party, **which: Any) -> jobs_pb2.ListOwnJobsResponse:
    request = jobs_pb2.ListOwnJobsRequest(**which)
    return await market.job_service.ListOwnJobs(request, metadata=renter.metadata)


@pytest.mark.parametrize("apart", [0.0, 1.0], ids=["in one millisecond", "one after another"])
async def test_own_jobs_come_in_pages_newest_first(any_market: Market, apart: float) -> None:
    market = any_market
    renter, other = await market.renter(), await market.renter()
    made = []
    for _ in range(5):
        made.append((await market.submit(renter)).job_id)
        await market.submit(other)
        market.clock.advance(apart)
    seen: list[str] = []
    page = await own(market, renter, page_size=2)
    while True:
        seen += [job.job_id for job in page.jobs]
        if not page.HasField("next_before_job_id"):
            break
        page = await own(market, renter, page_size=2, before_job_id=page.next_before_job_id)
    assert sorted(seen) == sorted(made)
    assert seen == (made[::-1] if apart else sorted(made, reverse=True))
    assert not (await own(market, renter, page_size=5)).HasField("next_before_job_id")


async def test_state_picks_the_jobs_that_are_in_it(market: Market) -> None:
    renter = await market.renter()
    gone, waiting = await market.submit(renter), await market.submit(renter)
    await market.cancel(gone, renter)
    for state, job in ((jobs_pb2.JOB_STATE_CANCELLED, gone), (jobs_pb2.JOB_STATE_QUEUED, waiting)):
        assert [one.job_id for one in (await own(market, renter, status=state)).jobs] == [job.job_id]
    assert not (await own(market, renter, status=jobs_pb2.JOB_STATE_RUNNING)).jobs
    refused = await refusal(own(market, renter, status=jobs_pb2.JOB_STATE_UNSPECIFIED))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "status")


async def test_page_never_begins_after_somebody_elses_job(market: Market) -> None:
    renter, other = await market.renter(), await market.renter()
    foreign = await market.submit(other)
    for job_id in (foreign.job_id, "job-nowhere"):
        refused = await refusal(own(market, renter, before_job_id=job_id))
        assert (refused.reason, refused.facts.field) == ("JOB_NOT_FOUND", "before_job_id")
