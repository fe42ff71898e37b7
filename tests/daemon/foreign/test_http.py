"""HTTP answers of other programs: read as they are, never unpacked, never more than was allowed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

import pytest

from daemon.foreign import http
from daemon.service.fetch import FetchError, fetch
from tests.support.openai_server import Raw, Script, openai_server

TWICE = gzip.compress(gzip.compress(b"0" * 10_000_000))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with openai_server(script) as url:
        yield f"{url}/models"


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LEFT = b""
"""The server closes the connection instead of an answer."""


@asynccontextmanager
async def server(*connections: Sequence[bytes]) -> AsyncIterator[tuple[http.Client, list[bytes]]]:
    """A client of a server that plays one list of answers on each connection; the requests that it got."""
    left, requests, players = list(connections), list[bytes](), list[asyncio.Task[None]]()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        players.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with contextlib.suppress(asyncio.IncompleteReadError):
            for answer in left.pop(0):
                head = await reader.readuntil(b"\r\n\r\n")
                requests.append(head + await reader.readexactly(2 if head.startswith(b"POST") else 0))
                writer.write(answer)
            if answer:
                await reader.read()  # kept open, until the client closes it
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(play, "127.0.0.1", 0)
    host, port = running.sockets[0].getsockname()
    async with running, http.client(base_url=f"http://{host}:{port}") as client:
        yield client, requests
    await asyncio.gather(*players)


async def test_requests_one_after_another_share_a_connection() -> None:
    async with server([OK, OK, OK]) as (client, requests):
        for _ in range(3):
            assert (await client.post("/chat", content=b"{}")).content == b"ok"
        assert len(requests) == 3


async def test_request_on_a_connection_that_the_server_just_closed_is_sent_once_more() -> None:
    async with server([OK, LEFT], [OK]) as (client, requests):
        for _ in range(2):
            assert (await client.post("/chat", content=b"{}")).content == b"ok"
        assert len(requests) == 3
        assert requests[1] == requests[2]


async def test_request_on_a_new_connection_is_never_repeated() -> None:
    async with server([LEFT]) as (client, requests):
        with pytest.raises(http.FAILURES):
            await client.post("/chat", content=b"{}")
        assert len(requests) == 1


async def test_request_is_repeated_once() -> None:
    async with server([OK, LEFT], [LEFT]) as (client, requests):
        await client.post("/chat", content=b"{}")
        with pytest.raises(http.FAILURES):
            await client.post("/chat", content=b"{}")
        assert len(requests) == 3


async def test_connection_whose_answer_was_left_is_not_used_again() -> None:
    async with server([OK[:-1]], [OK]) as (client, _):
        async with client.stream("GET", "/chat"):
            pass
        assert (await client.get("/chat")).content == b"ok"


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip", "GZIP", "deflate", "br", "zstd", "unheard-of"])
async def test_compressed_answer_is_refused_unread(script: Script, url: str, encoding: str) -> None:
    script.list_answer = Raw(TWICE, headers={"content-encoding": encoding})
    async with http.client() as client:
        with pytest.raises(http.FAILURES, match="compressed"):
            async with client.stream("GET", url) as response:
                await http.body(response, 1 << 30)
    assert script.headers[0]["accept-encoding"] == "identity"


async def test_plain_answer_is_read_up_to_its_limit(script: Script, url: str) -> None:
    script.list_answer = Raw(b"0123456789", headers={"content-encoding": "identity"})
    async with http.client() as client:
        async with client.stream("GET", url) as response:
            assert await http.body(response, 10) == b"0123456789"
        async with client.stream("GET", url) as response:
            with pytest.raises(http.TooLargeError, match="larger than 9 bytes"):
                await http.body(response, 9)


async def test_compressed_release_is_refused(script: Script, url: str) -> None:
    script.list_answer = Raw(TWICE, headers={"content-encoding": "gzip, gzip"})
    with pytest.raises(FetchError, match="compressed"):
        await asyncio.to_thread(fetch, url, 1 << 30)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Fri, 27 Nov 2026 09:00:30 GMT", 30.0),
        ("Fri, 27 Nov 2026 08:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("9" * 400, float("9" * 100)),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    response = http.Response(503, headers={"retry-after": header})
    now = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
    assert http.retry_after_seconds(response, now) == seconds
