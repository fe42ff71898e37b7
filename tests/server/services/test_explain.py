"""Why a job waits or failed: its place, an honest estimate, every provider considered, every attempt."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, providers_pb2, sessions_pb2

from tests.support.running_server import MODEL, Daemon, Market, Party, refusal

OTHER = [sessions_pb2.ServedModel(name="other")]


def code(told: jobs_pb2.ExplainJobResponse) -> str:
    return jobs_pb2.JobCondition.Name(told.code).removeprefix("JOB_CONDITION_")


def obstacles(told: jobs_pb2.ExplainJobResponse) -> list[tuple[int, str]]:
    return [
        (one.provider_id, jobs_pb2.Obstacle.Name(one.code).removeprefix("OBSTACLE_"))
        for one in told.providers
    ]


async def busy(market: Market, minutes: float, **hello: Any) -> tuple[Party, Daemon, sessions_pb2.Lease]:
    """A provider whose only slot runs a job of so many minutes."""
    provider = await market.provider()
    daemon = await market.daemon(provider, **hello)
    renter = await market.renter(100_000)
    _, lease = await market.running_job(renter, provider, daemon, duration_minutes=minutes)
    return provider, daemon, lease


async def test_each_provider_is_told_with_what_keeps_it(any_market: Market) -> None:
    market = any_market
    away, paused, draining, posting = [await market.provider() for _ in range(4)]
    (await market.daemon(away)).cut()
    market.clock.advance(60)
    await market.daemon(paused)
    await market.set_provider(paused, state="paused")
    await (await market.daemon(draining)).say(drain=sessions_pb2.Drain())
    beat = providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus())
    await market.provider_service.Heartbeat(beat, metadata=posting.metadata)
    late, _, _ = await busy(market, 20)
    soon, _, _ = await busy(market, 10)
    wrong_model, wrong_kind, small = [await market.provider() for _ in range(3)]
    await market.daemon(wrong_model, models=OTHER)
    await market.daemon(wrong_kind, job_types=[])
    of_small = await market.daemon(small, gpu_status={"gpu_name": "RTX 4090", "gpu_vram_mib": 8192})
    await of_small.heard_nothing()  # what it was asked for at its Hello is over
    renter = await market.renter()
    job = await market.submit(renter, gpu_requirements=jobs_pb2.GpuRequirements(min_vram_gb=16))
    told = await market.why(job, renter)
    assert dict(obstacles(told)) == {
        away.id: "NOT_LIVE",
        paused.id: "PAUSED",
        draining.id: "DRAINING",
        posting.id: "NO_SESSION",
        late.id: "TOO_LITTLE_VRAM",
        soon.id: "TOO_LITTLE_VRAM",
        wrong_model.id: "MODEL_NOT_SERVED",
        wrong_kind.id: "JOB_TYPE_NOT_SERVED",
        small.id: "TOO_LITTLE_VRAM",
    }
    assert (code(told), told.status, told.queue_position) == ("NO_PROVIDER", jobs_pb2.JOB_STATE_QUEUED, 1)
    assert not told.HasField("estimated_start_seconds")
    messages = {one.provider_id: one.message for one in told.providers}
    assert "8192 MiB" in messages[small.id]
    assert "16384" in messages[small.id]
    assert MODEL in messages[wrong_model.id]
    assert "llm-inference" in messages[wrong_kind.id]

    other = await market.why(await market.submit(renter), renter)
    assert code(other) == "NEXT"  # for the small one, which is free
    assert obstacles(other)[:3] == [(small.id, "NONE"), (soon.id, "BUSY"), (late.id, "BUSY")]


async def test_busy_provider_is_told_with_when_it_gets_free(market: Market) -> None:
    provider, daemon, _ = await busy(market, 10)
    renter = await market.renter()
    market.clock.advance(24)
    first = await market.submit(renter, duration_minutes=2)
    market.clock.advance(1)
    await daemon.heartbeat()
    second = await market.submit(renter)
    urgent = await market.submit(renter, priority=9, duration_minutes=1)
    places = {}
    for name, job in (("first", first), ("second", second), ("urgent", urgent)):
        told = await market.why(job, renter)
        assert code(told) == "ALL_BUSY"
        assert obstacles(told) == [(provider.id, "BUSY")]
        assert told.providers[0].free_in_seconds == 575
        assert "575 s" in told.providers[0].message
        places[name] = (told.queue_position, told.estimated_start_seconds)
        now = await market.job(job)
        assert (now.queue_position, now.estimated_start_seconds) == places[name]
    assert places == {"urgent": (1, 575), "first": (2, 635), "second": (3, 755)}


async def test_job_that_names_a_provider_is_told_about_that_one(market: Market) -> None:
    provider, daemon, _ = await busy(market, 10)
    await market.daemon(await market.provider())
    renter = await market.renter()
    job = await market.submit(renter, provider)
    told = await market.why(job)
    assert (code(told), obstacles(told), told.estimated_start_seconds) == (
        "PROVIDER_BUSY",
        [(provider.id, "BUSY")],
        600,
    )
    daemon.cut()
    market.clock.advance(31)
    told = await market.why(job)
    assert (code(told), obstacles(told)) == ("PROVIDER_AWAY", [(provider.id, "NOT_LIVE")])
    assert "leave provider_id out" in told.message
    assert not told.HasField("estimated_start_seconds")


async def test_provider_that_takes_nothing_now_gives_no_estimate(market: Market) -> None:
    provider = await market.provider()
    await market.daemon(provider, slots=0)
    told = await market.why(await market.submit(await market.renter()))
    assert (code(told), obstacles(told)) == ("ALL_BUSY", [(provider.id, "BUSY")])
    assert not told.HasField("estimated_start_seconds")
    assert not told.providers[0].HasField("free_in_seconds")


async def test_every_attempt_is_told_with_how_it_ended(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    told = await market.why(job, renter)
    assert (code(told), obstacles(told)) == ("NEXT", [(provider.id, "REFUSED")])
    market.clock.advance(16)
    await daemon.heartbeat()
    await market.tick()
    await daemon.start((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    assert code(await market.why(job, renter)) == "RUNNING"
    daemon.cut()
    market.clock.advance(20)
    again = await market.daemon(provider)
    lease = (await again.expect("job_offer")).lease
    assert code(await market.why(job, renter)) == "STARTING"
    await again.start(lease)
    await again.heard_nothing()
    market.clock.advance(7)
    failed = sessions_pb2.RUN_OUTCOME_FAILED
    reason = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    await again.finished(
        lease, outcome=failed, seconds=6.5, failure_reason=reason, failure_message="it broke"
    )
    told = await market.why(job, renter)
    assert (code(told), told.failure_reason, told.message) == ("FAILED", reason, "It failed: it broke.")
    assert list(told.providers) == []
    assert [
        (one.attempt, one.lease_epoch, one.provider_id, one.outcome, one.detail) for one in told.attempts
    ] == [
        (1, 1, provider.id, jobs_pb2.ATTEMPT_OUTCOME_REFUSED, "no disk"),
        (1, 2, provider.id, jobs_pb2.ATTEMPT_OUTCOME_LOST, "the daemon no longer holds it"),
        (2, 3, provider.id, jobs_pb2.ATTEMPT_OUTCOME_FAILED, "it broke"),
    ]
    last = told.attempts[2]
    assert last.run_seconds == 6.5
    assert last.ended_at.ToMilliseconds() - last.started_at.ToMilliseconds() == 7000
    assert last.offered_at == last.accepted_at
    assert not told.attempts[0].HasField("accepted_at")


async def test_ended_and_running_jobs_have_no_place_in_the_queue(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for condition in ("RUNNING", "COMPLETED"):
        now = await market.job(job)
        told = await market.why(job)
        assert code(told) == condition
        for one in (now, told):
            assert not one.HasField("queue_position")
            assert not one.HasField("estimated_start_seconds")
        if condition == "RUNNING":
            await daemon.finished(lease)


async def test_no_more_than_fifty_providers_are_told(market: Market) -> None:
    for _ in range(60):
        await market.daemon(await market.provider(), models=OTHER)
    provider, _, _ = await busy(market, 10)
    told = await market.why(await market.submit(await market.renter()))
    assert len(told.providers) == 50
    assert obstacles(told)[0] == (provider.id, "BUSY")


async def test_only_its_parties_and_the_operator_are_told(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon)
    for party in (provider, renter, None):
        assert (await market.why(job, party)).job_id == job.job_id
    for stranger in (await market.provider(), await market.renter()):
        assert (await refusal(market.why(job, stranger))).reason == "NOT_OWNER"
    assert (await refusal(market.why(jobs_pb2.Job(job_id="none"), renter))).reason == "JOB_NOT_FOUND"


# Placement by what is known of past attempts.


@pytest.mark.parametrize("ends_well", [True, False])
async def test_provider_that_failed_is_chosen_after_one_that_did_not(market: Market, ends_well: bool) -> None:
    first, second = await market.provider(), await market.provider()
    renter = await market.renter()
    one, two = await market.daemon(first), await market.daemon(second)
    _, lease = await market.running_job(renter, first, one)
    outcome = sessions_pb2.RUN_OUTCOME_SUCCEEDED if ends_well else sessions_pb2.RUN_OUTCOME_FAILED
    await one.finished(lease, outcome=outcome)
    await one.heard_nothing()
    await market.submit(renter)
    await (one if ends_well else two).expect("job_offer")


async def test_record_of_a_provider_outlives_its_session(market: Market) -> None:
    first, second = await market.provider(), await market.provider()
    renter = await market.renter()
    one = await market.daemon(first)
    _, lease = await market.running_job(renter, first, one)
    await one.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED)
    await market.daemon(first)
    two = await market.daemon(second)
    await two.heartbeat()
    await market.submit(renter)
    await two.expect("job_offer")


async def test_attempt_that_the_sweep_ends_counts_as_well(market: Market) -> None:
    """The first provider accepts and never starts: the next job goes to the other."""
    first, second = await market.provider(), await market.provider()
    renter = await market.renter(50_000)
    one, two = await market.daemon(first), await market.daemon(second, models=OTHER)
    await market.submit(renter, first, lost_after_seconds=21_600, start_within_seconds=3600)
    await one.accept((await one.expect("job_offer")).lease)
    await one.heard_nothing()
    for _ in range(90):
        market.clock.advance(10)
        await one.heartbeat()
        await two.heartbeat()
    await one.say(capacity_update=sessions_pb2.CapacityUpdate(slots=2, models=[{"name": MODEL}]))  # type: ignore[list-item]
    await one.heard_nothing()
    one.held = []
    await market.later(1)
    await one.expect("cancel_run")
    await one.expect("job_offer")  # the job itself, which names it
    models = [sessions_pb2.ServedModel(name=MODEL)]
    await two.say(capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=models))
    await two.heard_nothing()
    await market.submit(renter)
    await two.expect("job_offer")
