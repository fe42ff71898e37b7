"""Limits of connections, heads, bodies and answers, over real sockets with the real application."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import orjson
import pytest
import uvloop
from dcp.v1 import jobs_pb2
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from common.addresses import SITE_FACTOR
from gateway import limits
from gateway.connections import Connection, Door, http_settings
from gateway.errors import ApiError
from tests.support import gateway_server, http_gateway
from tests.support.gateway_server import FakeServer
from tests.support.http_gateway import Client, Gateway

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
TOPUP = b"POST /api/renters/topup HTTP/1.1\r\nhost: x\r\nx-renter-key: k\r\n"


@pytest.fixture
async def gateway(server: FakeServer) -> AsyncIterator[Gateway]:
    async with http_gateway.serving(server) as running:
        yield running


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer in our form, which must close the connection and be the only one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert (headers[b"connection"], headers[b"content-type"]) == (b"close", b"application/json")
    assert headers[b"x-request-id"]
    error = orjson.loads(body)
    assert error["error"]
    return int(head.split()[1]), error["code"]


async def refused_while_sending(gateway: Gateway, first: bytes, more: bytes) -> tuple[int, bytes]:
    """How many bytes were sent before the answer, and the answer; at most 20 MiB are sent."""
    client = await gateway.connect()
    await client.send(first)
    sent = len(first)
    answer = asyncio.create_task(client.rest())
    while sent < 20 << 20 and not answer.done():
        try:
            await client.send(more)
        except ConnectionError:
            break
        sent += len(more)
        await asyncio.sleep(0.001)
    received = await answer
    client.close()
    return sent, received


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"a: b\r\n" * 700),
        (b"GET /healthz HTTP/1.1\r\na: ", b"b" * 4096),
        (b"GET /", b"a" * 4096),
        (b"GET /?", b"a=b&" * 1024),
        (TOPUP + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 700),
        (TOPUP + b"transfer-encoding: chunked\r\n\r\n1;", b"e" * 4096),
    ],
    ids=["headers", "header", "path", "query", "trailers", "chunk extension"],
)
async def test_endless_head_is_refused_after_64_kib(gateway: Gateway, first: bytes, more: bytes) -> None:
    sent, answer = await refused_while_sending(gateway, first, more)
    assert limits.MAX_HEAD_BYTES < sent < 1 << 20
    is_body = b"chunked" in first
    assert refusal(answer) == ((400, "INVALID_FIELD") if is_body else (431, "HEAD_TOO_LARGE"))
    assert gateway.server.calls == []


@pytest.mark.parametrize(
    "head",
    [
        b"a: b\r\n" * 101,
        b"a: " + b"b" * (64 << 10) + b"\r\n",
        b"".join(b"a%d: %s\r\n" % (number, b"b" * 1000) for number in range(70)),
    ],
)
async def test_head_that_arrives_at_once_has_the_same_limits(gateway: Gateway, head: bytes) -> None:
    answer = await gateway.exchanged(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
    assert refusal(answer) == (431, "HEAD_TOO_LARGE")


async def test_head_within_the_limits_is_served(gateway: Gateway) -> None:
    head = b"connection: close\r\n" + b"a: b\r\n" * 97 + b"c: " + b"d" * (60 << 10) + b"\r\n"
    answer = await gateway.exchanged(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


BODY = b"15\r\n" + b'{"amount_halala": 5 }' + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        TOPUP + b"content-length: 21\r\ncontent-length: 22\r\n\r\n" + BODY,
        TOPUP + b"content-length: 5, 6\r\n\r\n" + BODY,
        TOPUP + b"content-length: -1\r\n\r\n" + BODY,
        TOPUP + b"content-length: +21\r\n\r\n" + BODY,
        TOPUP + b"content-length: 21\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n" + BODY,
        TOPUP + b"transfer-encoding: gzip, chunked\r\n\r\n" + BODY,
        TOPUP + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"a: b\r\n c\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"a: b\r\n\tc\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"transfer-encoding:\r\n chunked\r\n\r\n" + BODY,
        TOPUP + b"a: b\x00c\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"a\x00: b\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"a : b\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        TOPUP + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
        TOPUP + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        TOPUP + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n{}\r\n0\r\n\r\n",
        TOPUP + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        b"GET /api/jobs/job-1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_request_that_can_be_read_in_two_ways_is_refused_and_never_run(
    gateway: Gateway, request_bytes: bytes
) -> None:
    assert refusal(await gateway.exchanged(request_bytes + LAST)) == (400, "INVALID_FIELD")
    assert gateway.server.calls == []


async def test_request_runs_only_when_all_of_it_has_arrived(gateway: Gateway) -> None:
    client = await gateway.connect()
    await client.send(JOB[:-2] + b"transfer-encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.1)
    await client.send(b"xyz\r\n")
    assert refusal(await client.rest()) == (400, "INVALID_FIELD")
    assert gateway.server.calls == []
    client.close()


@pytest.mark.parametrize("split", range(1, 5))
async def test_fold_is_found_wherever_the_bytes_are_split(gateway: Gateway, split: int) -> None:
    fold = b"b\r\n c\r\n\r\n"
    client = await gateway.connect()
    await client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\na: " + fold[:split])
    await asyncio.sleep(0.02)
    await client.send(fold[split:] + LAST)
    assert refusal(await client.rest()) == (400, "INVALID_FIELD")
    client.close()


async def test_body_that_looks_like_a_folded_header_is_a_body(gateway: Gateway) -> None:
    body = b'{\n "amount_halala":\n\t5\n}'
    request = TOPUP + b"content-length: %d\r\n\r\n" % len(body) + body
    client = await gateway.connect()
    await client.send(request + request + LAST)
    assert (await client.rest()).count(b"HTTP/1.1 200 ") == 3
    assert [call.request.amount_halala for call in gateway.server.calls] == [5, 5]
    client.close()


async def test_chunked_body_over_the_limit_is_refused_and_ends_the_connection(gateway: Gateway) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    sent, answer = await refused_while_sending(gateway, TOPUP + b"transfer-encoding: chunked\r\n\r\n", chunk)
    assert refusal(answer) == (413, "BODY_TOO_LARGE")
    assert limits.LEAST_BODY_LIMIT < sent < 4 << 20
    assert gateway.server.calls == []


# Time.


async def test_silent_connection_is_closed(gateway: Gateway) -> None:
    client = await gateway.connect()
    await asyncio.sleep(0.01)
    await gateway.later(14)
    await client.send(HEALTH)
    await client.answer()
    silent = await gateway.connect()
    await asyncio.sleep(0.01)
    await gateway.later(16)
    assert await silent.receive() == b""
    await client.send(HEALTH)  # it has shown that it speaks HTTP, so it may rest
    await client.answer()
    for each in (client, silent):
        each.close()


async def drip(gateway: Gateway, client: Client, data: bytes, every: float) -> None:
    """Sends bytes one by one, so many seconds apart, until the gateway has enough."""
    for byte in data:
        try:
            await client.send(bytes([byte]))
        except ConnectionError:
            return
        await asyncio.sleep(0.005)
        await gateway.later(every)


async def test_head_that_drips_ends(gateway: Gateway) -> None:
    client = await gateway.connect()
    await drip(gateway, client, HEALTH, 1.0)
    assert refusal(await client.rest()) == (408, "REQUEST_TOO_SLOW")
    client.close()


async def test_head_of_a_later_request_that_drips_ends(gateway: Gateway) -> None:
    client = await gateway.connect()
    await client.send(HEALTH)
    await client.answer()
    await gateway.later(40)
    await drip(gateway, client, HEALTH, 1.0)
    assert refusal(await client.rest()) == (408, "REQUEST_TOO_SLOW")
    client.close()


HEAD = TOPUP + b"content-length: 200\r\n\r\n"


@pytest.mark.parametrize("framing", [b"content-length: 200", b"transfer-encoding: chunked"])
async def test_body_that_does_not_come_or_drips_ends(gateway: Gateway, framing: bytes) -> None:
    for every, rest in ((31.0, b" "), (20.0, b"1\r\n \r\n1\r\n")):
        client = await gateway.connect()
        await client.send(TOPUP + framing + b"\r\n\r\n")
        await asyncio.sleep(0.01)
        await gateway.later(0)
        await drip(gateway, client, rest, every)
        assert refusal(await client.rest()) == (408, "REQUEST_TOO_SLOW")
        client.close()
    assert gateway.server.calls == []


async def test_slow_honest_upload_is_carried_out(gateway: Gateway) -> None:
    """Half a mebibyte at 4 KiB/s, with a pause of 25 s: more than two minutes."""
    body = b'{"amount_halala": 5' + b" " * (512 << 10) + b"}"
    client = await gateway.connect()
    await client.send(TOPUP + b"content-length: %d\r\n\r\n" % len(body))
    await asyncio.sleep(0.01)
    await gateway.later(25)
    for start in range(0, len(body), 32 << 10):
        await client.send(body[start : start + (32 << 10)])
        await asyncio.sleep(0.005)
        await gateway.later(8)
    assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert [call.request.amount_halala for call in gateway.server.calls] == [5]
    client.close()


def test_idle_connections_outlast_pools_of_sixty_seconds() -> None:
    assert http_settings(read_nothing, Door()).timeout_keep_alive > 60


async def read_nothing(_: Scope, __: Receive, ___: Send) -> None:
    """An application."""


async def test_idle_connection_is_kept_and_then_closed(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEEP_ALIVE_SECONDS", 0.2)
    async with http_gateway.serving(server) as gateway:
        client = await gateway.connect()
        for _ in range(2):
            await client.send(HEALTH)
            await client.answer()
            await gateway.later(60)
        assert await client.receive() == b""
        client.close()


# Readers.


def large_answer(_: object) -> jobs_pb2.GetJobResponse:
    return jobs_pb2.GetJobResponse(job=jobs_pb2.Job(job_id="j" * (8 << 20)))


JOB = b"GET /api/jobs/job-1 HTTP/1.1\r\nhost: x\r\nx-renter-key: k\r\n\r\n"


async def until_answering(gateway: Gateway) -> Any:
    """The gateway's transport with an answer that its client has not taken."""
    async with asyncio.timeout(http_gateway.HANG_SECONDS):
        while True:
            for connection in list(gateway.door._open):
                if connection.transport.get_write_buffer_size():
                    return connection.transport
            await asyncio.sleep(0.01)


