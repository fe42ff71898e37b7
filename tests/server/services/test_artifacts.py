"""Artifacts from the daemon's upload to the renter's download, over real gRPC, with hostile daemons."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from dcp.v1 import artifacts_pb2 as pb
from dcp.v1 import jobs_pb2, sessions_pb2

from server.blobs.files import MARK
from server.domain.artifacts import ArtifactLimits
from server.store.models import Artifact as Row
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party, refusal
from tests.support.s3_server import BUCKET, running_s3

DAY_SECONDS = 24 * 3600
LLM, CONTAINER = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
PIECE_BYTES = 64 * 1024
LIMITS = ArtifactLimits(file_bytes=1 << 20, job_bytes=3 << 19, count=3, days=30)
CONTENT = bytes(range(256)) * 1000


@dataclass
class Site:
    """A server with a running job, and the folder that stores its files."""

    market: Market
    folder: Path
    provider: Party
    renter: Party
    daemon: Daemon
    job: jobs_pb2.Job
    lease: sessions_pb2.Lease

    def blobs(self) -> list[Path]:
        """All files in the store, complete or not."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != MARK)

    async def rows(self) -> list[tuple[str, str]]:
        """Names and states of all artifacts on record."""
        return await self.market.sql(lambda: [(row.name, row.state) for row in Row.select().order_by(Row.id)])

    async def clean(self, seconds: float = 0) -> None:
        """Advances the clock, and cleans until nothing is left to clean."""
        self.market.clock.advance(seconds)
        for _ in range(3):
            await self.market.server.services.cleaning.tick()

    async def another_job(self) -> tuple[jobs_pb2.Job, sessions_pb2.Lease]:
        """Another running job."""
        return await self.market.running_job(self.renter, self.provider, self.daemon, job_type=CONTAINER)


@asynccontextmanager
async def running_site(
    url: str, folder: Path, limits: ArtifactLimits = LIMITS, blob_store: str = ""
) -> AsyncIterator[Site]:
    store = folder / "artifacts"
    async with running_server.running(
        url, ManualClock(), blob_store=blob_store or f"file:{store}", artifact_limits=limits
    ) as market:
        provider, renter = await market.provider(), await market.renter(100_000)
        daemon = await market.daemon(provider, job_types=[LLM, CONTAINER])
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", job_type=CONTAINER)
        yield Site(market, store, provider, renter, daemon, job, lease)


@pytest.fixture
async def site(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(sqlite_url, tmp_path) as site:
        yield site


def header(lease: sessions_pb2.Lease, name: str, content: bytes, **changes: Any) -> pb.UploadArtifactRequest:
    values: dict[str, Any] = {
        "lease": lease,
        "name": name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).digest(),
    }
    return pb.UploadArtifactRequest(header=pb.ArtifactHeader(**(values | changes)))


def pieces(content: bytes) -> Iterable[pb.UploadArtifactRequest]:
    for start in range(0, len(content), PIECE_BYTES):
        yield pb.UploadArtifactRequest(data=content[start : start + PIECE_BYTES])


class Upload:
    """An upload that a test controls step by step."""

    def __init__(self, site: Site, who: Party | None = None) -> None:
        metadata = (who or site.provider).metadata
        self._call: Any = site.market.artifact_service.UploadArtifact(metadata=metadata, timeout=HANG_SECONDS)

    async def begin(self, request: pb.UploadArtifactRequest) -> int:
        """Sends the header; returns the first answer."""
        await self.say([request])
        return await self.hear()

    async def say(self, requests: Iterable[pb.UploadArtifactRequest]) -> None:
        """Sends messages. If the server has ended the stream, the next `hear` raises its error."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            for request in requests:
                await self._call.write(request)

    async def hear(self) -> int:
        """The next answer. Raises AioRpcError."""
        answer = await self._call.read()
        assert answer is not grpc.aio.EOF or await self._call.code() is not grpc.StatusCode.OK
        if answer is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(
                await self._call.code(),
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                await self._call.details(),
            )
        return int(answer.disposition)

    async def end(self, requests: Iterable[pb.UploadArtifactRequest] = ()) -> int:
        """Sends the rest; returns the file's disposition."""
        await self.say(requests)
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
        return await self.hear()

    def cut(self) -> None:
        """Breaks the connection."""
        self._call.cancel()


