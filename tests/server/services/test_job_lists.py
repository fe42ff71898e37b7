"""The job lists of renters and providers: only their own jobs, in pages, by state."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from tests.support.running_server import Market, Party, refusal

pytestmark = pytest.mark.in_turns


async def list_own(market: Market, renter: Party, **filters: Any) -> jobs_pb2.ListOwnJobsResponse:
    request = jobs_pb2.ListOwnJobsRequest(**filters)
    return await market.job_service.ListOwnJobs(request, metadata=renter.metadata)


@pytest.mark.parametrize("seconds_apart", [0.0, 1.0], ids=["in one millisecond", "one after another"])
async def test_own_jobs_come_in_pages_newest_first(any_market: Market, seconds_apart: float) -> None:
    market = any_market
    renter, other = await market.renter(), await market.renter()
    submitted = []
    for _ in range(5):
        submitted.append((await market.submit(renter)).job_id)
        await market.submit(other)
        market.clock.advance(seconds_apart)
    seen: list[str] = []
    page = await list_own(market, renter, page_size=2)
    while True:
        seen += [job.job_id for job in page.jobs]
        if not page.HasField("next_before_job_id"):
            break
        page = await list_own(market, renter, page_size=2, before_job_id=page.next_before_job_id)
    assert sorted(seen) == sorted(submitted)
    assert seen == (submitted[::-1] if seconds_apart else sorted(submitted, reverse=True))
    assert not (await list_own(market, renter, page_size=5)).HasField("next_before_job_id")


async def test_status_filter_lists_only_the_jobs_in_that_state(market: Market) -> None:
    renter = await market.renter()
    cancelled, waiting = await market.submit(renter), await market.submit(renter)
    await market.cancel(cancelled, renter)
    for state, job in ((jobs_pb2.JOB_STATE_CANCELLED, cancelled), (jobs_pb2.JOB_STATE_QUEUED, waiting)):
        assert [listed.job_id for listed in (await list_own(market, renter, status=state)).jobs] == [
            job.job_id
        ]
    assert not (await list_own(market, renter, status=jobs_pb2.JOB_STATE_RUNNING)).jobs
    refused = await refusal(list_own(market, renter, status=jobs_pb2.JOB_STATE_UNSPECIFIED))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "status")


async def test_page_after_a_job_of_another_renter_is_refused(market: Market) -> None:
    renter, other = await market.renter(), await market.renter()
    foreign = await market.submit(other)
    for job_id in (foreign.job_id, "job-nowhere"):
        refused = await refusal(list_own(market, renter, before_job_id=job_id))
        assert (refused.reason, refused.facts.field) == ("JOB_NOT_FOUND", "before_job_id")


async def list_of_provider(
    market: Market, provider: Party, **filters: Any
) -> jobs_pb2.ListProviderJobsResponse:
    request = jobs_pb2.ListProviderJobsRequest(**filters)
    return await market.job_service.ListProviderJobs(request, metadata=provider.metadata)


@pytest.mark.parametrize("seconds_apart", [0.0, 1.0], ids=["in one millisecond", "one after another"])
async def test_jobs_of_a_provider_come_in_pages_newest_first(
    any_market: Market, seconds_apart: float
) -> None:
    market = any_market
    renter, provider, other = await market.renter(), await market.provider(), await market.provider()
    await market.daemon(provider), await market.daemon(other)
    submitted = []
    for _ in range(5):
        submitted.append((await market.submit(renter, provider)).job_id)
        await market.submit(renter, other)
        market.clock.advance(seconds_apart)
    seen: list[str] = []
    page = await list_of_provider(market, provider, page_size=2)
    while True:
        seen += [job.job_id for job in page.jobs]
        if not page.HasField("next_before_job_id"):
            break
        page = await list_of_provider(market, provider, page_size=2, before_job_id=page.next_before_job_id)
    assert seen == (submitted[::-1] if seconds_apart else sorted(submitted, reverse=True))


async def test_list_of_a_provider_shows_what_get_job_shows(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    done, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease, seconds=0)
    running, _ = await market.running_job(renter, provider, daemon)
    for state, job in ((jobs_pb2.JOB_STATE_COMPLETED, done), (jobs_pb2.JOB_STATE_RUNNING, running)):
        request = jobs_pb2.GetJobRequest(job_id=job.job_id)
        shown = (await market.job_service.GetJob(request, metadata=provider.metadata)).job
        assert list((await list_of_provider(market, provider, status=state)).jobs) == [shown]
    assert not (await list_of_provider(market, provider, status=jobs_pb2.JOB_STATE_FAILED)).jobs


async def test_page_may_begin_after_a_job_that_the_provider_refused(market: Market) -> None:
    renter, provider, other = await market.renter(), await market.provider(), await market.provider()
    daemon = await market.daemon(provider)
    kept, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease, seconds=0)
    market.clock.advance(1)
    lost = await market.submit(renter)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    assert [job.job_id for job in (await list_of_provider(market, provider)).jobs] == [kept.job_id]
    page = await list_of_provider(market, provider, before_job_id=lost.job_id)
    assert [job.job_id for job in page.jobs] == [kept.job_id]
    for job_id in (lost.job_id, "job-nowhere"):  # the other provider never had this job
        refused = await refusal(list_of_provider(market, other, before_job_id=job_id))
        assert (refused.reason, refused.facts.field) == ("JOB_NOT_FOUND", "before_job_id")