async def test_reader_that_takes_nothing_is_cut_off(gateway: Gateway) -> None:
    gateway.server.answers["GetJob"] = large_answer
    client = await gateway.connect(buffer_bytes=4096)
    await client.send(JOB)
    transport = await until_answering(gateway)
    await gateway.later(0)
    await gateway.later(59)
    assert transport.get_write_buffer_size()
    await gateway.later(2)
    assert not transport.get_write_buffer_size()
    assert len(await client.rest()) < 8 << 20
    assert gateway.door._open == {}
    client.close()


async def test_reader_that_drips_is_cut_off(gateway: Gateway) -> None:
    gateway.server.answers["GetJob"] = large_answer
    client = await gateway.connect(buffer_bytes=4096)
    await client.send(JOB)
    transport = await until_answering(gateway)
    for _ in range(400):
        await gateway.later(50)
        if not transport.get_write_buffer_size():
            break
        await client.receive()
    assert gateway.door._open == {}
    client.close()


async def test_slow_honest_reader_gets_its_whole_answer(gateway: Gateway) -> None:
    gateway.server.answers["GetJob"] = large_answer
    client = await gateway.connect(buffer_bytes=4096)
    await client.send(JOB)
    await until_answering(gateway)
    received = 0
    while received < 8 << 20:
        received += len(await client.receive())
        if received % 7 == 0:
            await gateway.later(1)
    client.close()


