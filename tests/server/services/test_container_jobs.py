"""Container jobs: what a submit needs, which failures are charged, and who may read the log."""

from __future__ import annotations

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from gateway.openapi import comments
from server.domain.jobs import CHARGED, FailureReason
from tests.support.running_server import Daemon, Market, Party, refusal

FAILED = sessions_pb2.RUN_OUTCOME_FAILED
CUSTOM = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
IMAGE_TYPES = [
    jobs_pb2.JOB_TYPE_TRAINING,
    jobs_pb2.JOB_TYPE_RENDERING,
    jobs_pb2.JOB_TYPE_BENCHMARK,
    CUSTOM,
]
SPEC = jobs_pb2.ContainerSpec(image="busybox", command=["true"])


async def running_container(
    market: Market, renter: Party, provider: Party
) -> tuple[jobs_pb2.Job, Daemon, sessions_pb2.Lease]:
    daemon = await market.daemon(provider, job_types=[CUSTOM])
    job = await market.submit(
        renter, provider, job_type=CUSTOM, container_spec=SPEC, params=jobs_pb2.JobParams()
    )
    offer = await daemon.expect("job_offer")
    assert offer.container_spec == SPEC
    await daemon.start(offer.lease)
    await daemon.heard_nothing()
    return job, daemon, offer.lease


@pytest.mark.parametrize("job_type", IMAGE_TYPES)
@pytest.mark.parametrize("image", ["", "  ", "no such thing", "-v", "a\nb", "../x"])
async def test_container_job_without_a_valid_image_is_refused(
    market: Market, job_type: int, image: str
) -> None:
    spec = jobs_pb2.ContainerSpec(image=image)
    refused = await refusal(market.submit(await market.renter(), job_type=job_type, container_spec=spec))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "container_spec.image")


async def test_inference_needs_no_image(market: Market) -> None:
    spec = jobs_pb2.ContainerSpec(image_type="vllm-serve")
    assert (await market.submit(await market.renter(), container_spec=spec)).job_id


@pytest.mark.parametrize(
    "reason", [reason for reason in FailureReason if reason is not FailureReason.CANCELLED]
)
async def test_renter_pays_only_for_failures_of_its_own_program(
    market: Market, reason: FailureReason
) -> None:
    provider, renter = await market.provider(), await market.renter()
    job, daemon, lease = await running_container(market, renter, provider)
    limit = 180 if reason is FailureReason.DURATION_LIMIT else 60
    market.clock.advance(limit)
    number = jobs_pb2.FailureReason.Value(f"FAILURE_REASON_{reason.name}")
    await daemon.finished(lease, outcome=FAILED, failure_reason=number, failure_message="x", seconds=limit)
    ended = await market.job(job)
    assert (ended.status, ended.failure_reason) == (jobs_pb2.JOB_STATE_FAILED, number)
    expected = {60: 100, 180: 300}[limit] if reason in CHARGED else 0
    assert ended.billing.actual_cost_halala == expected
    await market.assert_money_adds_up()


def test_charged_reasons_are_those_that_the_protos_describe_as_charged() -> None:
    descriptions = comments()
    for reason in FailureReason:
        text = next(
            text for name, text in descriptions.items() if name.endswith(f".FAILURE_REASON_{reason.name}")
        )
        assert ("The time that it ran is charged." in " ".join(text.split())) is (reason in CHARGED), reason


async def read_log(
    market: Market, job: jobs_pb2.Job, who: Party, after: int = 0
) -> jobs_pb2.GetJobLogsResponse:
    request = jobs_pb2.GetJobLogsRequest(job_id=job.job_id, after_seq=after)
    return await market.job_service.GetJobLogs(request, metadata=who.metadata)


async def test_log_can_be_read_while_the_job_runs_and_after_it_failed(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    job, daemon, lease = await running_container(market, renter, provider)
    for seq, data in ((1, b"one\n"), (2, b"caf\xc3"), (3, b"\xa9 \xff\n")):
        await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=seq, data=data))
        assert (await daemon.expect("output_ack")).log_through_seq == seq
    log = await read_log(market, job, renter)
    assert (log.log, log.through_seq, log.is_complete) == ("one\ncafé \ufffd\n", 3, False)
    exit_code = jobs_pb2.FAILURE_REASON_CONTAINER_EXIT
    await daemon.finished(lease, outcome=FAILED, failure_reason=exit_code, failure_message="exit code 1")
    for who in (renter, provider):
        log = await read_log(market, job, who, after=1)
        assert (log.log, log.through_seq, log.is_complete) == ("café \ufffd\n", 3, True)
    nothing = await read_log(market, job, renter, after=3)
    assert (nothing.log, nothing.through_seq) == ("", 3)


async def test_only_the_parties_of_a_job_may_read_its_log(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job, _, _ = await running_container(market, renter, provider)
    for stranger in (await market.provider(), await market.renter(0)):
        assert (await refusal(read_log(market, job, stranger))).reason == "NOT_OWNER"


async def test_next_attempt_begins_a_new_log(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter()
    job, daemon, lease = await running_container(market, renter, provider)
    await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=1, data=b"first try\n"))
    await daemon.expect("output_ack")
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED)
    again = (await daemon.expect("job_offer")).lease
    await daemon.start(again)
    log = await read_log(market, job, renter)
    assert (log.log, log.lease_epoch) == ("", 2)
