"""The uploader: order, retries and ends of uploads; and paths that are not plain files."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.work.artifacts import (
    Artifact,
    ArtifactsError,
    LeaseGoneError,
    UploadBrokenError,
    UploadDamagedError,
    Uploader,
    UploadRefusedError,
    open_plain,
)
from tests.daemon.fake_server import lease


class Server:
    """A sink that raises the scripted errors for each name before it accepts the file."""

    def __init__(self, **script: list[Exception]) -> None:
        self.script = script
        self.taken: list[str] = []
        self.tries: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.slept: list[float] = []

    async def send(self, held: sessions_pb2.Lease, artifact: Artifact) -> None:
        assert held == lease()
        self.tries[artifact.name] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if errors := self.script.get(artifact.name):
                raise errors.pop(0)
            self.taken.append(artifact.name)
        finally:
            self.at_once -= 1

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)
        await asyncio.sleep(0)

    def uploader(self) -> Uploader:
        return Uploader(self.send, Random(7), self.sleep)


def files(*names: str) -> list[Artifact]:
    return [Artifact(name, Path("/nowhere") / name, 1, b"x" * 32) for name in names]


async def test_files_are_uploaded_two_at_a_time() -> None:
    server = Server()
    await server.uploader().upload(lease(), files(*"abcdefgh"))
    assert sorted(server.taken) == list("abcdefgh")
    assert server.most_at_once == 2
    await server.uploader().upload(lease(), [])


async def test_interrupted_upload_is_repeated_with_full_jitter() -> None:
    server = Server(a=[UploadBrokenError("x")] * 9)
    await server.uploader().upload(lease(), files("a", "b"))
    assert (sorted(server.taken), server.tries["a"]) == (["a", "b"], 10)
    ceilings = [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert all(0 <= delay <= ceiling for delay, ceiling in zip(server.slept, ceilings, strict=True))
    assert len(set(server.slept)) == 9


async def test_refused_file_does_not_stop_the_others() -> None:
    server = Server(a=[UploadRefusedError("too big", too_large=True)], c=[UploadRefusedError("bad name")])
    with pytest.raises(ArtifactsError) as caught:
        await server.uploader().upload(lease(), files("a", "b", "c"))
    assert server.taken == ["b"]
    assert caught.value.reason == jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE
    assert caught.value.message == "/output: 2 files could not be kept; a: too big"


async def test_file_that_changes_during_its_upload_is_given_up() -> None:
    server = Server(a=[UploadDamagedError("x")] * 9)
    with pytest.raises(ArtifactsError, match="a file could not be kept; a: it changed") as caught:
        await server.uploader().upload(lease(), files("a"))
    assert (server.tries["a"], caught.value.reason) == (3, jobs_pb2.FAILURE_REASON_ENGINE_FAILED)


async def test_ended_lease_ends_all_uploads() -> None:
    server = Server(a=[LeaseGoneError("stale")], b=[UploadBrokenError("x")] * 1000)
    with pytest.raises(LeaseGoneError):
        await server.uploader().upload(lease(), files("a", "b"))
    tries = server.tries["b"]
    for _ in range(10):
        await asyncio.sleep(0)
    assert server.tries["b"] == tries


async def test_cancelled_upload_sends_nothing_more() -> None:
    server = Server(a=[UploadBrokenError("x")] * 1000)
    uploading = asyncio.create_task(server.uploader().upload(lease(), files("a")))
    while server.tries["a"] < 3:
        await asyncio.sleep(0)
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    tries = server.tries["a"]
    for _ in range(10):
        await asyncio.sleep(0)
    assert server.tries["a"] == tries


def test_plain_file_is_opened_and_anything_else_is_refused(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    plain = tmp_path / "plain"
    plain.write_bytes(content)
    with open_plain(plain) as file:
        assert file.read() == content
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("/etc/passwd")
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError):
            open_plain(path)
