"""The sweep: offers expire, silent providers lose their jobs, and the server ends overruns."""

from __future__ import annotations

from functools import partial

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, providers_pb2, sessions_pb2
from google.protobuf.duration_pb2 import Duration

from server.domain.errors import DomainError
from server.domain.leases import MAX_ATTEMPTS, PREPARE_SECONDS
from server.store.database import Database, PartError
from server.store.models import Job
from tests.support import running_server
from tests.support.databases import connection, execute
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Daemon, Market, Party

QUEUED, PENDING, ASSIGNED, RUNNING = (
    jobs_pb2.JOB_STATE_QUEUED,
    jobs_pb2.JOB_STATE_PENDING,
    jobs_pb2.JOB_STATE_ASSIGNED,
    jobs_pb2.JOB_STATE_RUNNING,
)
STALE = sessions_pb2.RESULT_DISPOSITION_STALE
LOST_SECONDS = 300


async def keep_alive(market: Market, daemon: Daemon, seconds: float) -> None:
    """Advances the clock, with a heartbeat and a sweep every ten seconds."""
    for _ in range(round(seconds / 10)):
        market.clock.advance(10)
        await daemon.heartbeat()
        await market.tick()


async def test_refused_offer_requeues_the_job_and_counts_no_attempt(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    now = await market.job(job)
    assert (now.status, now.attempt) == (QUEUED, 0)
    assert await market.wallet(renter) == (4550, 450)


async def test_refused_job_is_offered_to_another_provider(market: Market) -> None:
    first, second = await market.provider(), await market.provider()
    first_daemon, second_daemon = await market.daemon(first), await market.daemon(second)
    job = await market.submit(await market.renter())
    await first_daemon.refuse((await first_daemon.expect("job_offer")).lease)
    await first_daemon.heard_nothing()
    await market.tick()
    offer = await second_daemon.expect("job_offer")
    assert (offer.lease.job_id, offer.lease.lease_epoch, offer.attempt) == (job.job_id, 2, 1)


async def test_refused_job_is_offered_to_the_same_provider_again_after_a_while(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.submit(renter, provider)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    market.clock.advance(14)
    await daemon.heartbeat()
    await market.tick()
    await daemon.heard_nothing()
    await market.later(2)
    assert (await daemon.expect("job_offer")).lease.lease_epoch == 2


async def test_unanswered_offer_expires_and_counts_no_attempt(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    lease = (await daemon.expect("job_offer")).lease
    await market.later(10)
    assert (await market.job(job)).status == PENDING
    await market.later(0.1)
    now = await market.job(job)
    assert (now.status, now.attempt) == (QUEUED, 0)
    await daemon.accept(lease)
    while (message := await daemon.hear()) is not None:
        if message.WhichOneof("kind") == "lease_directive":
            break
        assert message.WhichOneof("kind") == "cancel_run"
    assert message is not None
    assert message.lease_directive.action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
    assert (await market.job(job)).status == QUEUED


async def test_expired_offer_frees_the_slot(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await market.submit(renter)
    await daemon.expect("job_offer")
    await market.later(11)
    market.clock.advance(16)
    await market.tick()
    message = await daemon.hear()
    if message is not None and message.WhichOneof("kind") == "cancel_run":
        message = await daemon.hear()
    assert message is not None
    assert message.job_offer.lease.lease_epoch == 2


async def test_silent_provider_loses_its_job_after_five_minutes(any_market: Market) -> None:
    market = any_market
    provider, other = await market.provider(), await market.provider()
    renter = await market.renter()
    second = await market.daemon(other, models=[])
    await keep_alive(market, second, LOST_SECONDS)  # the server has run long enough to declare a daemon lost
    daemon = await market.daemon(provider)
    job = await market.submit(renter, duration_minutes=30)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.output(lease, 1, b"lost")
    await keep_alive(market, second, LOST_SECONDS)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    await keep_alive(market, second, 10)
    now = await market.job(job)
    assert (now.status, now.attempt, now.output_bytes) == (QUEUED, 1, 0)
    assert await market.wallet(renter) == (500, 4500)

    models = [sessions_pb2.ServedModel(name=MODEL)]
    await second.say(capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=models))
    offer = await second.expect("job_offer")
    assert (offer.lease.lease_epoch, offer.attempt) == (2, 2)
    assert await late_finish(market, provider, lease) == STALE
    await second.start(offer.lease)
    await second.output(offer.lease, 1, b"kept")
    await second.finished(offer.lease, last_output_seq=1)
    assert (await market.output(job, renter)).response == "kept"
    assert await market.earned(provider) == 0
    await market.assert_money_adds_up()


async def late_finish(market: Market, provider: Party, lease: sessions_pb2.Lease) -> int:
    """Reconnects the lost daemon and reports the result of its old lease."""
    daemon = market.connect(provider)
    await daemon.hello(held_leases=[lease], slots=0)
    assert (await daemon.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
    return await daemon.finished(lease, seconds=60)


async def test_no_daemon_is_lost_within_five_minutes_of_a_server_start(
    sqlite_url: str, clock: ManualClock
) -> None:
    """The daemons could not heartbeat to a server that was down."""
    async with running_server.running(sqlite_url, clock) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider)
        job, _ = await market.running_job(renter, provider, daemon, duration_minutes=30)
    clock.advance(3600 * 10)
    clock = ManualClock(now=clock.now() - 3600 * 9 - 3000)  # ten minutes after the last heartbeat
    async with running_server.running(sqlite_url, clock) as market:
        await market.later(LOST_SECONDS - 1)
        assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
        await market.later(2)
        assert (await market.job(job)).status == QUEUED


async def test_each_job_has_its_own_lost_period(any_market: Market) -> None:
    """Two jobs of one silent daemon: each is queued again when its own period ends."""
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=2)
    await keep_alive(market, daemon, 3600)
    jobs = {}
    for seconds in (60, 3600):
        jobs[seconds] = await market.submit(renter, provider, lost_after_seconds=seconds, duration_minutes=10)
        offer = await daemon.expect("job_offer")
        assert offer.lost_after.ToMilliseconds() == seconds * 1000
        assert jobs[seconds].lost_after_seconds == seconds
        await daemon.start(offer.lease)
    await daemon.heard_nothing()
    daemon.cut()
    await market.later(60)
    assert (await market.job(jobs[60])).status == RUNNING
    await market.later(1)
    assert (await market.job(jobs[60])).status == QUEUED
    assert (await market.job(jobs[3600])).status == RUNNING
    await market.later(3600 - 61)
    assert (await market.job(jobs[3600])).status == RUNNING
    await market.later(1)
    assert (await market.job(jobs[3600])).status == QUEUED


async def test_no_job_is_lost_within_its_own_period_of_a_server_start(
    sqlite_url: str, clock: ManualClock
) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        provider, renter = await market.provider(), await market.renter(50_000)
        daemon = await market.daemon(provider, slots=2)
        jobs = {}
        for seconds in (60, 900):
            jobs[seconds], _ = await market.running_job(
                renter, provider, daemon, lost_after_seconds=seconds, duration_minutes=60
            )
    clock.advance(7200)
    async with running_server.running(sqlite_url, clock) as market:
        await market.later(59)
        assert (await market.job(jobs[60])).status == RUNNING
        await market.later(2)
        assert (await market.job(jobs[60])).status == QUEUED
        await market.later(900 - 62)
        assert (await market.job(jobs[900])).status == RUNNING
        await market.later(2)
        assert (await market.job(jobs[900])).status == QUEUED


async def test_heartbeats_by_post_renew_no_lease(market: Market) -> None:
    """They show that the machine is live, not that its daemon runs the job."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await keep_alive(market, daemon, LOST_SECONDS)
    job, _ = await market.running_job(renter, provider, daemon, duration_minutes=30)
    daemon.cut()
    for _ in range(LOST_SECONDS // 10 + 1):
        market.clock.advance(10)
        await market.provider_service.Heartbeat(
            providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus()), metadata=provider.metadata
        )
        await market.tick()
    assert (await market.job(job)).status == QUEUED


async def test_daemon_that_reconnects_before_the_sweep_keeps_its_job(market: Market) -> None:
    """The Hello renews the lease, so a sweep before the next heartbeat does not end it."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await keep_alive(market, daemon, LOST_SECONDS)
    job, lease = await market.running_job(renter, provider, daemon, duration_minutes=30)
    daemon.cut()
    market.clock.advance(LOST_SECONDS + 1)
    again = market.connect(provider)
    await again.hello(held_leases=[lease])
    await again.expect("lease_directive")
    await market.tick()
    assert (await market.job(job)).status == RUNNING


# The deadline to start.


async def test_job_that_nobody_starts_in_time_fails_with_a_full_refund(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    jobs = {seconds: await market.submit(renter, start_within_seconds=seconds) for seconds in (60, 600)}
    assert jobs[60].start_by.ToMilliseconds() == round(market.clock.now() * 1000) + 60_000
    await market.later(59)
    assert (await market.job(jobs[60])).status == QUEUED
    await market.later(1)
    ended = await market.job(jobs[60])
    assert (ended.status, ended.failure_reason) == (
        jobs_pb2.JOB_STATE_FAILED,
        jobs_pb2.FAILURE_REASON_START_DEADLINE,
    )
    assert "60 s" in ended.failure_message
    assert "no provider was there" in ended.failure_message
    assert (ended.billing.actual_cost_halala, ended.billing.refund_halala) == (0, 450)
    assert not ended.HasField("start_by")
    assert (await market.job(jobs[600])).status == QUEUED
    assert await market.wallet(renter) == (4550, 450)
    await market.assert_money_adds_up()


async def test_job_that_cannot_be_ended_holds_up_no_other(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    broken, good = await market.submit(renter), await market.submit(renter)
    await market.sql(lambda: Job.update(spec="no JSON").where(Job.job_id == broken.job_id).execute())
    with pytest.raises(PartError):  # its duty counts as failed
        await market.later(600)
    assert (await market.job(good)).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE
    await market.sql(lambda: Job.update(spec="{}").where(Job.job_id == broken.job_id).execute())
    await market.tick()
    assert (await market.job(broken)).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE
    await market.assert_money_adds_up()


async def test_queued_job_that_cannot_be_read_holds_up_no_other(
    any_market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one whose request is broken, nor one of a type that only a newer release knows."""
    market = any_market
    renter = await market.renter()
    for values in ({"spec": "no JSON"}, {"job_type": "of-a-newer-release"}):
        broken = await market.submit(renter)
        change = Job.update(**values).where(Job.job_id == broken.job_id)
        await market.sql(change.execute)
        market.clock.advance(1)
    good = await market.submit(renter)
    assert (await market.job(good)).queue_position == 2
    for _ in range(2):
        daemon = await market.daemon(await market.provider())
        offer = await daemon.expect("job_offer")
        assert offer.lease.job_id == good.job_id
        await daemon.refuse(offer.lease)
        await daemon.heard_nothing()
    assert len([text for text in caplog.messages if "passed over a queued job" in text]) == 1


async def test_default_deadline_to_start_is_ten_minutes(market: Market) -> None:
    job = await market.submit(await market.renter())
    await market.later(599)
    assert (await market.job(job)).status == QUEUED
    await market.later(1)
    assert (await market.job(job)).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE


async def test_deadline_to_start_does_not_end_offered_accepted_or_running_jobs(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider, slots=3)
    leases = []
    jobs = [await market.submit(renter, provider, start_within_seconds=10) for _ in range(3)]
    for _ in jobs:
        leases.append((await daemon.expect("job_offer")).lease)
    await daemon.accept(leases[1])
    await daemon.start(leases[2])
    await daemon.heard_nothing()
    await market.later(10)
    states = [(await market.job(job)).status for job in jobs]
    assert states == [PENDING, jobs_pb2.JOB_STATE_ASSIGNED, RUNNING]
    await daemon.refuse(leases[0])  # an offer is not a start: the deadline has passed meanwhile
    await daemon.heard_nothing()
    await market.tick()
    assert (await market.job(jobs[0])).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE


async def test_lost_attempt_gives_the_full_time_to_start_again(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon, start_within_seconds=60)
    daemon.cut()
    market.clock.advance(100)
    again = await market.daemon(provider, slots=0)  # lists no lease: the attempt is lost
    await again.heartbeat()
    now = await market.job(job)
    assert now.status == QUEUED
    assert now.start_by.ToMilliseconds() == round(market.clock.now() * 1000) + 60_000
    assert now.created_at == job.created_at
    await market.later(59)
    assert (await market.job(job)).status == QUEUED
    await market.later(1)
    assert (await market.job(job)).failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE


async def test_job_past_its_deadline_is_not_offered_even_before_the_sweep(market: Market) -> None:
    job = await market.submit(await market.renter(), start_within_seconds=10)
    market.clock.advance(10)
    daemon = await market.daemon(await market.provider())
    await daemon.heard_nothing()
    assert (await market.job(job)).status == QUEUED


async def test_requeued_job_keeps_its_place_in_the_queue(market: Market) -> None:
    """Age counts from the submit: a lost job comes before jobs that were submitted later."""
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon)
    market.clock.advance(1)
    await market.submit(renter)
    daemon.cut()
    again = await market.daemon(provider)
    offer = await again.expect("job_offer")
    assert (offer.lease.job_id, offer.lease.lease_epoch) == (job.job_id, 2)


# Cancels without an answer from the daemon.


async def test_cancelled_run_of_a_silent_daemon_is_charged_until_its_last_heartbeat(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await keep_alive(market, daemon, LOST_SECONDS)
    job, _ = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=30)
    await keep_alive(market, daemon, 80)
    daemon.cut()
    await market.cancel(job, renter)
    await market.later(LOST_SECONDS + 1)
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_CANCELLED
    assert (ended.billing.billed_seconds, ended.billing.actual_cost_halala) == (80, 200)
    assert await market.earned(provider) == 150
    assert await market.wallet(renter) == (4800, 0)
    await market.assert_money_adds_up()


async def test_cancelled_run_of_a_silent_daemon_is_charged_at_most_its_limit(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await keep_alive(market, daemon, LOST_SECONDS)
    job, _ = await market.running_job(renter, provider, daemon, output=b"Hello.", max_cost_halala=100)
    await market.cancel(job, renter)
    await daemon.expect("cancel_run")
    # Its heartbeats go on for less than the sweep waits, and past the limit of 40 s.
    market.clock.advance(29)
    await daemon.heartbeat()
    market.clock.advance(29)
    await daemon.heartbeat()
    daemon.cut()
    await market.later(LOST_SECONDS + 1)
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_CANCELLED
    assert (ended.billing.billed_seconds, ended.billing.actual_cost_halala) == (40, 100)


async def test_lost_run_without_a_cancel_is_not_charged(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    await keep_alive(market, daemon, LOST_SECONDS)
    job, _ = await market.running_job(renter, provider, daemon, duration_minutes=30)
    await keep_alive(market, daemon, 80)
    daemon.cut()
    await market.later(LOST_SECONDS + 1)
    assert (await market.job(job)).status == QUEUED
    assert await market.earned(provider) == 0
    assert await market.wallet(renter) == (500, 4500)


async def test_overrun_of_a_live_daemon_is_ended_and_charged_the_hold(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    await keep_alive(market, daemon, 180 + 30)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    await keep_alive(market, daemon, 10)
    ended = await market.job(job)
    assert (ended.status, ended.failure_reason) == (
        jobs_pb2.JOB_STATE_FAILED,
        jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
    )
    assert ended.billing.actual_cost_halala == ended.billing.hold_halala == 450
    assert await market.wallet(renter) == (4550, 0)
    await market.assert_money_adds_up()
    assert (await daemon.expect("cancel_run")).lease == lease
    assert await daemon.finished(lease, seconds=9999) == STALE
    assert await market.job(job) == ended


async def test_run_of_a_silent_daemon_is_never_charged_as_an_overrun(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon)
    daemon.cut()
    await market.later(180 + 60)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_RUNNING
    await market.later(LOST_SECONDS)
    waiting = await market.job(job)
    assert waiting.status == jobs_pb2.JOB_STATE_QUEUED
    assert await market.wallet(renter) == (4550, 450)


async def test_result_of_a_daemon_that_reconnects_after_the_limit_is_accepted(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    daemon.cut()
    await market.later(220)
    again = await market.daemon(provider, unacknowledged_results=[lease])
    assert (await again.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_RESEND
    await market.tick()
    assert await again.finished(lease, seconds=75) == sessions_pb2.RESULT_DISPOSITION_ACCEPTED
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_COMPLETED
    assert ended.billing.actual_cost_halala == 188


@pytest.mark.parametrize(("reported_seconds", "charge"), [([25], 63), ([], 450), ([9999], 450), ([-5], 0)])
async def test_heartbeats_after_the_end_of_a_run_are_not_billed_if_its_result_is_lost(
    market: Market, reported_seconds: list[int], charge: int
) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    daemon.cut()
    await market.cancel(job, renter)
    await market.later(220)
    times = [Duration(seconds=seconds) for seconds in reported_seconds]
    again = await market.daemon(provider, unacknowledged_results=[lease], unacknowledged_run_times=times)
    assert (await again.expect("lease_directive")).action == sessions_pb2.LEASE_ACTION_RESEND
    again.cut()
    await market.later(LOST_SECONDS + 10)
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_CANCELLED
    assert ended.billing.actual_cost_halala == charge
    await market.assert_money_adds_up()


async def test_cancel_that_a_live_daemon_ignores_is_charged_until_the_request(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
    await keep_alive(market, daemon, 60)
    await market.cancel(job, renter)
    assert (await daemon.expect("cancel_run")).lease == lease
    await keep_alive(market, daemon, 40)
    assert (await daemon.expect("cancel_run")).lease == lease
    ended = await market.job(job)
    assert ended.status == jobs_pb2.JOB_STATE_CANCELLED
    assert ended.billing.actual_cost_halala == 150
    assert await daemon.finished(lease, seconds=100) == STALE
    await market.assert_money_adds_up()


async def test_accepted_attempt_that_never_starts_is_ended(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    offer = await daemon.expect("job_offer")
    await daemon.accept(offer.lease)
    await daemon.heartbeat()  # its acknowledgement shows that the acceptance is recorded
    await keep_alive(market, daemon, 900)
    assert (await market.job(job)).status == jobs_pb2.JOB_STATE_ASSIGNED
    await keep_alive(market, daemon, 10)
    assert (await market.job(job)).status in (QUEUED, PENDING)


async def test_last_attempt_lost_fails_the_job_with_a_full_refund(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job = await market.submit(renter)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        daemon = await market.daemon(provider)  # it lists no lease, so the previous attempt is lost
        offer = await daemon.expect("job_offer")
        assert offer.attempt == attempt
        await daemon.start(offer.lease)
        await daemon.heard_nothing()
        market.clock.advance(10)
        daemon.cut()
    daemon = await market.daemon(provider)
    await daemon.heard_nothing()
    ended = await market.job(job)
    assert (ended.status, ended.failure_reason, ended.attempt) == (
        jobs_pb2.JOB_STATE_FAILED,
        jobs_pb2.FAILURE_REASON_PROVIDER_LOST,
        MAX_ATTEMPTS,
    )
    assert await market.wallet(renter) == (5000, 0)
    await market.assert_money_adds_up()


def total_changes(database: Database) -> int:
    """The number of rows that this connection has changed."""
    return int(connection(database).total_changes)


async def test_sweep_of_an_idle_market_writes_nothing(market: Market) -> None:
    """A sweep with nothing due opens no write transaction."""
    daemon = await market.daemon(await market.provider())
    await daemon.heartbeat()
    await market.tick()
    changes = partial(total_changes, market.server._database)
    before = await market.sql(changes)
    for _ in range(3):
        await market.tick()
    assert await market.sql(changes) == before


async def test_many_queued_jobs_fill_every_free_provider(market: Market) -> None:
    """Queued jobs with equal requirements are spread over all free providers."""
    renter = await market.renter(50_000)
    jobs = [await market.submit(renter, duration_minutes=1) for _ in range(12)]
    daemons = [await market.daemon(await market.provider(), slots=0) for _ in range(6)]
    models = [sessions_pb2.ServedModel(name=MODEL)]
    for daemon in daemons:
        await daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=2, models=models))
        await daemon.expect("job_offer")
        await daemon.expect("job_offer")
    states = {(await market.job(job)).status for job in jobs}
    assert states == {PENDING}


async def test_silence_during_a_database_outage_does_not_count(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(50_000)
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon, duration_minutes=60)
    await market.tick()
    rename = partial(execute, market.server._database)
    await market.sql(lambda: rename("ALTER TABLE provider RENAME TO gone"))
    daemon.cut()  # it cannot come back before the database does
    with pytest.raises(DomainError, match="database"):
        await market.later(10 * LOST_SECONDS)
    await market.sql(lambda: rename("ALTER TABLE gone RENAME TO provider"))
    await market.tick()
    await market.later(LOST_SECONDS - 1)
    assert (await market.job(job)).status == RUNNING
    await market.later(1)
    assert (await market.job(job)).status == QUEUED


async def test_preparation_is_ended_only_after_its_daemon_could_report_the_start(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider, lost_after_seconds=3600, start_within_seconds=86_400)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.accept(lease)
    await daemon.heard_nothing()
    daemon.cut()
    await market.later(PREPARE_SECONDS + 1)
    assert (await market.job(job)).status == ASSIGNED
    again = market.connect(provider)
    await again.hello(held_leases=[lease])
    await again.expect("lease_directive")
    await keep_alive(market, again, 20)
    assert (await market.job(job)).status == ASSIGNED
    market.clock.advance(10)
    await again.heartbeat()
    await market.tick()
    assert (await market.job(job)).status in (QUEUED, PENDING)


async def test_job_that_was_not_started_in_time_tells_the_last_obstacle(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    params = jobs_pb2.JobParams(model="served/by-nobody", prompt="Hi.")
    job = await market.submit(renter, params=params, start_within_seconds=60, wait_for_supply=True)
    for _ in range(3):
        await daemon.heartbeat()
        await market.later(20)
    ended = await market.job(job)
    assert ended.failure_reason == jobs_pb2.FAILURE_REASON_START_DEADLINE
    assert (
        "It does not serve the model served/by-nobody; ask for what a provider serves"
        in ended.failure_message
    )
    assert "raise start_within_seconds" not in ended.failure_message
