"""HTTP answers of other programs: read as they are, never unpacked, never more than was allowed."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from datetime import UTC, datetime

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
