"""Why a job waits or failed: its place in the queue, an estimate, each provider's obstacle, each attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, providers_pb2, sessions_pb2

from tests.support.running_server import HANG_SECONDS, MODEL, Daemon, Market, Party, refusal

OTHER_MODEL = [sessions_pb2.ServedModel(name="other")]


def condition(explanation: jobs_pb2.ExplainJobResponse) -> str:
    return jobs_pb2.JobCondition.Name(explanation.code).removeprefix("JOB_CONDITION_")


def obstacles(explanation: jobs_pb2.ExplainJobResponse) -> list[tuple[int, str]]:
    return [
        (listed.provider_id, jobs_pb2.Obstacle.Name(listed.code).removeprefix("OBSTACLE_"))
        for listed in explanation.providers
    ]


async def busy(market: Market, minutes: float, **hello: Any) -> tuple[Party, Daemon, sessions_pb2.Lease]:
    """A provider whose only slot runs a job with this duration."""
    provider = await market.provider()
    daemon = await market.daemon(provider, **hello)
    renter = await market.renter(100_000)
    _, lease = await market.running_job(renter, provider, daemon, duration_minutes=minutes)
    return provider, daemon, lease


async def test_each_provider_is_listed_with_its_obstacle(any_market: Market) -> None:
    market = any_market
    away, paused, draining, posting = [await market.provider() for _ in range(4)]
    (await market.daemon(away)).cut()
    async with asyncio.timeout(HANG_SECONDS):
        while market.server.services.fleet.all():
            await asyncio.sleep(0.01)
    market.clock.advance(60)
    await market.daemon(paused)
    await market.set_provider(paused, state="paused")
    draining_daemon = await market.daemon(draining)
    await draining_daemon.say(drain=sessions_pb2.Drain())
    await draining_daemon.heard_nothing()  # the server knows that it drains
    beat = providers_pb2.HeartbeatRequest(gpu_status=gpus_pb2.GpuStatus())
    await market.provider_service.Heartbeat(beat, metadata=posting.metadata)
    late, _, _ = await busy(market, 20)
    soon, _, _ = await busy(market, 10)
    wrong_model, wrong_kind, small = [await market.provider() for _ in range(3)]
    await market.daemon(wrong_model, models=OTHER_MODEL)
    await market.daemon(wrong_kind, job_types=[])
    small_daemon = await market.daemon(small, gpu_status={"gpu_name": "RTX 3070", "gpu_vram_mib": 8192})
    await market.judge()
    await small_daemon.heard_nothing()  # the search for jobs that its Hello began has ended
    renter = await market.renter()
    job = await market.submit(renter, gpu_requirements=jobs_pb2.GpuRequirements(min_vram_gb=16))
    explanation = await market.why(job, renter)
    assert dict(obstacles(explanation)) == {
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
    assert (condition(explanation), explanation.status, explanation.queue_position) == (
        "NO_PROVIDER",
        jobs_pb2.JOB_STATE_QUEUED,
        1,
    )
    assert not explanation.HasField("estimated_start_seconds")
    messages = {listed.provider_id: listed.message for listed in explanation.providers}
    assert "8192 MiB" in messages[small.id]
    assert "16384" in messages[small.id]
    assert MODEL in messages[wrong_model.id]
    assert "llm-inference" in messages[wrong_kind.id]

    other = await market.why(await market.submit(renter), renter)
    assert condition(other) == "NEXT"  # for the provider with little memory, which is free
    assert obstacles(other)[:3] == [(small.id, "NONE"), (soon.id, "BUSY"), (late.id, "BUSY")]


async def test_busy_provider_is_listed_with_the_time_until_it_is_free(market: Market) -> None:
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
        explanation = await market.why(job, renter)
        assert condition(explanation) == "ALL_BUSY"
        assert obstacles(explanation) == [(provider.id, "BUSY")]
        assert explanation.providers[0].free_in_seconds == 575
        assert "575 s" in explanation.providers[0].message
        places[name] = (explanation.queue_position, explanation.estimated_start_seconds)
        now = await market.job(job)
        assert (now.queue_position, now.estimated_start_seconds) == places[name]
    assert places == {"urgent": (1, 575), "first": (2, 635), "second": (3, 755)}


async def test_job_that_names_a_provider_lists_only_that_provider(market: Market) -> None:
    provider, daemon, _ = await busy(market, 10)
    await market.daemon(await market.provider())
    renter = await market.renter()
    job = await market.submit(renter, provider)
    explanation = await market.why(job)
    assert (condition(explanation), obstacles(explanation), explanation.estimated_start_seconds) == (
        "PROVIDER_BUSY",
        [(provider.id, "BUSY")],
        600,
    )
    daemon.cut()
    market.clock.advance(31)
    explanation = await market.why(job)
    assert (condition(explanation), obstacles(explanation)) == ("PROVIDER_AWAY", [(provider.id, "NOT_LIVE")])
    assert "leave provider_id out" in explanation.message
    assert not explanation.HasField("estimated_start_seconds")


async def test_provider_without_slots_gives_no_estimate(market: Market) -> None:
    provider = await market.provider()
    await market.daemon(provider, slots=0)
    explanation = await market.why(await market.submit(await market.renter()))
    assert (condition(explanation), obstacles(explanation)) == ("ALL_BUSY", [(provider.id, "BUSY")])
    assert not explanation.HasField("estimated_start_seconds")
    assert not explanation.providers[0].HasField("free_in_seconds")


async def test_every_attempt_is_listed_with_its_outcome(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await market.submit(renter, provider)
    await daemon.refuse((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    explanation = await market.why(job, renter)
    assert (condition(explanation), obstacles(explanation)) == ("NEXT", [(provider.id, "REFUSED")])
    market.clock.advance(16)
    await daemon.heartbeat()
    await market.tick()
    await daemon.start((await daemon.expect("job_offer")).lease)
    await daemon.heard_nothing()
    assert condition(await market.why(job, renter)) == "RUNNING"
    daemon.cut()
    market.clock.advance(20)
    again = await market.daemon(provider)
    lease = (await again.expect("job_offer")).lease
    assert condition(await market.why(job, renter)) == "STARTING"
    await again.start(lease)
    await again.heard_nothing()
    market.clock.advance(7)
    failed = sessions_pb2.RUN_OUTCOME_FAILED
    reason = jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    await again.finished(
        lease, outcome=failed, seconds=6.5, failure_reason=reason, failure_message="it broke"
    )
    explanation = await market.why(job, renter)
    assert (condition(explanation), explanation.failure_reason, explanation.message) == (
        "FAILED",
        reason,
        "It failed: it broke.",
    )
    assert list(explanation.providers) == []
    assert [
        (attempt.attempt, attempt.lease_epoch, attempt.provider_id, attempt.outcome, attempt.detail)
        for attempt in explanation.attempts
    ] == [
        (1, 1, provider.id, jobs_pb2.ATTEMPT_OUTCOME_REFUSED, "no disk"),
        (1, 2, provider.id, jobs_pb2.ATTEMPT_OUTCOME_LOST, "the daemon no longer holds it"),
        (2, 3, provider.id, jobs_pb2.ATTEMPT_OUTCOME_FAILED, "it broke"),
    ]
    last = explanation.attempts[2]
    assert last.run_seconds == 6.5
    assert last.ended_at.ToMilliseconds() - last.started_at.ToMilliseconds() == 7000
    assert last.offered_at == last.accepted_at
    assert not explanation.attempts[0].HasField("accepted_at")


async def test_ended_and_running_jobs_have_no_place_in_the_queue(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, lease = await market.running_job(renter, provider, daemon)
    for expected in ("RUNNING", "COMPLETED"):
        now = await market.job(job)
        explanation = await market.why(job)
        assert condition(explanation) == expected
        for answer in (now, explanation):
            assert not answer.HasField("queue_position")
            assert not answer.HasField("estimated_start_seconds")
        if expected == "RUNNING":
            await daemon.finished(lease)


async def test_at_most_fifty_providers_are_listed(market: Market) -> None:
    for _ in range(60):
        await market.daemon(await market.provider(), models=OTHER_MODEL)
    provider, _, _ = await busy(market, 10)
    explanation = await market.why(await market.submit(await market.renter()))
    assert len(explanation.providers) == 50
    assert obstacles(explanation)[0] == (provider.id, "BUSY")


async def test_only_the_parties_of_a_job_and_the_operator_see_its_explanation(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job, _ = await market.running_job(renter, provider, daemon)
    for party in (provider, renter, None):
        assert (await market.why(job, party)).job_id == job.job_id
    for stranger in (await market.provider(), await market.renter()):
        assert (await refusal(market.why(job, stranger))).reason == "NOT_OWNER"
    assert (await refusal(market.why(jobs_pb2.Job(job_id="none"), renter))).reason == "JOB_NOT_FOUND"


# Placement by the outcomes of past attempts.


@pytest.mark.parametrize("ends_well", [True, False])
async def test_provider_that_failed_is_chosen_after_a_provider_that_succeeded(
    market: Market, ends_well: bool
) -> None:
    first, second = await market.provider(), await market.provider()
    renter = await market.renter()
    first_daemon, second_daemon = await market.daemon(first), await market.daemon(second)
    _, lease = await market.running_job(renter, first, first_daemon)
    outcome = sessions_pb2.RUN_OUTCOME_SUCCEEDED if ends_well else sessions_pb2.RUN_OUTCOME_FAILED
    await first_daemon.finished(lease, outcome=outcome)
    await first_daemon.heard_nothing()
    await market.submit(renter)
    await (first_daemon if ends_well else second_daemon).expect("job_offer")


async def test_reliability_of_a_provider_outlives_its_session(market: Market) -> None:
    first, second = await market.provider(), await market.provider()
    renter = await market.renter()
    first_daemon = await market.daemon(first)
    _, lease = await market.running_job(renter, first, first_daemon)
    await first_daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED)
    await market.daemon(first)
    second_daemon = await market.daemon(second)
    await second_daemon.heartbeat()
    await market.submit(renter)
    await second_daemon.expect("job_offer")


async def test_attempt_that_the_sweep_ended_lowers_reliability(market: Market) -> None:
    """The first provider accepts and never starts: the next job goes to the other."""
    first, second = await market.provider(), await market.provider()
    renter = await market.renter(50_000)
    first_daemon, second_daemon = await market.daemon(first), await market.daemon(second, models=OTHER_MODEL)
    await market.submit(renter, first, lost_after_seconds=21_600, start_within_seconds=3600)
    await first_daemon.accept((await first_daemon.expect("job_offer")).lease)
    await first_daemon.heard_nothing()
    for _ in range(90):
        market.clock.advance(10)
        await first_daemon.heartbeat()
        await second_daemon.heartbeat()
    await first_daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=2, models=[{"name": MODEL}]))  # type: ignore[list-item]
    await first_daemon.heard_nothing()
    first_daemon.held = []
    await market.later(1)
    await first_daemon.expect("cancel_run")
    await first_daemon.expect("job_offer")  # the next attempt of the same job, which names this provider
    models = [sessions_pb2.ServedModel(name=MODEL)]
    await second_daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=1, models=models))
    await second_daemon.heard_nothing()
    await market.submit(renter)
    await second_daemon.expect("job_offer")
