"""The blob store as a folder and as a bucket of a real S3-compatible server: both pass the same tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.blobs import BlobMissingError, Blobs, BlobStoreError
from server.blobs.files import FileBlobs
from server.blobs.s3 import S3Blobs
from server.wiring import open_blobs
from tests.support.s3_server import BUCKET, SETTINGS, S3Server, running_s3

KEY = "0123456789abcdef0123456789abcdef"
MIB = 1 << 20


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


def bucket(url: str, **more: object) -> S3Blobs:
    return S3Blobs(BUCKET, "of/tests", endpoint=url, client_options={"allow_http": True}, **SETTINGS, **more)


@pytest.fixture(params=["folder", "bucket"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    opened: Blobs
    if request.param == "folder":
        opened = FileBlobs(tmp_path / "blobs")
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        server.empty()
        opened = bucket(server.url)
    yield opened
    await opened.close()


async def pieces(content: bytes, fails: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(content), MIB):
        yield content[start : start + MIB]
    if fails:
        raise LookupError("the source broke off")


async def read(blobs: Blobs, key: str, first: int, count: int) -> bytes:
    return b"".join([piece async for piece in blobs.read(key, first, count)])


async def keys(blobs: Blobs) -> list[str]:
    return sorted([blob.key async for page in blobs.list() for blob in page])


@pytest.mark.parametrize("size", [0, 1, 3 * MIB, 20 * MIB + 7])
async def test_stored_blob_is_read_back_whole_and_in_parts(blobs: Blobs, size: int) -> None:
    content = os.urandom(size)
    await blobs.put(KEY, pieces(content), size)
    assert await read(blobs, KEY, 0, size) == content
    for first, count in ((0, 1), (size // 2, size // 3), (max(0, size - 5), min(5, size))):
        if first + count <= size:
            assert await read(blobs, KEY, first, count) == content[first : first + count]
    assert await keys(blobs) == [KEY]


async def test_large_blob_is_read_in_small_pieces(blobs: Blobs) -> None:
    await blobs.put(KEY, pieces(bytes(20 * MIB)), 20 * MIB)
    assert max([len(piece) async for piece in blobs.read(KEY, 0, 20 * MIB)]) <= MIB


@pytest.mark.parametrize("size", [MIB, 20 * MIB])
async def test_source_that_fails_stores_nothing(
    blobs: Blobs, size: int, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(LookupError, match="the source broke off"):
        await blobs.put(KEY, pieces(bytes(size), fails=True), size)
    assert await keys(blobs) == []
    with pytest.raises(BlobMissingError):
        await read(blobs, KEY, 0, 1)
    if isinstance(blobs, S3Blobs):
        assert request.getfixturevalue("s3_server").unfinished() == 0


async def test_deleted_blob_is_gone_and_can_be_deleted_again(blobs: Blobs) -> None:
    await blobs.put(KEY, pieces(b"x"), 1)
    await blobs.put(KEY[::-1], pieces(b"y"), 1)
    await blobs.delete(KEY)
    await blobs.delete(KEY)
    assert await keys(blobs) == [KEY[::-1]]
    with pytest.raises(BlobMissingError):
        await read(blobs, KEY, 0, 1)


async def test_reading_beyond_the_end_of_a_blob_is_an_error(blobs: Blobs) -> None:
    await blobs.put(KEY, pieces(bytes(10)), 10)
    with pytest.raises(BlobMissingError):
        await read(blobs, KEY, 5, 6)


async def test_list_shows_the_age_of_a_blob(blobs: Blobs) -> None:
    assert await keys(blobs) == []
    await blobs.put(KEY, pieces(b"x"), 1)
    ((blob,),) = [page async for page in blobs.list()]
    assert -5 < blob.age_seconds < 60


async def test_cleaning_deletes_old_unfinished_files(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    await blobs.clean(60)
    await blobs.put(KEY, pieces(b"x"), 1)
    old, young = tmp_path / "tmp" / "old", tmp_path / "tmp" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    await blobs.clean(60)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["young"]
    assert await keys(blobs) == [KEY]
    await blobs.close()


async def test_full_disk_is_an_error_and_stores_nothing(tmp_path: Path) -> None:
    """The kernel refuses the write: the file may not exceed this process's size limit."""
    import resource
    import signal

    blobs = FileBlobs(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
        with pytest.raises(BlobStoreError, match="File too large"):
            await blobs.put(KEY, pieces(bytes(3 * MIB)), 3 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    await blobs.close()
    assert [path for _, _, names in os.walk(tmp_path) for path in names] == []


async def test_unreachable_bucket_is_an_error() -> None:
    blobs = bucket("http://127.0.0.1:1", retry_config={"max_retries": 0})
    for work in (
        blobs.put(KEY, pieces(b"x"), 1),
        blobs.put(KEY, pieces(bytes(20 * MIB)), 20 * MIB),
        read(blobs, KEY, 0, 1),
        blobs.delete(KEY),
        keys(blobs),
    ):
        with pytest.raises(BlobStoreError):
            await work


async def test_store_is_opened_by_its_url(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (f"file:{tmp_path}/a", f"file://{tmp_path}/b"):
        await open_blobs(url).put(KEY, pieces(b"x"), 1)
        assert (tmp_path / url[-1] / "01" / "23" / KEY).read_bytes() == b"x"
    s3_server.empty()
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    for url in (f"s3://{BUCKET}", f"s3://{BUCKET}/some/prefix/"):
        await open_blobs(url).put(KEY, pieces(b"x"), 1)
    assert sorted(s3_server.keys()) == [KEY, f"some/prefix/{KEY}"]


async def test_bytes_have_reached_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the file, then, with its new name, each folder that leads to it."""
    asked: list[tuple[int, bool]] = []
    folder = tmp_path / "blobs"

    def is_named() -> bool:
        return any(path.name == KEY for path in folder.rglob("*"))

    monkeypatch.setattr(
        os, "fsync", lambda descriptor: asked.append((os.fstat(descriptor).st_ino, is_named()))
    )
    blobs = FileBlobs(folder)
    await blobs.put(KEY, pieces(b"x"), 1)
    await blobs.close()
    (file,) = [path for path in folder.rglob("*") if path.name == KEY]
    assert asked[0] == (file.stat().st_ino, False)
    assert {(parent.stat().st_ino, True) for parent in list(file.parents)[:3]} <= set(asked[1:])
