"""Owns one streamed answer of an OpenAI chat server, whoever runs it: the request, its events, the counts.

It must not know how the server was started. Whatever the server does, the answer
ends: it is complete, or an EngineError says who is at fault. A server that falls
silent or never comes to an end breaks down in the provider's name, not on the
renter's bill.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
from dcp.v1 import jobs_pb2

from daemon.engines import chat
from daemon.runners import Piece


@dataclass(frozen=True)
class Patience:
    """How long a model server may be silent, in seconds."""

    first_seconds: float = 300.0
    """Before its first word: it may read a long prompt, or serve others first."""
    next_seconds: float = 60.0
    """Between two words."""


async def answer(
    client: httpx.AsyncClient,
    params: jobs_pb2.JobParams,
    *,
    served_name: str,
    context_tokens: int,
    monotonic: Callable[[], float],
    patience: Patience,
    path: str = "/v1/chat/completions",
) -> AsyncGenerator[Piece, None]:
    """Streams the answer to a job, then the usage.

    `served_name` is the model's name at the server; `context_tokens` 0: not known.
    Raises EngineError; one with ENGINE_FAILED means that the server cannot be trusted on.
    """
    counted = _Answer(chat.max_tokens(params), context_tokens, monotonic)
    body = chat.request_body(params) | {"model": served_name}
    try:
        async with client.stream("POST", path, json=body) as response:
            if response.status_code != httpx.codes.OK:
                error = chat.error_of(await _beginning(response))
                raise chat.refusal(response.status_code, error, context_tokens)
            async with aclosing(_patient(chat.events(response.aiter_bytes()), patience)) as events:
                async for event in events:
                    if piece := counted.take(event):
                        yield piece
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise chat.engine_failed() from error
    counted.check()
    yield counted.usage()


async def _beginning(response: httpx.Response) -> bytes:
    """The first 64 KiB of a body, which are enough of an error."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > 65536:
            break
    return body[:65536]


async def bounded(response: httpx.Response, most_bytes: int) -> bytes:
    """A whole body. Raises ValueError for one that is larger."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > most_bytes:
            raise ValueError("the model server's answer has no end")
    return bytes(body)


async def _patient(
    events: AsyncIterator[dict[str, Any]], patience: Patience
) -> AsyncGenerator[dict[str, Any], None]:
    seconds = patience.first_seconds
    while True:
        try:
            async with asyncio.timeout(seconds):
                event = await anext(events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise chat.engine_failed() from None
        yield event
        seconds = patience.next_seconds


class _Answer:
    """What is known of an answer while it streams in."""

    def __init__(self, max_tokens: int, context_tokens: int, monotonic: Callable[[], float]) -> None:
        self._max_tokens = max_tokens
        self._context_tokens = context_tokens
        self._monotonic = monotonic
        self._began_at = monotonic()
        self._first_at: float | None = None
        self._last_at = self._began_at
        self._finish_reason: str | None = None
        self._pieces = 0
        self._prompt_tokens = 0
        self._completion_tokens: int | None = None

    def take(self, event: dict[str, Any]) -> str:
        """Notes one event; returns its text, often empty."""
        match event:
            case {"error": {"code": int(code)}}:
                raise chat.refusal(code, event["error"], self._context_tokens)
            case {"error": _}:
                raise chat.engine_failed()
            case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}}:
                self._prompt_tokens, self._completion_tokens = prompt, completion
        match event:
            case {"choices": [{"finish_reason": str(reason)}, *_]}:
                self._finish_reason = reason
        match event:
            case {"choices": [{"delta": {"content": str(text)}}, *_]} if text:
                self._note_piece()
                return text
        return ""

    def check(self) -> None:
        """Raises EngineError when the answer is not whole."""
        if self._finish_reason is None:
            raise chat.engine_failed()
        # The server stops at the end of the context as it does at the wanted
        # length; only the count shows that the answer was cut short.
        was_counted = self._completion_tokens is not None
        if self._finish_reason == "length" and was_counted and self._tokens < self._max_tokens:
            raise chat.prompt_too_long(self._context_tokens)

    def usage(self) -> jobs_pb2.Usage:
        """The counts of the model server, the times of our clock."""
        usage = jobs_pb2.Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens)
        if self._first_at is not None:
            usage.first_token_ms = round((self._first_at - self._began_at) * 1000)
            seconds = self._last_at - self._first_at
            if seconds > 0 and self._tokens > 1:
                usage.tokens_per_second = (self._tokens - 1) / seconds
        return usage

    @property
    def _tokens(self) -> int:
        # A server that counts nothing sends a token a piece, more or less.
        return self._pieces if self._completion_tokens is None else self._completion_tokens

    def _note_piece(self) -> None:
        self._pieces += 1
        # A token may come in several pieces where it ends inside a character.
        if self._pieces > 4 * self._max_tokens + 64:
            raise chat.engine_failed()
        self._last_at = self._monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
