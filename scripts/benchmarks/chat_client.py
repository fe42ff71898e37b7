"""A client of the OpenAI API that reads one streamed answer and notes when its pieces came.

It uses bare sockets: a client library would cost more than what is measured. It must not know what answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmarks.processes import BenchError

ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where chats are sent."""

    url: str
    """With the path."""
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The times of one answer, in seconds by the monotonic clock."""

    sent: float
    pieces: Sequence[float]
    """When each event with text came."""
    ended: float
    """When the stream was over."""
    tokens: int
    """By the server's own count."""

    @property
    def first_seconds(self) -> float:
        """From the request to the first text."""
        return self.pieces[0] - self.sent

    @property
    def pauses(self) -> list[float]:
        """Seconds between one event with text and the next."""
        return [later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first, from the first text to the last."""
        return (self.tokens - 1) / max(1e-9, self.pieces[-1] - self.pieces[0])


async def ask(endpoint: Endpoint, max_tokens: int) -> Answer:
    """Reads one streamed answer on a new connection. Raises BenchError."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _ask(endpoint, _request(endpoint, max_tokens))
    except TimeoutError:
        raise BenchError(f"{endpoint.url} gave no answer within {ANSWER_SECONDS:.0f} s") from None
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise BenchError(f"{endpoint.url} gave a wrong answer: {error!r}") from None


def body(model: str, max_tokens: int, *, stream: bool) -> str:
    """The body of a request. Its answer is long, and the same each time although it is sampled."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell a long story about a river and a mill."}],
        "max_tokens": max_tokens,
        "temperature": 0.5,
        "seed": 7,
        "stream": stream,
    }
    return json.dumps(asked | ({"stream_options": {"include_usage": True}} if stream else {}))


def _request(endpoint: Endpoint, max_tokens: int) -> bytes:
    address, text = urlsplit(endpoint.url), body(endpoint.model, max_tokens, stream=True)
    return (
        f"POST {address.path} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {endpoint.key}\r\ncontent-length: {len(text)}\r\n\r\n{text}"
    ).encode()


async def _ask(endpoint: Endpoint, request: bytes) -> Answer:
    address = urlsplit(endpoint.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        sent = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0] or b"chunked" not in head.lower():
            raise BenchError(f"{endpoint.url} answered: {(head + await reader.read(500))[:800]!r}")
        pieces, tokens, is_whole = [], 0, False
        async for at, text in _events(reader):
            if text == b"[DONE]":
                is_whole = True
                continue
            event = json.loads(text)
            if any(choice["delta"].get("content") for choice in event["choices"]):
                pieces.append(at)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if not (is_whole and pieces and tokens):
            raise BenchError(f"{endpoint.url} broke its answer off after {len(pieces)} pieces")
        return Answer(sent, pieces, time.monotonic(), tokens)
    finally:
        writer.close()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[float, bytes]]:
    """The data of each event of a chunked body, and when it came."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        at = time.monotonic()
        *events, rest = rest.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield at, event.removeprefix(b"data: ")