async def test_closing_connection_with_an_answer_that_nobody_takes_ends(gateway: Gateway) -> None:
    gateway.server.answers["GetJob"] = large_answer
    client = await gateway.connect(buffer_bytes=4096)
    await client.send(JOB.replace(b"host: x", b"host: x\r\nconnection: close"))
    await until_answering(gateway)
    await gateway.later(0)
    await gateway.later(61)
    assert gateway.door._open == {}
    client.close()


@pytest.mark.parametrize(
    "scenario",
    [
        test_reader_that_takes_nothing_is_cut_off,
        test_closing_connection_with_an_answer_that_nobody_takes_ends,
        test_chunked_body_over_the_limit_is_refused_and_ends_the_connection,
        test_silent_connection_is_closed,
        test_head_that_drips_ends,
    ],
)
def test_the_same_holds_on_the_loop_of_the_program(scenario: Callable[[Gateway], Awaitable[None]]) -> None:
    async def run() -> None:
        async with gateway_server.running() as server, http_gateway.serving(server) as gateway:
            await scenario(gateway)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# Numbers.


async def test_address_has_at_most_so_many_connections(server: FakeServer) -> None:
    async with http_gateway.serving(server, most_per_address=2) as gateway:
        clients = [await gateway.connect() for _ in range(2)]
        for client in clients:
            await client.send(HEALTH)
            await client.answer()
        assert refusal(await gateway.exchanged(HEALTH)) == (429, "RATE_LIMITED")
        clients[0].close()
        await asyncio.sleep(0.02)
        assert (await gateway.exchanged(LAST)).startswith(b"HTTP/1.1 200 ")
        await clients[1].send(HEALTH)
        await clients[1].answer()
        clients[1].close()


