"""Files through the gateway: headers, byte ranges, errors before and after the first byte, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import httpx
import psutil
import pytest
import uvicorn
from dcp.v1 import artifacts_pb2 as pb

from gateway.app import build_app
from gateway.files import attachment
from tests.support.gateway_server import FakeServer, Refusal

PATH = "/api/jobs/job-1/artifacts/model/weights.bin"
HANG_SECONDS = 20
MIB = 1 << 20


def head(size_bytes: int, **changes: Any) -> pb.DownloadArtifactResponse:
    values: dict[str, Any] = {
        "name": "model/weights.bin",
        "content_type": "application/octet-stream",
        "size_bytes": size_bytes,
        "byte_count": size_bytes,
        "etag": '"abc"',
    }
    return pb.DownloadArtifactResponse(head=pb.FileHead(**(values | changes)))


def data(content: bytes) -> pb.DownloadArtifactResponse:
    return pb.DownloadArtifactResponse(data=content)


@contextlib.asynccontextmanager
async def over_tcp(server: FakeServer) -> AsyncIterator[tuple[str, int]]:
    """Runs the gateway on a real socket of 127.0.0.1: only there a test sees how a response ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with server.open_channel() as channel:
        settings = uvicorn.Config(build_app(channel), http="h11", lifespan="off", log_config=None)
        serving = uvicorn.Server(settings)
        task = asyncio.create_task(serving.serve(sockets=[listener]))
        try:
            yield "127.0.0.1", listener.getsockname()[1]
        finally:
            serving.should_exit = True
            await task


