"""What is kept for whom: only files that a job can leave, texts for a limited time, a bound per account."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from dcp.v1 import artifacts_pb2, jobs_pb2, providers_pb2, renters_pb2, sessions_pb2

from daemon.runners.containers.container import ContainerRunner
from daemon.runners.process import ProcessRunner
from server.domain.jobs import LEAVE_FILES
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.store import storage
from server.store.models import Chunk, Job, Renter
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import MODEL, Daemon, Market, Party, refusal
from tests.support.whole_renter import delete, export, places_of, send_file, whole_database

DAY = 24 * 3600
CONTAINER = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
TYPES = [jobs_pb2.JOB_TYPE_LLM_INFERENCE, CONTAINER]
SECRET = "mrkprompt"
FILE = bytes(1000)


@asynccontextmanager
async def market_with(
    url: str, folder: Path, limits: StorageLimits = STORAGE_LIMITS
) -> AsyncIterator[Market]:
    async with running_server.running(
        url, ManualClock(), blob_store=f"file:{folder}", storage_limits=limits
    ) as market:
        yield market


async def stored(market: Market, renter: Party) -> tuple[int, int]:
    """What the renter's own profile says: the bytes that are kept, and how many may be; 0: no limit."""
    answer = await market.renter_service.GetOwnRenter(
        renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata
    )
    return answer.renter.stored_bytes, answer.renter.stored_bytes_limit


async def stored_of(market: Market, provider: Party) -> tuple[int, int]:
    """The same of a provider."""
    answer = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    return answer.provider.stored_bytes, answer.provider.stored_bytes_limit


async def answered(
    market: Market, renter: Party, provider: Party, daemon: Daemon, **changes: Any
) -> jobs_pb2.Job:
    """An inference that has ended with an output and a log."""
    params = jobs_pb2.JobParams(model=MODEL, prompt=SECRET)
    job, lease = await market.running_job(
        renter, provider, daemon, output=SECRET.encode(), params=params, **changes
    )
    await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=1, data=SECRET.encode()))
    await daemon.expect("output_ack")
    await daemon.finished(lease, last_output_seq=1)
    return job


async def log_of(market: Market, job: jobs_pb2.Job, who: Party) -> Any:
    request = jobs_pb2.GetJobLogsRequest(job_id=job.job_id)
    return await market.job_service.GetJobLogs(request, metadata=who.metadata)


async def test_files_of_a_job_without_an_output_folder_are_refused(sqlite_url: str, tmp_path: Path) -> None:
    async with market_with(sqlite_url, tmp_path) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider, job_types=TYPES)
        job, lease = await market.running_job(renter, provider, daemon)
        refused = await refusal(send_file(market, provider, lease, "a", FILE))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_FILES_EXPECTED")
        assert "llm-inference has no folder /output" in refused.message
        await market.cancel(job, renter)
        await daemon.expect("cancel_run")
        await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_CANCELLED)
        _, lease = await market.running_job(renter, provider, daemon, job_type=CONTAINER)
        await send_file(market, provider, lease, "a", FILE)
        assert await stored_of(market, provider) == (1000, STORAGE_LIMITS.provider_bytes)


def test_types_that_leave_files_are_those_of_runners_with_an_output_folder() -> None:
    runners: tuple[Any, ...] = (ContainerRunner, ProcessRunner)
    names = {
        jobs_pb2.JobType.Name(kind).removeprefix("JOB_TYPE_")
        for runner in runners
        for kind in runner.job_types(object.__new__(runner))
    }
    assert names == {kind.name for kind in LEAVE_FILES}


