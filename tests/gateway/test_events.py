"""Streams of events through the gateway: their form, errors and ends, and what a slow reader costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import orjson
import pytest
from dcp.v1 import jobs_pb2 as pb

from gateway import limits
from tests.support import http_gateway
from tests.support.gateway_server import FakeServer, Refusal
from tests.support.http_gateway import HANG_SECONDS, Gateway

PATH = "/api/jobs/job-1/events"
GET = f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
STATE = pb.WatchJobResponse(id="1.1", state=pb.JobStateEvent(status=pb.JOB_STATE_QUEUED))
END = pb.WatchJobResponse(id="1.9", end=pb.JobEndEvent(job=pb.Job(job_id="job-1")))
GONE = Refusal(grpc.StatusCode.UNAVAILABLE, "come again", "UNAVAILABLE", retry_after_seconds=1)


def output(text: str) -> pb.WatchJobResponse:
    return pb.WatchJobResponse(id="1.4", output=pb.JobTextEvent(text=text))


def parsed(body: str) -> list[dict[str, Any]]:
    """The events of a stream, with their data as JSON; comments and `retry` are left out."""
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            found.append(fields | {"data": orjson.loads(fields["data"])})
    return found


@pytest.fixture
async def served(server: FakeServer) -> AsyncIterator[Gateway]:
    async with http_gateway.serving(server) as running:
        yield running


async def test_events_have_id_name_and_data(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    server.answers["WatchJob"] = lambda _: [STATE, output("a\nb\r\n\0م"), END]
    answer = await gateway.get(PATH, headers={"x-renter-key": "k", "last-event-id": "1.0"})
    assert answer.status_code == 200
    for name, value in {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
    }.items():
        assert answer.headers[name] == value
    assert "content-encoding" not in answer.headers
    first, text, end = parsed(answer.text)
    assert (first["id"], first["event"], first["data"]["status"]) == ("1.1", "state", "queued")
    assert (text["event"], text["data"]) == ("output", {"text": "a\nb\r\n\0م"})
    assert (end["event"], end["data"]["job"]["job_id"]) == ("end", "job-1")
    assert answer.text.startswith("retry: ")
    (call,) = server.calls
    assert (call.request.job_id, call.request.last_event_id) == ("job-1", "1.0")
    assert call.metadata["authorization"] == "Bearer k"


async def test_error_before_the_first_event_is_an_error_like_any_other(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.refuse("WatchJob", Refusal(grpc.StatusCode.NOT_FOUND, "no job", "JOB_NOT_FOUND"))
    answer = await gateway.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND")
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "RATE_LIMITED", retry_after_seconds=30)
    server.refuse("WatchJob", full)
    answer = await gateway.get(PATH)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    assert (await gateway.get(PATH, headers={"last-event-id": "x" * 60_000})).status_code == 429


async def test_stream_without_an_event_is_204_which_ends_a_browsers_attempts(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.answers["WatchJob"] = lambda _: []
    assert (await gateway.get(PATH)).status_code == 204


async def test_message_without_an_event_opens_the_stream(
    gateway: httpx.AsyncClient, server: FakeServer
) -> None:
    server.answers["WatchJob"] = lambda _: [pb.WatchJobResponse(), END]
    answer = await gateway.get(PATH)
    assert answer.status_code == 200
    assert [event["event"] for event in parsed(answer.text)] == ["end"]


async def test_head_of_a_stream_has_no_body(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    server.answers["WatchJob"] = lambda _: [STATE, END]
    answer = await gateway.head(PATH)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_error_after_the_first_event_is_an_event_and_breaks_the_connection(served: Gateway) -> None:
    async def answer(_: Any) -> AsyncIterator[Any]:
        yield STATE
        raise GONE

    served.server.answers["WatchJob"] = answer
    received = (await served.exchanged(GET)).decode()
    head, _, body = received.partition("\r\n\r\n")
    assert "transfer-encoding: chunked" in head.lower()
    assert '"code":"UNAVAILABLE"' in body
    assert "event: error" in body
    assert "event: end" not in body
    assert not body.endswith("0\r\n\r\n")
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{served.port}{PATH}")


async def test_whole_stream_ends_whole(served: Gateway) -> None:
    served.server.answers["WatchJob"] = lambda _: [STATE, END]
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{served.port}{PATH}")
        assert parsed(answer.text)[-1]["event"] == "end"


async def waits(_: Any) -> AsyncIterator[Any]:
    yield STATE
    await asyncio.Event().wait()


async def test_quiet_stream_gets_comments_and_is_not_overdue(
    served: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.events.EVENT_COMMENT_SECONDS", 0.01)
    assert limits.EVENT_COMMENT_SECONDS < 15
    served.server.answers["WatchJob"] = waits
    client = await served.connect()
    await client.send(GET)
    received = b""
    while received.count(b":\n\n") < 3:
        received += await client.receive()
        await served.later(3600)
    client.close()


async def test_gateway_that_stops_cuts_streams_at_once(server: FakeServer) -> None:
    server.answers["WatchJob"] = waits
    async with http_gateway.serving(server) as served:
        client = await served.connect()
        await client.send(GET)
        received = b""
        while b"event: state" not in received:
            received += await client.receive()
        for connection in list(served.door._open):
            connection.shutdown()
        assert not (received + await client.rest()).endswith(b"0\r\n\r\n")
        client.close()


async def test_reader_that_leaves_ends_the_call(served: Gateway) -> None:
    ended = asyncio.Event()

    async def answer(_: Any) -> AsyncIterator[Any]:
        try:
            yield STATE
            await asyncio.Event().wait()
        finally:
            ended.set()

    served.server.answers["WatchJob"] = answer
    client = await served.connect()
    await client.send(GET)
    assert b"200 OK" in await client.receive()
    client.close()
    async with asyncio.timeout(HANG_SECONDS):
        await ended.wait()


async def test_slow_reader_stops_the_server_soon_and_is_cut_after_a_minute(served: Gateway) -> None:
    """What waits for it in the gateway stays below 256 KiB, whatever the server has to send."""
    piece, sent, ended = "x" * 8192, 0, asyncio.Event()

    async def answer(_: Any) -> AsyncIterator[Any]:
        nonlocal sent
        try:
            yield STATE
            while True:
                yield output(piece)
                sent += len(piece)
        finally:
            ended.set()

    served.server.answers["WatchJob"] = answer
    client = await served.connect(buffer_bytes=4096)
    await client.send(GET)
    before = -1
    async with asyncio.timeout(HANG_SECONDS):
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.3)
    (connection,) = served.door._open
    assert 0 < connection._outlet.get_write_buffer_size() < 128 << 10
    await served.later(1)
    for _ in range(70):
        await served.later(1)
    async with asyncio.timeout(HANG_SECONDS):
        await ended.wait()
    client.close()


@dataclass
class Watched:
    """A call to the server; it tells whether a read was given up instead of its call."""

    call: Any
    is_ended: bool = False
    abandoned: int = 0

    async def read(self) -> Any:
        try:
            return await self.call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            self.abandoned += task.cancelling() if task else 0
            raise

    def cancel(self) -> bool:
        self.is_ended = True
        return bool(self.call.cancel())


@dataclass
class WatchedServer:
    """A server whose streams of events are called through ``Watched``."""

    server: FakeServer
    calls: list[Watched]

    @property
    def files(self) -> Any:
        return self.server.files

    def open_channel(self) -> Any:
        channel = self.server.open_channel()
        begin = channel.unary_stream

        def unary_stream(*names: Any, **ways: Any) -> Any:
            method = begin(*names, **ways)

            def call(*request: Any, **options: Any) -> Watched:
                self.calls.append(Watched(method(*request, **options)))
                return self.calls[-1]

            return call

        channel.unary_stream = unary_stream
        return channel


async def test_call_of_a_reader_that_leaves_is_ended_and_no_read_is_given_up(server: FakeServer) -> None:
    """gRPC never frees the message of a read that is given up."""
    watched: Any = WatchedServer(server, [])
    server.answers["WatchJob"] = waits
    async with http_gateway.serving(watched) as served:
        client = await served.connect()
        await client.send(GET)
        received = b""
        while b"event: state" not in received:
            received += await client.receive()
        client.close()
        async with asyncio.timeout(HANG_SECONDS):
            while served.door._open or not watched.calls[0].is_ended:
                await asyncio.sleep(0.01)
    (call,) = watched.calls
    assert call.abandoned == 0