async def test_file_has_all_headers_that_a_browser_needs(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.answers["DownloadArtifact"] = lambda _: [head(6), data(b"abc"), data(b"def")]
    answer = await gateway.get(PATH, headers={"x-renter-key": "k"})
    assert (answer.status_code, answer.content) == (200, b"abcdef")
    for name, value in {
        "content-type": "application/octet-stream",
        "content-length": "6",
        "content-disposition": 'attachment; filename="weights.bin"',
        "etag": '"abc"',
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-cache",
        "content-security-policy": "sandbox; default-src 'none'",
    }.items():
        assert answer.headers[name] == value
    (call,) = server.calls
    assert (call.request.job_id, call.request.name) == ("job-1", "model/weights.bin")
    assert call.metadata["authorization"] == "Bearer k"


async def test_byte_range_of_a_file_is_206(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    server.answers["DownloadArtifact"] = lambda _: [
        head(10, first_byte=4, byte_count=3, partial=True),
        data(b"efg"),
    ]
    answer = await gateway.get(PATH, headers={"range": "bytes=4-6", "if-range": '"abc"'})
    assert (answer.status_code, answer.content) == (206, b"efg")
    assert answer.headers["content-range"] == "bytes 4-6/10"
    assert answer.headers["content-length"] == "3"
    (call,) = server.calls
    assert (call.request.range, call.request.if_range) == ("bytes=4-6", '"abc"')


async def test_name_is_the_rest_of_the_path_unchanged(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    server.answers["DownloadArtifact"] = lambda _: [head(0)]
    for path, name in (
        ("a%20b/%D9%86%D9%85%D9%88%D8%B0%D8%AC.txt", "a b/نموذج.txt"),
        ("what%3F%23%25.txt", "what?#%.txt"),
        ("deep%2Fname", "deep/name"),
    ):
        for base in ("/api", "/api/dc1"):
            assert (await gateway.get(f"{base}/jobs/job-1/artifacts/{path}")).status_code == 200
            assert server.calls[-1].request.name == name


async def test_empty_file_and_head_of_a_file(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    server.answers["DownloadArtifact"] = lambda _: [head(0)]
    answer = await gateway.get(PATH)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    server.answers["DownloadArtifact"] = lambda _: [head(5), data(b"never")]
    answer = await gateway.head(PATH)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5")


async def test_error_before_the_first_byte_is_an_error_like_any_other(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.refuse(
        "DownloadArtifact", Refusal(grpc.StatusCode.NOT_FOUND, "no such file", "ARTIFACT_NOT_FOUND")
    )
    answer = await gateway.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "ARTIFACT_NOT_FOUND")
    server.refuse(
        "DownloadArtifact",
        Refusal(grpc.StatusCode.OUT_OF_RANGE, "too far", "RANGE_NOT_SATISFIABLE", size_bytes=7),
    )
    answer = await gateway.get(PATH, headers={"range": "bytes=9-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */7")
    assert answer.json()["size_bytes"] == 7
    server.answers["DownloadArtifact"] = lambda _: []
    assert (await gateway.get(PATH)).status_code == 500
    assert (await gateway.post(PATH)).status_code == 405


@pytest.mark.parametrize(
    "rest",
    [
        [data(b"abc")],
        [data(b"abc"), Refusal(grpc.StatusCode.UNAVAILABLE, "gone", "STORE_UNAVAILABLE")],
        [data(b"abc"), data(b"defgh")],
        [data(b"abc"), head(6)],
    ],
    ids=["too short", "refused", "too long", "another head"],
)
async def test_error_after_the_first_byte_breaks_the_connection(server: FakeServer, rest: list[Any]) -> None:
    async def answer(_: Any) -> AsyncIterator[Any]:
        yield head(6)
        for item in rest:
            if isinstance(item, Refusal):
                raise item
            yield item

    server.answers["DownloadArtifact"] = answer
    async with over_tcp(server) as (host, port), httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://{host}:{port}{PATH}", timeout=HANG_SECONDS)


async def test_slow_reader_slows_the_server_down_and_costs_no_memory(server: FakeServer) -> None:
    """While the client does not read, the server can send only a few MiB of 200. Then all of it arrives."""
    size, piece = 200 * MIB, bytes(256 * 1024)
    sent = 0

    async def answer(_: Any) -> AsyncIterator[Any]:
        nonlocal sent
        yield head(size)
        for _ in range(size // len(piece)):
            sent += len(piece)
            yield data(piece)

    server.answers["DownloadArtifact"] = answer
    process = psutil.Process()
    async with over_tcp(server) as address:
        reader, writer = await asyncio.open_connection(*address, limit=256 * 1024)
        writer.write(f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        before = -1
        async with asyncio.timeout(HANG_SECONDS):
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.3)
        assert sent < 60 * MIB
        resident = most = process.memory_info().rss
        digest, got = hashlib.sha256(), 0
        async with asyncio.timeout(6 * HANG_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            while got < size:
                part = await reader.read(MIB)
                assert part
                digest.update(part)
                got += len(part)
                most = max(most, process.memory_info().rss)
        writer.close()
    assert (sent, digest.digest()) == (size, hashlib.sha256(bytes(size)).digest())
    assert most - resident < 60 * MIB


async def test_reader_that_disconnects_ends_the_call(server: FakeServer) -> None:
    ended = asyncio.Event()

    async def answer(_: Any) -> AsyncIterator[Any]:
        yield head(1 << 40)
        try:
            while True:
                yield data(bytes(64 * 1024))
        finally:
            ended.set()

    server.answers["DownloadArtifact"] = answer
    async with over_tcp(server) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        async with asyncio.timeout(HANG_SECONDS):
            await ended.wait()


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("a/b.txt", 'attachment; filename="b.txt"'),
        (
            "نموذج.txt",
            "attachment; filename=\"_____.txt\"; filename*=UTF-8''%D9%86%D9%85%D9%88%D8%B0%D8%AC.txt",
        ),
        ('a"b\\.txt', "attachment; filename=\"a_b_.txt\"; filename*=UTF-8''a%22b%5C.txt"),
        ("a;b=c%.txt", "attachment; filename=\"a_b=c_.txt\"; filename*=UTF-8''a%3Bb%3Dc%25.txt"),
    ],
)
def test_name_in_the_header_is_safe_and_complete(name: str, want: str) -> None:
    assert attachment(name) == want


def _only(message: pb.DownloadArtifactResponse, _: Any) -> list[pb.DownloadArtifactResponse]:
    return [message]


async def test_malformed_media_type_does_not_reach_the_header(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    for media_type in ("text/html\r\nx: y", "nonsense", "", "text/plain; charset=x"):
        server.answers["DownloadArtifact"] = partial(_only, head(0, content_type=media_type))
        assert (await gateway.get(PATH)).headers["content-type"] == "application/octet-stream"