async def begin_upload(site: Site, name: str, content: bytes = CONTENT) -> Upload:
    """Begins an upload; the server waits for its bytes."""
    begun = Upload(site)
    assert await begun.begin(header(site.lease, name, content)) == pb.UPLOAD_DISPOSITION_SEND
    return begun


async def send(site: Site, requests: Iterable[pb.UploadArtifactRequest], who: Party | None = None) -> int:
    """Sends a header and the messages after it; returns the file's disposition."""
    first, *rest = requests
    sending = Upload(site, who)
    answer = await sending.begin(first)
    return await sending.end(rest) if answer == pb.UPLOAD_DISPOSITION_SEND else answer


async def upload(
    site: Site,
    name: str = "model/weights.bin",
    content: bytes = CONTENT,
    lease: sessions_pb2.Lease | None = None,
    who: Party | None = None,
    **changes: Any,
) -> int:
    lease = lease or site.lease
    return await send(site, [header(lease, name, content, **changes), *pieces(content)], who)


async def list_files(site: Site, who: Party, job: jobs_pb2.Job | None = None) -> pb.ListArtifactsResponse:
    request = pb.ListArtifactsRequest(job_id=(job or site.job).job_id)
    return await site.market.artifact_service.ListArtifacts(request, metadata=who.metadata)


async def download(
    site: Site, name: str, who: Party | None = None, **fields: str
) -> tuple[pb.FileHead, bytes]:
    request = pb.DownloadArtifactRequest(job_id=site.job.job_id, name=name, **fields)
    metadata = (who or site.renter).metadata
    call = site.market.artifact_service.DownloadArtifact(request, metadata=metadata, timeout=HANG_SECONDS)
    messages = [message async for message in call]
    assert [message.WhichOneof("kind") for message in messages[1:]] == ["data"] * (len(messages) - 1)
    return messages[0].head, b"".join(message.data for message in messages[1:])