def test_networks_of_an_ipv6_site_share_a_larger_limit() -> None:
    door = Door(most_per_address=1)

    def enter(site: int, network: int) -> Any:
        connection = cast(Connection, object())
        return door.enter(connection, f"2001:db8:{site:x}:{network:x}::1") or connection

    entered = [enter(1, network) for network in range(SITE_FACTOR)]
    assert [isinstance(each, ApiError) for each in entered] == [False] * SITE_FACTOR
    refused = enter(1, 99)
    assert (refused.code, "2001:db8:1::/48" in str(refused)) == ("RATE_LIMITED", True)
    assert not isinstance(enter(2, 99), ApiError)
    door.leave(entered[0])
    assert not isinstance(enter(1, 99), ApiError)


async def test_trusted_proxy_carries_more_but_not_more_than_all(server: FakeServer) -> None:
    trusted = [ipaddress.ip_network("127.0.0.0/8")]
    async with http_gateway.serving(server, most=3, most_per_address=1, trusted=trusted) as gateway:
        clients = [await gateway.connect() for _ in range(3)]
        for client in clients:
            await client.send(HEALTH)
            await client.answer()
        assert refusal(await gateway.exchanged(HEALTH)) == (503, "OVERLOADED")
        for client in clients:
            client.close()


async def test_refused_connections_do_not_pile_up(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_LINGERING", 2)
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.1)
    async with http_gateway.serving(server, most=1) as gateway:
        first = await gateway.connect()
        await first.send(HEALTH)
        await first.answer()
        refused = [await gateway.connect() for _ in range(5)]
        answers = [await client.rest() for client in refused]
        assert sorted(map(bool, answers)) == [False, False, False, True, True]
        await asyncio.sleep(0.2)
        assert gateway.door.lingering == 0
        for client in (first, *refused):
            client.close()


# Proxies.


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"203.0.113.9, 192.0.2.1:4711", "192.0.2.1"),
        (b"[2001:db8::1]:4711", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"192.0.2.1, 127.0.0.9", "192.0.2.1"),
        *((junk, "127.0.0.1") for junk in (b"\xff\xfe", "م".encode(), b"a\tb", b"unknown7", b"", b"1.2.3")),
    ],
)
async def test_address_behind_a_trusted_proxy_is_an_address(
    server: FakeServer, forwarded: bytes, address: str
) -> None:
    async with http_gateway.serving(server, trusted=[ipaddress.ip_network("127.0.0.0/8")]) as gateway:
        head = JOB[:-2] + b"connection: close\r\nx-forwarded-for: " + forwarded + b"\r\n\r\n"
        assert (await gateway.exchanged(head)).startswith(b"HTTP/1.1 200 ")
        assert [call.metadata["x-forwarded-for"] for call in server.calls] == [address]


@pytest.mark.parametrize(
    ("trusted", "scheme", "is_told"),
    [("127.0.0.0/8", b"https", True), ("127.0.0.0/8", b"http", False), ("10.0.0.0/8", b"https", False)],
)
async def test_browser_that_came_by_https_is_told_to_stay_there(
    server: FakeServer, trusted: str, scheme: bytes, is_told: bool
) -> None:
    async with http_gateway.serving(server, trusted=[ipaddress.ip_network(trusted)]) as gateway:
        answer = await gateway.exchanged(LAST[:-2] + b"x-forwarded-proto: " + scheme + b"\r\n\r\n")
        assert (b"strict-transport-security: max-age=" in answer) == is_told


class Recorded(asyncio.Transport):
    """A connection that records what is sent on it, and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.events.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return "closed" in self.events

    def close(self) -> None:
        self.events.append("closed")

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def sent_for(request: bytes, answer: Sequence[bytes]) -> list[bytes | str]:
    """What happens on a connection whose application answers with these parts of a body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in answer:
            await send({"type": "http.response.body", "body": part, "more_body": part is not answer[-1]})

    settings = http_settings(app, Door())
    settings.load()
    connection: Any = settings.http_protocol_class
    transport = Recorded()
    protocol = connection(config=settings, server_state=ServerState(), app_state={})
    protocol.connection_made(transport)
    protocol.data_received(request)
    while not any(isinstance(event, bytes) and answer[-1] in event for event in transport.events):
        await asyncio.sleep(0)
    events = list(transport.events)
    protocol.connection_lost(None)
    return events


async def test_head_and_body_of_an_answer_are_sent_at_once_and_before_the_close() -> None:
    (kept,) = await sent_for(HEALTH, [b"hello"])
    last, closed = await sent_for(LAST, [b"hello"])
    for sent in (kept, last):
        assert isinstance(sent, bytes)
        assert sent.startswith(b"HTTP/1.1 200 ")
        assert b"hello" in sent
    assert closed == "closed"


async def test_large_answer_is_not_collected() -> None:
    part = b"x" * (40 << 10)
    sent = await sent_for(HEALTH, [part, part, part, b"end"])
    assert max(len(data) for data in sent) < 3 * len(part)