async def test_texts_of_a_job_go_when_their_time_has_ended(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    daemon = await market.daemon(provider)
    job = await answered(market, renter, provider, daemon, key="again")
    waiting = await market.submit(renter, provider, params=jobs_pb2.JobParams(model=MODEL, prompt="kept"))
    before, _ = await stored(market, renter)
    bill = (await market.job(job)).billing
    market.clock.advance(30 * DAY - 1)
    await market.server.services.retention.tick()
    assert not (await market.job(job)).HasField("texts_removed_at")
    assert (await market.output(job, renter)).response == SECRET
    market.clock.advance(2)
    await market.server.services.retention.tick()
    now = await market.job(job)
    assert now.HasField("texts_removed_at")
    assert (now.billing, now.status) == (bill, jobs_pb2.JOB_STATE_COMPLETED)
    assert not (await market.job(waiting)).HasField("texts_removed_at")
    for call in (market.output(job, renter), log_of(market, job, renter)):
        refused = await refusal(call)
        assert (refused.reason, refused.facts.status) == ("OUTPUT_ERASED", "completed")
        assert "removed when the time had ended" in refused.message
    assert places_of(SECRET, await whole_database(market)) == []
    (page,) = await export(market, renter)
    exported = {one.job.job_id: one for one in page.jobs}
    assert exported[job.job_id].job.HasField("texts_removed_at")
    assert exported[job.job_id].params == jobs_pb2.JobParams()
    assert exported[waiting.job_id].params.prompt == "kept"
    params = jobs_pb2.JobParams(model=MODEL, prompt=SECRET)
    assert (await market.submit(renter, provider, key="again", params=params)).job_id == job.job_id
    other = jobs_pb2.JobParams(model=MODEL, prompt="other")
    clash = await refusal(market.submit(renter, provider, key="again", params=other))
    assert clash.reason == "IDEMPOTENCY_CLASH"
    after, _ = await stored(market, renter)
    assert 0 < after < before
    await market.assert_money_adds_up()


async def test_texts_are_removed_in_batches_and_counted_once(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(100_000)
    for _ in range(5):
        await market.cancel(await market.submit(renter), renter)
    await market.submit(renter)
    kept = (await stored(market, renter))[0] // 6
    now_ms = int(market.clock.now() * 1000) + 1
    due = await market.sql(lambda: storage.with_texts(now_ms, 3))
    assert len(due) == 3
    assert [await market.sql(lambda: storage.remove_texts(due, now_ms)) for _ in range(2)] == [3, 0]
    assert (await stored(market, renter))[0] == 3 * kept
    market.clock.advance(31 * DAY)
    await market.server.services.retention.tick()
    assert await market.sql(lambda: storage.with_texts(2**60, 9)) == []
    rows = await market.sql(lambda: [len(row.spec.encode()) for row in Job.select() if row.ended_ms is None])
    assert await stored(market, renter) == (sum(rows), STORAGE_LIMITS.renter_bytes)
    assert provider.id


async def test_requests_and_files_of_a_renter_have_a_bound(sqlite_url: str, tmp_path: Path) -> None:
    async with market_with(sqlite_url, tmp_path, StorageLimits(renter_bytes=4000)) as market:
        provider, renter = await market.provider(), await market.renter(100_000)
        daemon = await market.daemon(provider, job_types=TYPES)
        job, lease = await market.running_job(renter, provider, daemon, job_type=CONTAINER, key="one")
        await send_file(market, provider, lease, "a", FILE)
        wallet, (before, limit) = await market.wallet(renter), await stored(market, renter)
        assert (before > 1000, limit) == (True, 4000)
        refused = await refusal(
            market.submit(renter, params=jobs_pb2.JobParams(model=MODEL, prompt="x" * 3000))
        )
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RENTER_STORAGE_FULL")
        assert (refused.facts.stored_bytes, refused.facts.stored_bytes_limit) == (before, 4000)
        assert "wait until older ones are deleted, or write to the operator" in refused.message
        refused = await refusal(send_file(market, provider, lease, "b", bytes(3000)))
        assert (refused.reason, refused.facts.stored_bytes) == ("RENTER_STORAGE_FULL", before)
        assert (await market.wallet(renter), await stored(market, renter)) == (wallet, (before, 4000))
        other = await market.renter()
        await market.submit(other)  # another account has its own room
        assert (await market.submit(renter, provider, job_type=CONTAINER, key="one")).job_id == job.job_id
        await daemon.finished(lease)
        market.clock.advance(31 * DAY)
        for _ in range(2):
            await market.server.services.cleaning.tick()
        await market.server.services.retention.tick()
        assert await stored(market, renter) == (0, 4000)
        await market.submit(renter, params=jobs_pb2.JobParams(model=MODEL, prompt="x" * 3000))


async def test_files_of_a_providers_runs_have_a_bound(sqlite_url: str, tmp_path: Path) -> None:
    async with market_with(sqlite_url, tmp_path, StorageLimits(provider_bytes=1500)) as market:
        provider = await market.provider()
        daemon = await market.daemon(provider, job_types=TYPES, slots=2)
        leases = []
        for _ in range(2):
            renter = await market.renter()
            leases.append((await market.running_job(renter, provider, daemon, job_type=CONTAINER))[1])
        await send_file(market, provider, leases[0], "a", FILE)
        refused = await refusal(send_file(market, provider, leases[1], "a", FILE))
        assert (refused.reason, refused.facts.stored_bytes) == ("PROVIDER_STORAGE_FULL", 1000)
        assert await stored_of(market, provider) == (1000, 1500)


async def test_texts_that_cannot_be_removed_hold_up_no_other(market: Market) -> None:
    renter = await market.renter()
    jobs = [await market.submit(renter) for _ in range(3)]
    for job in jobs:
        await market.cancel(job, renter)
    unwritable = (
        f"CREATE TRIGGER unwritable BEFORE UPDATE OF texts_removed_ms ON job WHEN OLD.job_id = "
        f"'{jobs[1].job_id}' BEGIN SELECT RAISE(ABORT, 'a row that cannot be written'); END"
    )
    await market.sql(lambda: Job._meta.database.execute_sql(unwritable))
    market.clock.advance(31 * DAY)
    await market.server.services.retention.tick()
    removed = [(await market.job(job)).HasField("texts_removed_at") for job in jobs]
    assert removed == [True, False, True]


async def test_two_uploads_cannot_both_take_the_last_room(sqlite_url: str, tmp_path: Path) -> None:
    """Both began while there was room; the second that ends is refused, and its bytes do not stay."""
    async with market_with(sqlite_url, tmp_path, StorageLimits(provider_bytes=1500)) as market:
        provider, renter = await market.provider(), await market.renter()
        daemon = await market.daemon(provider, job_types=TYPES)
        _, lease = await market.running_job(renter, provider, daemon, job_type=CONTAINER)
        request, calls = artifacts_pb2.UploadArtifactRequest, []
        for name in ("a", "b"):
            call: Any = market.artifact_service.UploadArtifact(metadata=provider.metadata)
            digest = hashlib.sha256(FILE).digest()
            await call.write(
                request(
                    header=artifacts_pb2.ArtifactHeader(
                        lease=lease, name=name, size_bytes=1000, sha256=digest
                    )
                )
            )
            assert (await call.read()).disposition == artifacts_pb2.UPLOAD_DISPOSITION_SEND
            calls.append(call)
        for call in calls:
            await call.write(request(data=FILE))
        await calls[0].done_writing()
        assert (await calls[0].read()).disposition == artifacts_pb2.UPLOAD_DISPOSITION_STORED
        await calls[1].done_writing()
        assert (await refusal(calls[1].read())).reason == "PROVIDER_STORAGE_FULL"
        assert await stored_of(market, provider) == (1000, 1500)


async def test_without_a_limit_none_is_shown(sqlite_url: str, tmp_path: Path) -> None:
    limits = StorageLimits(renter_bytes=0, provider_bytes=0)
    async with market_with(sqlite_url, tmp_path, limits) as market:
        provider, renter = await market.provider(), await market.renter()
        await market.submit(renter)
        assert (await stored(market, renter))[1] == (await stored_of(market, provider))[1] == 0


async def test_a_deleted_account_keeps_no_requests(any_market: Market) -> None:
    renter = await any_market.renter(0)
    await any_market.set_renter(renter, request_bytes=99)
    me = await any_market.renter_service.GetOwnRenter(
        renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata
    )
    await delete(any_market, renter, me.renter.email)
    assert await any_market.sql(lambda: Renter.get_by_id(renter.id).request_bytes) == 0
    assert await any_market.sql(lambda: Chunk.select().count()) == 0