async def test_files_of_a_run_can_be_downloaded_once_it_has_ended(database_url: str, tmp_path: Path) -> None:
    async with running_site(database_url, tmp_path) as site:
        assert await upload(site) == pb.UPLOAD_DISPOSITION_STORED
        assert await upload(site, "empty.txt", b"") == pb.UPLOAD_DISPOSITION_STORED
        running = await list_files(site, site.renter)
        assert (running.status, list(running.artifacts)) == (jobs_pb2.JOB_STATE_RUNNING, [])
        refused = await refusal(download(site, "model/weights.bin"))
        assert (refused.reason, "running" in refused.message) == ("ARTIFACT_NOT_FOUND", True)
        assert (await site.market.job(site.job)).artifact_count == 0
        await site.daemon.finished(site.lease)
        found = await list_files(site, site.renter)
        assert [(file.name, file.size_bytes, file.content_type) for file in found.artifacts] == [
            ("empty.txt", 0, "text/plain"),
            ("model/weights.bin", len(CONTENT), "application/octet-stream"),
        ]
        assert found.artifacts[1].sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert found.expires_at.seconds - found.artifacts[0].created_at.seconds == 30 * DAY_SECONDS
        job = await site.market.job(site.job)
        assert (job.artifact_count, job.artifact_bytes) == (2, len(CONTENT))
        head, content = await download(site, "model/weights.bin")
        assert (content, head.size_bytes, head.partial) == (CONTENT, len(CONTENT), False)
        assert head.etag == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
        assert await download(site, "empty.txt") == (
            pb.FileHead(
                name="empty.txt",
                content_type="text/plain",
                etag=f'"{hashlib.sha256(b"").hexdigest()}"',
                created_at=found.artifacts[0].created_at,
            ),
            b"",
        )


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "/etc/passwd", "..", "a/../b", "a/./b", "a//b", "a/", ".", "a\\b", "a\x00b", "a\nb"),
        *("a\x7fb", "evil\u202eexe.txt", "a\u2028b", "x" * 256, "/".join("a" * 17), "é" * 257),
    ],
)
async def test_name_that_is_not_a_plain_relative_path_is_refused(site: Site, name: str) -> None:
    refused = await refusal(upload(site, name))
    assert (refused.reason, refused.code) == ("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT)
    assert "name" in refused.facts.field
    assert (site.blobs(), await site.rows()) == ([], [])


async def test_names_in_any_script_are_kept_and_found_in_either_unicode_form(site: Site) -> None:
    for name, content in (("نموذج/أوزان.bin", b"1"), ("re\u0301sume\u0301 #1?.txt", b"2"), ("A.txt", b"3")):
        await upload(site, name, content)
    await site.daemon.finished(site.lease)
    names = [file.name for file in (await list_files(site, site.renter)).artifacts]
    assert sorted(names) == sorted(["A.txt", "r\u00e9sum\u00e9 #1?.txt", "نموذج/أوزان.bin"])
    for name in ("re\u0301sume\u0301 #1?.txt", "r\u00e9sum\u00e9 #1?.txt"):
        assert (await download(site, name))[1] == b"2"
    for other in ("a.txt", "a\\b", "../a", "a\x80"):  # names that no file can have are not found either
        assert (await refusal(download(site, other))).reason == "ARTIFACT_NOT_FOUND"


async def test_repeated_file_is_reported_as_stored_before_its_bytes_are_sent(site: Site) -> None:
    await upload(site)
    assert (
        await send(site, [header(site.lease, "model/weights.bin", CONTENT)]) == pb.UPLOAD_DISPOSITION_ALREADY
    )
    assert await upload(site) == pb.UPLOAD_DISPOSITION_ALREADY
    assert len(site.blobs()) == 1
    refused = await refusal(upload(site, content=b"other"))
    assert (refused.reason, refused.code) == ("ARTIFACT_NAME_TAKEN", grpc.StatusCode.ALREADY_EXISTS)
    await upload(site, "caf\u00e9", b"1")
    assert (await refusal(upload(site, "cafe\u0301", b"2"))).reason == "ARTIFACT_NAME_TAKEN"


@pytest.mark.parametrize(
    "changes",
    [{"sha256": b"x" * 32}, {"size_bytes": len(CONTENT) + 1}, {"size_bytes": len(CONTENT) - 1}],
    ids=["other digest", "too short", "too long"],
)
async def test_file_that_differs_from_its_announcement_is_not_stored(
    site: Site, changes: dict[str, Any]
) -> None:
    refused = await refusal(upload(site, **changes))
    assert refused.reason == "ARTIFACT_DAMAGED"
    await site.market.server.services.artifacts.stop()
    assert (site.blobs(), await site.rows()) == ([], [])


async def test_digest_of_an_empty_file_is_checked(site: Site) -> None:
    assert (await refusal(upload(site, "empty", b"", sha256=b"x" * 32))).reason == "ARTIFACT_DAMAGED"


async def test_upload_that_breaks_the_protocol_is_refused(site: Site) -> None:
    first = header(site.lease, "a", CONTENT)
    for requests in ([*pieces(CONTENT)], [first, first], [first, pb.UploadArtifactRequest()]):
        assert (await refusal(send(site, requests))).reason == "PROTOCOL_VIOLATION"
    assert (await refusal(Upload(site).end())).reason == "PROTOCOL_VIOLATION"
    for wrong in (
        header(site.lease, "a", CONTENT, sha256=b"short"),
        header(site.lease, "a", CONTENT, sha256=b""),
        header(site.lease, "a", CONTENT, size_bytes=-1),
    ):
        assert (await refusal(send(site, [wrong]))).reason == "INVALID_FIELD"
    large = pb.UploadArtifactRequest(data=bytes(PIECE_BYTES + 1))
    assert (await refusal(send(site, [first, large]))).reason == "INVALID_FIELD"
    assert await site.rows() == []


async def test_files_over_the_size_and_count_limits_are_refused(site: Site) -> None:
    def refused_for(name: str, size_bytes: int) -> Any:
        return refusal(send(site, [header(site.lease, name, b"", size_bytes=size_bytes)]))

    too_large = await refused_for("a", LIMITS.file_bytes + 1)
    assert (too_large.reason, too_large.code) == ("ARTIFACT_TOO_LARGE", grpc.StatusCode.FAILED_PRECONDITION)
    await upload(site, "a", bytes(LIMITS.file_bytes))
    assert (await refused_for("b", LIMITS.file_bytes)).reason == "ARTIFACT_TOO_LARGE"
    await upload(site, "b", b"1")
    await upload(site, "c", b"1")
    assert (await refused_for("d", 1)).reason == "ARTIFACT_TOO_LARGE"
    assert await upload(site, "c", b"1") == pb.UPLOAD_DISPOSITION_ALREADY


async def test_simultaneous_uploads_share_the_limit(site: Site) -> None:
    """Unfinished uploads count, so that parallel uploads cannot exceed it."""
    content = bytes(LIMITS.file_bytes)
    first = await begin_upload(site, "a", content)
    assert (await refusal(upload(site, "b", content))).reason == "ARTIFACT_TOO_LARGE"
    assert await first.end(pieces(content)) == pb.UPLOAD_DISPOSITION_STORED


async def test_upload_without_the_current_lease_is_refused(site: Site) -> None:
    other = await site.market.provider()
    forged = sessions_pb2.Lease(job_id=site.lease.job_id, lease_epoch=1, lease_secret=b"guessed" * 2)
    later = sessions_pb2.Lease(job_id=site.lease.job_id, lease_epoch=2, lease_secret=site.lease.lease_secret)
    unknown = sessions_pb2.Lease(job_id="job-x", lease_epoch=1, lease_secret=site.lease.lease_secret)
    for call in (
        upload(site, lease=forged),
        upload(site, lease=later),
        upload(site, lease=unknown),
        upload(site, who=other),
    ):
        refused = await refusal(call)
        assert (refused.reason, refused.code) == ("STALE_LEASE", grpc.StatusCode.ABORTED)
    await site.daemon.finished(site.lease)
    assert (await refusal(upload(site))).reason == "STALE_LEASE"
    assert await site.rows() == []


async def test_file_that_overtakes_the_acceptance_of_its_lease_is_asked_for_again(site: Site) -> None:
    """Else a run that is quicker than its acceptance would fail, as its lease would count as gone."""
    await site.daemon.finished(site.lease)
    await site.market.submit(site.renter, site.provider, job_type=CONTAINER)
    lease = (await site.daemon.expect("job_offer")).lease
    early = await refusal(upload(site, lease=lease))
    assert (early.reason, early.code) == ("OVERLOADED", grpc.StatusCode.UNAVAILABLE)
    await site.daemon.start(lease)
    await site.daemon.heard_nothing()
    assert await upload(site, lease=lease) == pb.UPLOAD_DISPOSITION_STORED


async def test_file_is_not_stored_if_its_lease_ends_during_the_upload(site: Site) -> None:
    sending = await begin_upload(site, "a")
    await site.daemon.finished(site.lease)
    assert (await refusal(sending.end(pieces(CONTENT)))).reason == "STALE_LEASE"
    assert (site.blobs(), await site.rows()) == ([], [])
    assert list((await list_files(site, site.renter)).artifacts) == []


async def test_simultaneous_uploads_of_the_same_file_store_it_once(site: Site) -> None:
    sending = [await begin_upload(site, "a") for _ in range(3)]
    dispositions = await asyncio.gather(*(upload.end(pieces(CONTENT)) for upload in sending))
    assert sorted(dispositions) == [pb.UPLOAD_DISPOSITION_STORED, *[pb.UPLOAD_DISPOSITION_ALREADY] * 2]
    assert (len(site.blobs()), await site.rows()) == (1, [("a", "ready")])


async def test_of_two_files_with_the_same_name_the_first_to_finish_is_kept(site: Site) -> None:
    sending = [await begin_upload(site, "a", content) for content in (b"one", b"other")]
    assert await sending[1].end(pieces(b"other")) == pb.UPLOAD_DISPOSITION_STORED
    assert (await refusal(sending[0].end(pieces(b"one")))).reason == "ARTIFACT_NAME_TAKEN"
    assert (len(site.blobs()), await site.rows()) == (1, [("a", "ready")])


async def test_interrupted_upload_stores_nothing(site: Site) -> None:
    content = bytes(LIMITS.file_bytes)
    sending = await begin_upload(site, "a", content)
    await sending.say([*pieces(content)][:-1])
    async with asyncio.timeout(HANG_SECONDS):
        while not site.blobs():
            await asyncio.sleep(0.01)
        sending.cut()
        while site.blobs() or await site.rows():
            await asyncio.sleep(0.01)
    assert await upload(site, "a") == pb.UPLOAD_DISPOSITION_STORED


async def test_silent_upload_is_ended(site: Site) -> None:
    site.market.server.services.artifacts._idle_seconds = 0.05
    sending = await begin_upload(site, "a")
    assert (await refusal(sending.hear())).reason == "TIMEOUT"
    assert await site.rows() == []


async def test_ninth_simultaneous_upload_of_a_provider_is_refused(site: Site) -> None:
    sending = [await begin_upload(site, "a") for _ in range(8)]
    assert (await refusal(upload(site, "b"))).reason == "OVERLOADED"
    for upload_ in sending:
        assert (await refusal(upload_.end())).reason == "ARTIFACT_DAMAGED"
    assert await upload(site, "b") == pb.UPLOAD_DISPOSITION_STORED


async def test_simultaneous_downloads_of_an_account_are_limited(sqlite_url: str, tmp_path: Path) -> None:
    large = bytes(16 << 20)
    async with running_site(sqlite_url, tmp_path, ArtifactLimits()) as site:
        await upload(site, "a", large)
        await site.daemon.finished(site.lease)
        request = pb.DownloadArtifactRequest(job_id=site.job.job_id, name="a")
        # The test reads only the heads: each stream's flow control keeps the rest at the server.
        calls: list[Any] = [
            site.market.artifact_service.DownloadArtifact(request, metadata=site.renter.metadata)
            for _ in range(32)
        ]
        for call in calls:
            assert (await call.read()).HasField("head")
        refused = await refusal(download(site, "a"))
        assert (refused.reason, refused.facts.retry_after_seconds) == ("OVERLOADED", 5)
        assert (await download(site, "a", site.provider, range="bytes=0-9"))[1] == bytes(10)
        for call in calls:
            call.cancel()
        async with asyncio.timeout(HANG_SECONDS):
            while True:
                with contextlib.suppress(grpc.RpcError):
                    assert (await download(site, "a"))[1] == large
                    break
                await asyncio.sleep(0.05)


async def test_store_that_cannot_be_written_is_reported_as_unavailable(site: Site) -> None:
    site.folder.write_bytes(b"no folder")
    refused = await refusal(upload(site))
    assert (refused.reason, refused.code) == ("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert str(site.folder) not in refused.message
    site.folder.unlink()
    assert await upload(site) == pb.UPLOAD_DISPOSITION_STORED


async def test_only_the_files_of_the_last_attempt_are_kept(database_url: str, tmp_path: Path) -> None:
    async with running_site(database_url, tmp_path) as site:
        await upload(site, "a", b"of the first attempt")
        await upload(site, "lost", b"of the first attempt alone")
        await site.daemon.finished(site.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED)
        again = (await site.daemon.expect("job_offer")).lease
        assert again.job_id == site.job.job_id
        assert (await refusal(upload(site, "late", b"x"))).reason == "STALE_LEASE"
        await site.daemon.start(again)
        await site.daemon.heard_nothing()
        await upload(site, "a", b"of the second", again)
        await site.clean()
        assert await site.rows() == [("a", "ready")]
        await site.daemon.finished(again)
        found = await list_files(site, site.renter)
        assert [(file.name, file.size_bytes) for file in found.artifacts] == [("a", 13)]
        assert (await site.market.job(site.job)).artifact_count == 1
        assert len(site.blobs()) == 1


async def test_job_cancelled_between_attempts_has_no_files(site: Site) -> None:
    await upload(site)
    await site.market.set_provider(site.provider, draining=True)
    await site.daemon.finished(site.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED)
    job = await site.market.cancel(site.job, site.renter)
    assert (job.status, job.artifact_count) == (jobs_pb2.JOB_STATE_CANCELLED, 0)
    assert list((await list_files(site, site.renter)).artifacts) == []
    await site.clean()
    assert (site.blobs(), await site.rows()) == ([], [])


@pytest.mark.parametrize(
    "end",
    [
        {
            "outcome": sessions_pb2.RUN_OUTCOME_FAILED,
            "failure_reason": jobs_pb2.FAILURE_REASON_DURATION_LIMIT,
            "seconds": 180,
        },
        {
            "outcome": sessions_pb2.RUN_OUTCOME_FAILED,
            "failure_reason": jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
        },
        {"outcome": sessions_pb2.RUN_OUTCOME_CANCELLED},
    ],
    ids=["duration limit", "failed", "cancelled"],
)
async def test_files_are_kept_however_the_attempt_ended(site: Site, end: dict[str, Any]) -> None:
    await upload(site)
    if end["outcome"] == sessions_pb2.RUN_OUTCOME_CANCELLED:
        await site.market.cancel(site.job, site.renter)
        await site.daemon.expect("cancel_run")
        assert await upload(site, "checkpoint", b"1") == pb.UPLOAD_DISPOSITION_STORED
    site.market.clock.advance(end.get("seconds", 1))
    await site.daemon.finished(site.lease, **end)
    assert (await download(site, "model/weights.bin"))[1] == CONTENT


async def test_run_over_its_limit_is_not_ended_while_its_files_arrive(site: Site) -> None:
    sending = await begin_upload(site, "a")
    for _ in range(10):
        await site.daemon.heartbeat()
        await site.market.later(25)
    assert (await site.market.job(site.job)).status == jobs_pb2.JOB_STATE_RUNNING
    await sending.end(pieces(CONTENT))
    await site.daemon.heartbeat()
    await site.market.later(20)
    await site.daemon.finished(site.lease, seconds=100)
    job = await site.market.job(site.job)
    assert (job.status, job.billing.billed_seconds) == (jobs_pb2.JOB_STATE_COMPLETED, 100)
    await site.market.assert_money_adds_up()


async def test_run_over_its_limit_is_ended_if_its_files_take_too_long(site: Site) -> None:
    sending = await begin_upload(site, "a")
    for _ in range(180):
        await site.daemon.heartbeat()
        await site.market.later(25)
        if (await site.market.job(site.job)).status == jobs_pb2.JOB_STATE_FAILED:
            break
    job = await site.market.job(site.job)
    assert (job.status, job.billing.billed_seconds) == (jobs_pb2.JOB_STATE_FAILED, 180)
    sending.cut()


async def test_only_those_who_may_see_the_output_may_download_the_files(site: Site) -> None:
    await upload(site)
    await site.daemon.finished(site.lease)
    stranger, rival = await site.market.renter(), await site.market.provider()
    for who in (site.renter, site.provider, Party(0, running_server.ADMIN_TOKEN)):
        assert len((await list_files(site, who)).artifacts) == 1
        assert (await download(site, "model/weights.bin", who))[1] == CONTENT
    for who in (stranger, rival):
        assert (await refusal(list_files(site, who))).reason == "NOT_OWNER"
        assert (await refusal(download(site, "model/weights.bin", who))).reason == "NOT_OWNER"


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 10)),
        ("bytes=255990-", (255_990, 10)),
        ("bytes=-10", (255_990, 10)),
        ("bytes=-999999", (0, 256_000)),
        ("bytes=255999-999999", (255_999, 1)),
    ],
)
async def test_byte_range_of_a_file_is_sent(site: Site, requested: str, expected: tuple[int, int]) -> None:
    await upload(site)
    await site.daemon.finished(site.lease)
    head, content = await download(site, "model/weights.bin", range=requested)
    assert (head.first_byte, head.byte_count, head.partial) == (*expected, True)
    assert content == CONTENT[expected[0] : sum(expected)]
    head, content = await download(site, "model/weights.bin", range=requested, if_range=head.etag)
    assert head.partial
    head, content = await download(site, "model/weights.bin", range=requested, if_range='"another"')
    assert (head.partial, content) == (False, CONTENT)


