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

from server.domain.artifacts import ArtifactLimits
from server.store.models import Artifact as Row
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Daemon, Market, Party, refusal
from tests.support.s3_server import BUCKET, running_s3

DAY = 24 * 3600
PIECE = 64 * 1024
LIMITS = ArtifactLimits(file_bytes=1 << 20, job_bytes=3 << 19, count=3, days=30)
CONTENT = bytes(range(256)) * 1000


@dataclass
class Place:
    """A market with a job that runs, and the folder that its files go to."""

    market: Market
    folder: Path
    provider: Party
    renter: Party
    daemon: Daemon
    job: jobs_pb2.Job
    lease: sessions_pb2.Lease

    def blobs(self) -> list[Path]:
        """Everything that lies in the store, finished or not."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    async def rows(self) -> list[tuple[str, str]]:
        """Names and states of all artifacts on record."""
        return await self.market.sql(lambda: [(row.name, row.state) for row in Row.select().order_by(Row.id)])

    async def clean(self, seconds: float = 0) -> None:
        """Lets time pass and cleans, until there is nothing more to do."""
        self.market.clock.advance(seconds)
        for _ in range(3):
            await self.market.server.services.cleaning.tick()

    async def again(self) -> tuple[jobs_pb2.Job, sessions_pb2.Lease]:
        """Another job that runs."""
        return await self.market.running_job(self.renter, self.provider, self.daemon)


@asynccontextmanager
async def place(
    url: str, folder: Path, limits: ArtifactLimits = LIMITS, blob_store: str = ""
) -> AsyncIterator[Place]:
    store = folder / "artifacts"
    async with running_server.running(
        url, ManualClock(), blob_store=blob_store or f"file:{store}", artifact_limits=limits
    ) as market:
        provider, renter = await market.provider(), await market.renter(100_000)
        daemon = await market.daemon(provider)
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
        yield Place(market, store, provider, renter, daemon, job, lease)


@pytest.fixture
async def there(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(sqlite_url, tmp_path) as made:
        yield made


def header(lease: sessions_pb2.Lease, name: str, content: bytes, **changes: Any) -> pb.UploadArtifactRequest:
    values: dict[str, Any] = {
        "lease": lease,
        "name": name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).digest(),
    }
    return pb.UploadArtifactRequest(header=pb.ArtifactHeader(**(values | changes)))


def pieces(content: bytes) -> Iterable[pb.UploadArtifactRequest]:
    for start in range(0, len(content), PIECE):
        yield pb.UploadArtifactRequest(data=content[start : start + PIECE])


class Upload:
    """One upload as a test drives it."""

    def __init__(self, there: Place, who: Party | None = None) -> None:
        metadata = (who or there.provider).metadata
        self._call: Any = there.market.artifact_service.UploadArtifact(
            metadata=metadata, timeout=HANG_SECONDS
        )

    async def begin(self, request: pb.UploadArtifactRequest) -> int:
        """Sends the header; returns the first answer."""
        await self.say([request])
        return await self.hear()

    async def say(self, requests: Iterable[pb.UploadArtifactRequest]) -> None:
        """Sends messages; where the server has ended the stream, reading tells."""
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
        """Sends the rest; returns what became of the file."""
        await self.say(requests)
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
        return await self.hear()

    def cut(self) -> None:
        """The connection breaks."""
        self._call.cancel()


async def begun(there: Place, name: str, content: bytes = CONTENT) -> Upload:
    """An upload whose bytes the server waits for."""
    made = Upload(there)
    assert await made.begin(header(there.lease, name, content)) == pb.UPLOAD_DISPOSITION_SEND
    return made


async def send(there: Place, requests: Iterable[pb.UploadArtifactRequest], who: Party | None = None) -> int:
    """Sends a header and what follows it; returns what became of the file."""
    first, *rest = requests
    sending = Upload(there, who)
    answer = await sending.begin(first)
    return await sending.end(rest) if answer == pb.UPLOAD_DISPOSITION_SEND else answer


async def upload(
    there: Place,
    name: str = "model/weights.bin",
    content: bytes = CONTENT,
    lease: sessions_pb2.Lease | None = None,
    who: Party | None = None,
    **changes: Any,
) -> int:
    lease = lease or there.lease
    return await send(there, [header(lease, name, content, **changes), *pieces(content)], who)


async def listed(there: Place, who: Party, job: jobs_pb2.Job | None = None) -> pb.ListArtifactsResponse:
    request = pb.ListArtifactsRequest(job_id=(job or there.job).job_id)
    return await there.market.artifact_service.ListArtifacts(request, metadata=who.metadata)


async def download(
    there: Place, name: str, who: Party | None = None, **fields: str
) -> tuple[pb.FileHead, bytes]:
    request = pb.DownloadArtifactRequest(job_id=there.job.job_id, name=name, **fields)
    metadata = (who or there.renter).metadata
    call = there.market.artifact_service.DownloadArtifact(request, metadata=metadata, timeout=HANG_SECONDS)
    messages = [message async for message in call]
    assert [message.WhichOneof("kind") for message in messages[1:]] == ["data"] * (len(messages) - 1)
    return messages[0].head, b"".join(message.data for message in messages[1:])


async def test_files_of_a_run_come_back_when_it_has_ended(database_url: str, tmp_path: Path) -> None:
    async with place(database_url, tmp_path) as there:
        assert await upload(there) == pb.UPLOAD_DISPOSITION_STORED
        assert await upload(there, "empty.txt", b"") == pb.UPLOAD_DISPOSITION_STORED
        running = await listed(there, there.renter)
        assert (running.status, list(running.artifacts)) == (jobs_pb2.JOB_STATE_RUNNING, [])
        refused = await refusal(download(there, "model/weights.bin"))
        assert (refused.reason, "running" in refused.message) == ("ARTIFACT_NOT_FOUND", True)
        assert (await there.market.job(there.job)).artifact_count == 0
        await there.daemon.finished(there.lease)
        found = await listed(there, there.renter)
        assert [(one.name, one.size_bytes, one.content_type) for one in found.artifacts] == [
            ("empty.txt", 0, "text/plain"),
            ("model/weights.bin", len(CONTENT), "application/octet-stream"),
        ]
        assert found.artifacts[1].sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert found.expires_at.seconds - found.artifacts[0].created_at.seconds == 30 * DAY
        job = await there.market.job(there.job)
        assert (job.artifact_count, job.artifact_bytes) == (2, len(CONTENT))
        head, content = await download(there, "model/weights.bin")
        assert (content, head.size_bytes, head.partial) == (CONTENT, len(CONTENT), False)
        assert head.etag == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
        assert await download(there, "empty.txt") == (
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
async def test_name_that_is_no_plain_relative_path_is_refused(there: Place, name: str) -> None:
    refused = await refusal(upload(there, name))
    assert (refused.reason, refused.code) == ("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT)
    assert "name" in refused.facts.field
    assert (there.blobs(), await there.rows()) == ([], [])


async def test_names_in_any_script_are_kept_and_found_by_either_form(there: Place) -> None:
    for name, content in (("نموذج/أوزان.bin", b"1"), ("re\u0301sume\u0301 #1?.txt", b"2"), ("A.txt", b"3")):
        await upload(there, name, content)
    await there.daemon.finished(there.lease)
    names = [one.name for one in (await listed(there, there.renter)).artifacts]
    assert sorted(names) == sorted(["A.txt", "r\u00e9sum\u00e9 #1?.txt", "نموذج/أوزان.bin"])
    for name in ("re\u0301sume\u0301 #1?.txt", "r\u00e9sum\u00e9 #1?.txt"):
        assert (await download(there, name))[1] == b"2"
    assert (await refusal(download(there, "a.txt"))).reason == "ARTIFACT_NOT_FOUND"


async def test_same_file_again_is_already_there_before_its_bytes(there: Place) -> None:
    await upload(there)
    assert (
        await send(there, [header(there.lease, "model/weights.bin", CONTENT)])
        == pb.UPLOAD_DISPOSITION_ALREADY
    )
    assert await upload(there) == pb.UPLOAD_DISPOSITION_ALREADY
    assert len(there.blobs()) == 1
    refused = await refusal(upload(there, content=b"other"))
    assert (refused.reason, refused.code) == ("ARTIFACT_NAME_TAKEN", grpc.StatusCode.ALREADY_EXISTS)
    await upload(there, "caf\u00e9", b"1")
    assert (await refusal(upload(there, "cafe\u0301", b"2"))).reason == "ARTIFACT_NAME_TAKEN"


@pytest.mark.parametrize(
    "changes",
    [{"sha256": b"x" * 32}, {"size_bytes": len(CONTENT) + 1}, {"size_bytes": len(CONTENT) - 1}],
    ids=["other digest", "too short", "too long"],
)
async def test_file_that_is_not_the_announced_one_leaves_nothing(
    there: Place, changes: dict[str, Any]
) -> None:
    refused = await refusal(upload(there, **changes))
    assert refused.reason == "ARTIFACT_DAMAGED"
    await there.market.server.services.artifacts.stop()
    assert (there.blobs(), await there.rows()) == ([], [])


async def test_empty_file_has_its_digest_checked_too(there: Place) -> None:
    assert (await refusal(upload(there, "empty", b"", sha256=b"x" * 32))).reason == "ARTIFACT_DAMAGED"


async def test_upload_that_breaks_the_protocol_is_refused(there: Place) -> None:
    first = header(there.lease, "a", CONTENT)
    for requests in ([*pieces(CONTENT)], [first, first], [first, pb.UploadArtifactRequest()]):
        assert (await refusal(send(there, requests))).reason == "PROTOCOL_VIOLATION"
    assert (await refusal(Upload(there).end())).reason == "PROTOCOL_VIOLATION"
    for wrong in (
        header(there.lease, "a", CONTENT, sha256=b"short"),
        header(there.lease, "a", CONTENT, sha256=b""),
        header(there.lease, "a", CONTENT, size_bytes=-1),
    ):
        assert (await refusal(send(there, [wrong]))).reason == "INVALID_FIELD"
    large = pb.UploadArtifactRequest(data=bytes(PIECE + 1))
    assert (await refusal(send(there, [first, large]))).reason == "INVALID_FIELD"
    assert await there.rows() == []


async def test_more_than_a_file_or_a_job_may_have_is_refused(there: Place) -> None:
    def refused_for(name: str, size_bytes: int) -> Any:
        return refusal(send(there, [header(there.lease, name, b"", size_bytes=size_bytes)]))

    one = await refused_for("a", LIMITS.file_bytes + 1)
    assert (one.reason, one.code) == ("ARTIFACT_TOO_LARGE", grpc.StatusCode.FAILED_PRECONDITION)
    await upload(there, "a", bytes(LIMITS.file_bytes))
    assert (await refused_for("b", LIMITS.file_bytes)).reason == "ARTIFACT_TOO_LARGE"
    await upload(there, "b", b"1")
    await upload(there, "c", b"1")
    assert (await refused_for("d", 1)).reason == "ARTIFACT_TOO_LARGE"
    assert await upload(there, "c", b"1") == pb.UPLOAD_DISPOSITION_ALREADY


async def test_files_that_arrive_at_once_share_the_limit(there: Place) -> None:
    """What is under way counts, so that no number of uploads side by side gets past it."""
    content = bytes(LIMITS.file_bytes)
    first = await begun(there, "a", content)
    assert (await refusal(upload(there, "b", content))).reason == "ARTIFACT_TOO_LARGE"
    assert await first.end(pieces(content)) == pb.UPLOAD_DISPOSITION_STORED


async def test_lease_that_is_not_the_present_one_proves_nothing(there: Place) -> None:
    other = await there.market.provider()
    forged = sessions_pb2.Lease(job_id=there.lease.job_id, lease_epoch=1, lease_secret=b"guessed" * 2)
    later = sessions_pb2.Lease(
        job_id=there.lease.job_id, lease_epoch=2, lease_secret=there.lease.lease_secret
    )
    unknown = sessions_pb2.Lease(job_id="job-x", lease_epoch=1, lease_secret=there.lease.lease_secret)
    for call in (
        upload(there, lease=forged),
        upload(there, lease=later),
        upload(there, lease=unknown),
        upload(there, who=other),
    ):
        refused = await refusal(call)
        assert (refused.reason, refused.code) == ("STALE_LEASE", grpc.StatusCode.ABORTED)
    await there.daemon.finished(there.lease)
    assert (await refusal(upload(there))).reason == "STALE_LEASE"
    assert await there.rows() == []


async def test_lease_that_ends_while_its_file_arrives_keeps_nothing(there: Place) -> None:
    sending = await begun(there, "a")
    await there.daemon.finished(there.lease)
    assert (await refusal(sending.end(pieces(CONTENT)))).reason == "STALE_LEASE"
    assert (there.blobs(), await there.rows()) == ([], [])
    assert list((await listed(there, there.renter)).artifacts) == []


async def test_two_uploads_of_one_name_at_once_store_it_once(there: Place) -> None:
    sending = [await begun(there, "a") for _ in range(3)]
    told = await asyncio.gather(*(one.end(pieces(CONTENT)) for one in sending))
    assert sorted(told) == [pb.UPLOAD_DISPOSITION_STORED, *[pb.UPLOAD_DISPOSITION_ALREADY] * 2]
    assert (len(there.blobs()), await there.rows()) == (1, [("a", "ready")])


async def test_two_files_of_one_name_at_once_keep_the_one_that_came_first(there: Place) -> None:
    sending = [await begun(there, "a", content) for content in (b"one", b"other")]
    assert await sending[1].end(pieces(b"other")) == pb.UPLOAD_DISPOSITION_STORED
    assert (await refusal(sending[0].end(pieces(b"one")))).reason == "ARTIFACT_NAME_TAKEN"
    assert (len(there.blobs()), await there.rows()) == (1, [("a", "ready")])


async def test_upload_that_is_cut_leaves_nothing(there: Place) -> None:
    content = bytes(LIMITS.file_bytes)
    sending = await begun(there, "a", content)
    await sending.say([*pieces(content)][:-1])
    async with asyncio.timeout(HANG_SECONDS):
        while not there.blobs():
            await asyncio.sleep(0.01)
        sending.cut()
        while there.blobs() or await there.rows():
            await asyncio.sleep(0.01)
    assert await upload(there, "a") == pb.UPLOAD_DISPOSITION_STORED


async def test_upload_that_says_nothing_more_is_ended(there: Place) -> None:
    there.market.server.services.artifacts._idle_seconds = 0.05
    sending = await begun(there, "a")
    assert (await refusal(sending.hear())).reason == "TIMEOUT"
    assert await there.rows() == []


async def test_ninth_upload_of_a_provider_waits(there: Place) -> None:
    sending = [await begun(there, "a") for _ in range(8)]
    assert (await refusal(upload(there, "b"))).reason == "OVERLOADED"
    for one in sending:
        assert (await refusal(one.end())).reason == "ARTIFACT_DAMAGED"
    assert await upload(there, "b") == pb.UPLOAD_DISPOSITION_STORED


async def test_downloads_of_one_account_are_bounded_and_given_back(sqlite_url: str, tmp_path: Path) -> None:
    large = bytes(16 << 20)
    async with place(sqlite_url, tmp_path, ArtifactLimits()) as there:
        await upload(there, "a", large)
        await there.daemon.finished(there.lease)
        request = pb.DownloadArtifactRequest(job_id=there.job.job_id, name="a")
        # Nobody takes more than the head: the window of each stream keeps the rest with the server.
        calls: list[Any] = [
            there.market.artifact_service.DownloadArtifact(request, metadata=there.renter.metadata)
            for _ in range(32)
        ]
        for call in calls:
            assert (await call.read()).HasField("head")
        refused = await refusal(download(there, "a"))
        assert (refused.reason, refused.facts.retry_after_seconds) == ("OVERLOADED", 5)
        assert (await download(there, "a", there.provider, range="bytes=0-9"))[1] == bytes(10)
        for call in calls:
            call.cancel()
        async with asyncio.timeout(HANG_SECONDS):
            while True:
                with contextlib.suppress(grpc.RpcError):
                    assert (await download(there, "a"))[1] == large
                    break
                await asyncio.sleep(0.05)


async def test_store_that_cannot_be_written_is_told_as_such(there: Place) -> None:
    there.folder.write_bytes(b"no folder")
    refused = await refusal(upload(there))
    assert (refused.reason, refused.code) == ("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert str(there.folder) not in refused.message
    there.folder.unlink()
    assert await upload(there) == pb.UPLOAD_DISPOSITION_STORED


async def test_only_what_the_last_attempt_left_counts(database_url: str, tmp_path: Path) -> None:
    async with place(database_url, tmp_path) as there:
        await upload(there, "a", b"of the first attempt")
        await upload(there, "lost", b"of the first attempt alone")
        await there.daemon.finished(there.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED)
        again = (await there.daemon.expect("job_offer")).lease
        assert again.job_id == there.job.job_id
        assert (await refusal(upload(there, "late", b"x"))).reason == "STALE_LEASE"
        await there.daemon.start(again)
        await there.daemon.heard_nothing()
        await upload(there, "a", b"of the second", again)
        await there.clean()
        assert await there.rows() == [("a", "ready")]
        await there.daemon.finished(again)
        found = await listed(there, there.renter)
        assert [(one.name, one.size_bytes) for one in found.artifacts] == [("a", 13)]
        assert (await there.market.job(there.job)).artifact_count == 1
        assert len(there.blobs()) == 1


async def test_job_that_ends_while_it_waits_again_has_no_files(there: Place) -> None:
    await upload(there)
    await there.market.set_provider(there.provider, draining=True)
    await there.daemon.finished(there.lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED)
    job = await there.market.cancel(there.job, there.renter)
    assert (job.status, job.artifact_count) == (jobs_pb2.JOB_STATE_CANCELLED, 0)
    assert list((await listed(there, there.renter)).artifacts) == []
    await there.clean()
    assert (there.blobs(), await there.rows()) == ([], [])


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
async def test_files_are_there_however_the_attempt_ended(there: Place, end: dict[str, Any]) -> None:
    await upload(there)
    if end["outcome"] == sessions_pb2.RUN_OUTCOME_CANCELLED:
        await there.market.cancel(there.job, there.renter)
        await there.daemon.expect("cancel_run")
        assert await upload(there, "checkpoint", b"1") == pb.UPLOAD_DISPOSITION_STORED
    there.market.clock.advance(end.get("seconds", 1))
    await there.daemon.finished(there.lease, **end)
    assert (await download(there, "model/weights.bin"))[1] == CONTENT


async def test_run_over_its_limit_is_waited_for_while_its_files_arrive(there: Place) -> None:
    sending = await begun(there, "a")
    for _ in range(10):
        await there.daemon.heartbeat()
        await there.market.later(25)
    assert (await there.market.job(there.job)).status == jobs_pb2.JOB_STATE_RUNNING
    await sending.end(pieces(CONTENT))
    await there.daemon.heartbeat()
    await there.market.later(20)
    await there.daemon.finished(there.lease, seconds=100)
    job = await there.market.job(there.job)
    assert (job.status, job.billing.billed_seconds) == (jobs_pb2.JOB_STATE_COMPLETED, 100)
    await there.market.assert_money_adds_up()


async def test_run_over_its_limit_is_not_waited_for_for_ever(there: Place) -> None:
    sending = await begun(there, "a")
    for _ in range(180):
        await there.daemon.heartbeat()
        await there.market.later(25)
        if (await there.market.job(there.job)).status == jobs_pb2.JOB_STATE_FAILED:
            break
    job = await there.market.job(there.job)
    assert (job.status, job.billing.billed_seconds) == (jobs_pb2.JOB_STATE_FAILED, 180)
    sending.cut()


async def test_those_who_may_see_the_output_may_have_the_files(there: Place) -> None:
    await upload(there)
    await there.daemon.finished(there.lease)
    stranger, rival = await there.market.renter(), await there.market.provider()
    for who in (there.renter, there.provider, Party(0, running_server.ADMIN_TOKEN)):
        assert len((await listed(there, who)).artifacts) == 1
        assert (await download(there, "model/weights.bin", who))[1] == CONTENT
    for who in (stranger, rival):
        assert (await refusal(listed(there, who))).reason == "NOT_OWNER"
        assert (await refusal(download(there, "model/weights.bin", who))).reason == "NOT_OWNER"


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 10)),
        ("bytes=255990-", (255_990, 10)),
        ("bytes=-10", (255_990, 10)),
        ("bytes=-999999", (0, 256_000)),
        ("bytes=255999-999999", (255_999, 1)),
    ],
)
async def test_part_of_a_file(there: Place, asked: str, want: tuple[int, int]) -> None:
    await upload(there)
    await there.daemon.finished(there.lease)
    head, content = await download(there, "model/weights.bin", range=asked)
    assert (head.first_byte, head.byte_count, head.partial) == (*want, True)
    assert content == CONTENT[want[0] : sum(want)]
    head, content = await download(there, "model/weights.bin", range=asked, if_range=head.etag)
    assert head.partial
    head, content = await download(there, "model/weights.bin", range=asked, if_range='"another"')
    assert (head.partial, content) == (False, CONTENT)


async def test_range_behind_the_end_is_refused_and_a_strange_one_ignored(there: Place) -> None:
    await upload(there)
    await there.daemon.finished(there.lease)
    for asked in ("bytes=256000-", "bytes=-0"):
        refused = await refusal(download(there, "model/weights.bin", range=asked))
        assert (refused.reason, refused.facts.size_bytes) == ("RANGE_NOT_SATISFIABLE", 256_000)
    for asked in ("bytes=", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=5-1", "bytes=x-", "-"):
        head, content = await download(there, "model/weights.bin", range=asked)
        assert (head.partial, content) == (False, CONTENT)


async def test_files_are_deleted_when_their_time_is_over(database_url: str, tmp_path: Path) -> None:
    async with place(database_url, tmp_path) as there:
        await upload(there)
        await there.daemon.finished(there.lease)
        await there.clean(30 * DAY - 60)
        assert len((await listed(there, there.renter)).artifacts) == 1
        await there.clean(120)
        answer = await listed(there, there.renter)
        assert (list(answer.artifacts), answer.HasField("expires_at")) == ([], False)
        assert (await refusal(download(there, "model/weights.bin"))).reason == "ARTIFACT_NOT_FOUND"
        assert (await there.market.job(there.job)).artifact_count == 0
        assert (there.blobs(), await there.rows()) == ([], [])


async def test_file_that_cannot_be_deleted_holds_up_no_other(tmp_path: Path, sqlite_url: str) -> None:
    async with place(sqlite_url, tmp_path) as there:
        await upload(there, "stuck", b"1")
        (stuck,) = there.blobs()
        await upload(there, "free", b"2")
        await there.daemon.finished(there.lease)
        stuck.unlink()
        stuck.mkdir()  # cannot be deleted as a file
        await there.clean(30 * DAY + 60)
        assert (there.blobs(), await there.rows()) == ([], [("stuck", "doomed")])
        stuck.rmdir()
        await there.clean()
        assert await there.rows() == []


async def test_what_a_killed_server_left_is_found(database_url: str, tmp_path: Path) -> None:
    """Rows without bytes, bytes without a row, half a file: as they stand after a crash at each point."""
    async with place(database_url, tmp_path) as there:
        await upload(there, "kept", b"kept")
        (kept,) = there.blobs()
        await there.daemon.finished(there.lease)

        def leave() -> None:
            values = {"job_id": there.job.job_id, "lease_epoch": 1, "size_bytes": 1, "sha256": b"x" * 32}
            for name, state in (("cut", "uploading"), ("dead", "doomed")):
                Row.insert(
                    **values,
                    name=name,
                    state=state,
                    blob_key=name * 8,
                    created_ms=int(there.market.clock.now() * 1000),
                ).execute()

        await there.market.sql(leave)
        orphan = there.folder / "or" / "ph" / "orphan"
        half = there.folder / "tmp" / "half"
        for path in (orphan, half, *(there.folder / k[:2] / k[2:4] / k for k in ("cut" * 8, "dead" * 8))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        await there.clean()
        assert await there.rows() == [("kept", "published"), ("cut", "uploading")]
        assert orphan.exists()  # too young to be taken for lost
        assert half.exists()
        for path in there.blobs():
            os.utime(path, (1, 1))
        there.market.clock.advance(DAY + 1)
        for _ in range(10):
            await there.clean()
        assert await there.rows() == [("kept", "published")]
        assert there.blobs() == [kept]


async def test_bytes_that_are_gone_are_told_before_the_first_one(there: Place) -> None:
    await upload(there)
    await there.daemon.finished(there.lease)
    (blob,) = there.blobs()
    blob.unlink()
    assert (await refusal(download(there, "model/weights.bin"))).reason == "ARTIFACT_NOT_FOUND"


async def test_file_that_ends_early_does_not_end_well(there: Place) -> None:
    await upload(there, content=bytes(1 << 20))
    await there.daemon.finished(there.lease)
    (blob,) = there.blobs()
    os.truncate(blob, 700_000)
    refused = await refusal(download(there, "model/weights.bin"))
    assert refused.reason == "ARTIFACT_NOT_FOUND"


async def test_stored_files_can_be_read_by_the_server_alone(there: Place) -> None:
    await upload(there)
    (blob,) = there.blobs()
    assert blob.stat().st_mode & 0o777 == 0o600
    assert {parent.stat().st_mode & 0o777 for parent in (blob.parent, there.folder)} == {0o700}
    assert "weights" not in str(blob.relative_to(there.folder))


async def test_files_lie_in_a_bucket_where_one_is_configured(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(9 << 20)
    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        async with place(sqlite_url, tmp_path, ArtifactLimits(), f"s3://{BUCKET}/jobs") as there:
            await upload(there, "small", CONTENT)
            await upload(there, "large", large)
            assert (await refusal(upload(there, "bad", large, sha256=b"x" * 32))).reason == "ARTIFACT_DAMAGED"
            assert (len(s3.keys()), s3.unfinished()) == (2, 0)
            await there.daemon.finished(there.lease)
            assert (await download(there, "large"))[1] == large
            assert (await download(there, "small", range="bytes=10-19"))[1] == CONTENT[10:20]
            await there.clean(31 * DAY)
            assert s3.keys() == []
