"""Money through the whole server: the contract's example, and every way in which a job can end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2
from dcp.v1.jobs_pb2 import Job
from dcp.v1.sessions_pb2 import Lease

from server.domain.money import micros
from tests.support.running_server import Daemon, Market, Party


async def test_example_of_the_contract(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(5000)
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider, duration_minutes=3)
    assert (job.status, job.cost_halala) == (jobs_pb2.JOB_STATE_PENDING, 450)
    assert await market.wallet(renter) == (4550, 450)

    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.output(lease, 1, b"hello")
    market.clock.advance(75)
    accepted = await daemon.finished(lease, seconds=75, last_output_seq=1)
    assert accepted == sessions_pb2.RESULT_DISPOSITION_ACCEPTED

    output = await market.output(job, renter)
    assert output.response == "hello"
    assert output.billing == jobs_pb2.Billing(
        hold_halala=450,
        actual_cost_halala=188,
        refund_halala=262,
        provider_halala=141,
        platform_halala=47,
        hold_micro_halala=micros(450),
        actual_cost_micro_halala=micros(188),
        refund_micro_halala=micros(262),
        provider_micro_halala=micros(141),
        platform_micro_halala=micros(47),
        billed_seconds=75,
        price=jobs_pb2.Price(sar_per_hour="90"),
        rate_halala_per_minute=150,
    )
    assert await market.wallet(renter) == (5000 - 188, 0)
    assert await market.earned(provider) == 141
    await market.assert_money_adds_up()


@pytest.mark.parametrize(
    ("daemon_seconds", "server_seconds", "billed"),
    [(60, 75, 60), (75, 60, 60), (1e9, 10_000, 180), (0, 75, 0), (75, 75, 75)],
)
async def test_bill_is_for_the_least_of_the_daemons_time_the_servers_time_and_the_limit(
    market: Market, daemon_seconds: float, server_seconds: float, billed: float
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(server_seconds)
    await daemon.finished(lease, seconds=daemon_seconds)
    bill = (await market.job(job)).billing
    assert bill.billed_seconds == billed
    assert bill.actual_cost_halala == math.ceil(billed * 150 / 60)
    await market.assert_money_adds_up()


async def test_max_cost_is_never_exceeded(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider, max_cost_halala=100)
    assert job.cost_halala == 100
    offer = await daemon.expect("job_offer")
    assert offer.run_limit.ToMilliseconds() == 40_000
    await daemon.start(offer.lease)
    await daemon.output(offer.lease, 1, b"Hello.")
    market.clock.advance(180)
    await daemon.finished(offer.lease, seconds=180)
    assert (await market.job(job)).billing.actual_cost_halala == 100
    await market.assert_money_adds_up()


@pytest.mark.parametrize("slower", [False, True])
async def test_job_that_fails_by_the_providers_fault_costs_nothing(market: Market, slower: bool) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(60)
    await daemon.finished(
        lease,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        seconds=60,
        failure_reason=jobs_pb2.FAILURE_REASON_ENGINE_FAILED if slower else 0,
    )
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_FAILED
    assert ended.failure_reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    assert ended.billing.actual_cost_halala == 0
    assert await market.wallet(renter) == (5000, 0)
    await market.assert_money_adds_up()


async def test_job_stopped_at_its_limit_is_charged(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(180)
    await daemon.finished(
        lease,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        seconds=180,
        failure_reason=jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
    )
    assert (await market.job(job)).billing.actual_cost_halala == 450
    assert await market.earned(provider) == 337  # and a half
    await market.assert_money_adds_up()


@pytest.mark.parametrize(("seconds", "charge"), [(174, 0), (176, 440)])
async def test_limit_that_was_not_reached_within_five_seconds_is_charged_to_nobody(
    market: Market, seconds: int, charge: int
) -> None:
    """A daemon that ends a run early, and says that its limit was met, earns nothing."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    market.clock.advance(seconds)
    await daemon.finished(
        lease,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        seconds=seconds,
        failure_reason=jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
    )
    assert (await market.job(job)).billing.actual_cost_halala == charge


async def test_cancel_that_only_the_daemon_wanted_earns_nothing(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    market.clock.advance(60)
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED, seconds=60)
    ended = await market.job(job)
    assert (ended.status, ended.billing.actual_cost_halala) == (jobs_pb2.JOB_STATE_FAILED, 0)
    assert await market.wallet(renter) == (5000, 0)
    await market.assert_money_adds_up()


async def test_second_job_is_placed_after_the_first_has_ended(market: Market) -> None:
    """The only slot is free again, also for a job that names no provider."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    _, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(lease)
    await market.submit(renter)
    await market.tick()
    await daemon.expect("job_offer")


INFERENCE = [
    jobs_pb2.JOB_TYPE_LLM_INFERENCE,
    jobs_pb2.JOB_TYPE_IMAGE_GENERATION,
]


async def succeed(market: Market, daemon: Daemon, renter: Party, job: Job, lease: Lease) -> None:
    await daemon.finished(lease, seconds=60)


async def reach_its_limit(market: Market, daemon: Daemon, renter: Party, job: Job, lease: Lease) -> None:
    market.clock.advance(120)
    await daemon.finished(
        lease,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        seconds=180,
        failure_reason=jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
    )


async def be_cancelled(market: Market, daemon: Daemon, renter: Party, job: Job, lease: Lease) -> None:
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED, seconds=60)


async def be_cancelled_and_fall_silent(
    market: Market, daemon: Daemon, renter: Party, job: Job, lease: Lease
) -> None:
    await daemon.heartbeat()
    await market.cancel(job, renter)
    await market.later(700)


async def overrun(market: Market, daemon: Daemon, renter: Party, job: Job, lease: Lease) -> None:
    for _ in range(8):  # up to 40 s past its limit
        await daemon.heartbeat()
        await market.later(20)
    await daemon.expect("cancel_run")


ENDS = [succeed, reach_its_limit, be_cancelled, be_cancelled_and_fall_silent, overrun]


async def job_ended_by(market: Market, job_type: int, end: Any, output: bytes) -> jobs_pb2.Job:
    """A job of this type that ran for a minute, wrote this output, and then ended this way."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, job_types=[job_type])
    job, lease = await market.running_job(renter, provider, daemon, job_type=job_type, output=output)
    market.clock.advance(60)
    await end(market, daemon, renter, job, lease)
    await market.assert_money_adds_up()
    return await market.job(job)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("job_type", INFERENCE)
async def test_inference_that_sent_no_output_is_not_charged_however_it_ends(
    market: Market, job_type: int, end: Any
) -> None:
    silent = await job_ended_by(market, job_type, end, b"")
    assert silent.ended_at.seconds
    assert silent.billing.actual_cost_halala == 0
    assert silent.billing.refund_halala == silent.billing.hold_halala


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("job_type", "output"),
    [*((kind, b"Hello.") for kind in INFERENCE), (jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER, b"")],
)
async def test_run_with_its_result_is_charged_however_it_ends(
    market: Market, job_type: int, output: bytes, end: Any
) -> None:
    assert (await job_ended_by(market, job_type, end, output)).billing.actual_cost_halala > 0
