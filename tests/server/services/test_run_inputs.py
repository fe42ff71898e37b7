"""What a daemon reads of the inputs of its runs: by its lease, from any byte on, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import artifacts_pb2, inputs_pb2, inputs_pb2_grpc, jobs_pb2, sessions_pb2

from daemon.link import Link, ServerAddress
from daemon.work.inputs import InputGoneError, ReadBrokenError
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party, refusal
from tests.support.whole_renter import send_file, send_input

CONTAINER = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
DATA = bytes(range(256)) * 3000
SMALL = DATA[:60_000]
IMAGE = jobs_pb2.ContainerSpec(image="busybox")


@pytest.fixture
async def market(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Market]:
    async with running_server.running(
        sqlite_url, ManualClock(), blob_store=f"file:{tmp_path / 'files'}"
    ) as market:
        yield market


async def offered(market: Market, renter: Party, daemon: Daemon, **fields: Any) -> sessions_pb2.JobOffer:
    """The offer of a new job, which the daemon accepts."""
    await market.submit(renter, job_type=CONTAINER, container_spec=IMAGE, **fields)
    offer: sessions_pb2.JobOffer = await daemon.expect("job_offer")
    await daemon.accept(offer.lease)
    return offer


async def read(
    market: Market, provider: Party, lease: sessions_pb2.Lease, number: int = 0, first_byte: int = 0
) -> bytes:
    stub = inputs_pb2_grpc.InputServiceStub(market.channel)
    call: Any = stub.ReadJobInput(metadata=provider.metadata)
    await call.write(inputs_pb2.ReadJobInputRequest(lease=lease, number=number, first_byte=first_byte))
    await call.done_writing()
    return b"".join([answer.data async for answer in call])


async def test_the_offer_describes_the_inputs_and_the_lease_opens_them(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, job_types=[CONTAINER])
    input_id = await send_input(market, renter, DATA, "data.tar")
    named = jobs_pb2.JobInput(input_id=input_id, path="set/a", unpack=True)
    offer = await offered(market, renter, daemon, inputs=[named])
    digest = hashlib.sha256(DATA).digest()
    assert list(offer.inputs) == [
        sessions_pb2.OfferedInput(path="set/a", size_bytes=len(DATA), sha256=digest, unpack=True)
    ]
    assert await read(market, provider, offer.lease) == DATA
    assert await read(market, provider, offer.lease, first_byte=700_000) == DATA[700_000:]
    assert await read(market, provider, offer.lease, first_byte=len(DATA)) == b""
    beyond = await refusal(read(market, provider, offer.lease, number=1))
    assert (beyond.reason, beyond.facts.field) == ("INVALID_FIELD", "number")
    forged = sessions_pb2.Lease(job_id=offer.lease.job_id, lease_epoch=1, lease_secret=b"x" * 16)
    other = await market.provider()
    for who, lease in ((provider, forged), (other, offer.lease)):
        assert (await refusal(read(market, who, lease))).reason == "STALE_LEASE"
    await daemon.start(offer.lease)
    await daemon.finished(offer.lease)
    assert (await refusal(read(market, provider, offer.lease))).reason == "STALE_LEASE"


async def test_the_daemons_link_goes_on_from_a_byte_and_knows_what_is_gone(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, job_types=[CONTAINER])
    input_id = await send_input(market, renter, DATA)
    offer = await offered(market, renter, daemon, inputs=[jobs_pb2.JobInput(input_id=input_id)])
    link = Link(ServerAddress(market.server.address), provider.key)
    found = b"".join([data async for data in link.read_input(offer.lease, 0, 1000)])
    assert found == DATA[1000:]
    await daemon.start(offer.lease)
    await daemon.finished(offer.lease)
    with pytest.raises(InputGoneError, match="no longer held"):
        await anext(link.read_input(offer.lease, 0, 0))
    nowhere = Link(ServerAddress("127.0.0.1:1"), provider.key)
    with pytest.raises(ReadBrokenError):
        await anext(nowhere.read_input(offer.lease, 0, 0))


async def test_files_of_another_job_are_read_where_they_lie(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, job_types=[CONTAINER])
    first = await offered(market, renter, daemon)
    await daemon.start(first.lease)
    await send_file(market, provider, first.lease, "model/weights", SMALL)
    early = await refusal(market.submit(renter, job_type=CONTAINER, resume_from=first.lease.job_id))
    assert early.reason == "WRONG_STATE"
    await daemon.finished(first.lease)
    address = f"artifact://{first.lease.job_id}/model/weights"
    offer = await offered(
        market,
        renter,
        daemon,
        inputs=[jobs_pb2.JobInput(artifact=address)],
        resume_from=first.lease.job_id,
    )
    assert [one.path for one in offer.inputs] == ["weights", "resume/model/weights"]
    assert await read(market, provider, offer.lease, 0, 5) == SMALL[5:]
    assert await read(market, provider, offer.lease, 1) == SMALL
    stranger = await market.renter(100_000)
    for fields in ({"inputs": [jobs_pb2.JobInput(artifact=address)]}, {"resume_from": first.lease.job_id}):
        refused = await refusal(market.submit(stranger, job_type=CONTAINER, container_spec=IMAGE, **fields))
        assert refused.reason == "JOB_NOT_FOUND"
    await offered_nothing_to_resume(market, renter, daemon)


async def offered_nothing_to_resume(market: Market, renter: Party, daemon: Daemon) -> None:
    """A job that left nothing cannot be gone on from."""
    empty = await market.submit(renter, job_type=CONTAINER, container_spec=IMAGE)
    await market.cancel(empty, renter)
    refused = await refusal(
        market.submit(renter, job_type=CONTAINER, container_spec=IMAGE, resume_from=empty.job_id)
    )
    assert (refused.reason, refused.facts.field) == ("ARTIFACT_NOT_FOUND", "resume_from")


async def test_a_daemon_of_before_inputs_gets_no_job_with_inputs_but_the_one_behind_it(
    market: Market,
) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, job_types=[CONTAINER], takes_inputs=False, slots=1)
    wanted: dict[str, Any] = {"job_type": CONTAINER, "container_spec": IMAGE}
    input_id = await send_input(market, renter, DATA)
    with_input = await market.submit(renter, **wanted, inputs=[jobs_pb2.JobInput(input_id=input_id)])
    await daemon.heard_nothing()
    await market.cancel(with_input, renter)
    _, lease = await market.running_job(renter, provider, daemon, **wanted)
    await market.submit(renter, **wanted, inputs=[jobs_pb2.JobInput(input_id=input_id)])
    market.clock.advance(0.001)
    plain = await market.submit(renter, **wanted)
    await daemon.finished(lease, seconds=1)
    assert (await daemon.expect("job_offer")).lease.job_id == plain.job_id


async def test_a_cancel_that_keeps_files_publishes_them(market: Market) -> None:
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, job_types=[CONTAINER])
    job, lease = await market.running_job(renter, provider, daemon, job_type=CONTAINER, container_spec=IMAGE)
    request = jobs_pb2.CancelJobRequest(job_id=job.job_id, keep_files=True)
    await market.job_service.CancelJob(request, metadata=renter.metadata)
    cancel = await daemon.expect("cancel_run")
    assert cancel.keep_files
    await send_file(market, provider, lease, "checkpoint", SMALL)
    await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED)
    listed = await market.artifact_service.ListArtifacts(
        artifacts_pb2.ListArtifactsRequest(job_id=job.job_id), metadata=renter.metadata
    )
    assert [file.name for file in listed.artifacts] == ["checkpoint"]