async def test_range_beyond_the_end_is_refused_and_a_malformed_range_is_ignored(site: Site) -> None:
    await upload(site)
    await site.daemon.finished(site.lease)
    for beyond in ("bytes=256000-", "bytes=-0"):
        refused = await refusal(download(site, "model/weights.bin", range=beyond))
        assert (refused.reason, refused.facts.size_bytes) == ("RANGE_NOT_SATISFIABLE", 256_000)
    for malformed in ("bytes=", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=5-1", "bytes=x-", "-"):
        head, content = await download(site, "model/weights.bin", range=malformed)
        assert (head.partial, content) == (False, CONTENT)


async def test_files_are_deleted_after_their_retention_period(database_url: str, tmp_path: Path) -> None:
    async with running_site(database_url, tmp_path) as site:
        await upload(site)
        await site.daemon.finished(site.lease)
        await site.clean(30 * DAY_SECONDS - 60)
        assert len((await list_files(site, site.renter)).artifacts) == 1
        await site.clean(120)
        answer = await list_files(site, site.renter)
        assert (list(answer.artifacts), answer.HasField("expires_at")) == ([], False)
        assert (await refusal(download(site, "model/weights.bin"))).reason == "ARTIFACT_NOT_FOUND"
        assert (await site.market.job(site.job)).artifact_count == 0
        assert (site.blobs(), await site.rows()) == ([], [])


async def test_file_that_cannot_be_deleted_holds_up_no_other(tmp_path: Path, sqlite_url: str) -> None:
    async with running_site(sqlite_url, tmp_path) as site:
        await upload(site, "stuck", b"1")
        (stuck,) = site.blobs()
        await upload(site, "free", b"2")
        await site.daemon.finished(site.lease)
        stuck.unlink()
        stuck.mkdir()  # cannot be deleted as a file
        await site.clean(30 * DAY_SECONDS + 60)
        assert (site.blobs(), await site.rows()) == ([], [("stuck", "doomed")])
        stuck.rmdir()
        await site.clean()
        assert await site.rows() == []


async def test_remains_of_a_killed_server_are_cleaned_up(database_url: str, tmp_path: Path) -> None:
    """Rows without bytes, bytes without a row, half a file: what crashes at different points leave."""
    async with running_site(database_url, tmp_path) as site:
        await upload(site, "kept", b"kept")
        (kept,) = site.blobs()
        await site.daemon.finished(site.lease)

        def insert_rows() -> None:
            values = {"job_id": site.job.job_id, "lease_epoch": 1, "size_bytes": 1, "sha256": b"x" * 32}
            for name, state in (("cut", "uploading"), ("dead", "doomed")):
                Row.insert(
                    **values,
                    name=name,
                    state=state,
                    blob_key=name * 8,
                    created_ms=int(site.market.clock.now() * 1000),
                ).execute()

        await site.market.sql(insert_rows)
        orphan = site.folder / "or" / "ph" / "orphan"
        half = site.folder / "tmp" / "half"
        for path in (orphan, half, *(site.folder / k[:2] / k[2:4] / k for k in ("cut" * 8, "dead" * 8))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        await site.clean()
        assert await site.rows() == [("kept", "published"), ("cut", "uploading")]
        assert orphan.exists()  # too young to be treated as abandoned
        assert half.exists()
        for path in site.blobs():
            os.utime(path, (1, 1))
        site.market.clock.advance(DAY_SECONDS + 1)
        for _ in range(10):
            await site.clean()
        assert await site.rows() == [("kept", "published")]
        assert site.blobs() == [kept]


async def test_missing_bytes_are_reported_before_the_download_begins(site: Site) -> None:
    await upload(site)
    await site.daemon.finished(site.lease)
    (blob,) = site.blobs()
    blob.unlink()
    assert (await refusal(download(site, "model/weights.bin"))).reason == "ARTIFACT_NOT_FOUND"


async def test_download_of_a_truncated_file_ends_with_an_error(site: Site) -> None:
    await upload(site, content=bytes(1 << 20))
    await site.daemon.finished(site.lease)
    (blob,) = site.blobs()
    os.truncate(blob, 700_000)
    refused = await refusal(download(site, "model/weights.bin"))
    assert refused.reason == "ARTIFACT_NOT_FOUND"


async def test_stored_files_can_be_read_only_by_the_servers_user(site: Site) -> None:
    await upload(site)
    (blob,) = site.blobs()
    assert blob.stat().st_mode & 0o777 == 0o600
    assert {parent.stat().st_mode & 0o777 for parent in (blob.parent, site.folder)} == {0o700}
    assert "weights" not in str(blob.relative_to(site.folder))


async def test_files_are_stored_in_the_configured_bucket(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(9 << 20)
    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        async with running_site(sqlite_url, tmp_path, ArtifactLimits(), f"s3://{BUCKET}/jobs") as site:
            await upload(site, "small", CONTENT)
            await upload(site, "large", large)
            assert (await refusal(upload(site, "bad", large, sha256=b"x" * 32))).reason == "ARTIFACT_DAMAGED"
            assert (len(s3.keys()), s3.unfinished()) == (2, 0)
            await site.daemon.finished(site.lease)
            assert (await download(site, "large"))[1] == large
            assert (await download(site, "small", range="bytes=10-19"))[1] == CONTENT[10:20]
            await site.clean(31 * DAY_SECONDS)
            assert s3.keys() == []
