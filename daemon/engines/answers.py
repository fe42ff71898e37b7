"""Owns one streamed answer of an OpenAI chat server, whoever runs it: the request, its events, the counts.

It must not know how the server was started. Whatever the server does, the answer
ends: it is complete, or an EngineError says who is at fault. A server that falls
silent or never comes to an end breaks down in the provider's name, not on the
renter's bill; one that stays busy has its job given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import chat, refusals
from daemon.engines.refusals import ServerBusyError
from daemon.foreign import http
from daemon.runners import Chunk, Logprobs, Piece

MAX_PAUSE_SECONDS = 10.0
LEAST_SPEED_SECONDS = 0.02
"""An answer that comes in one burst was written before: its speed is not known."""
NO_ENDS = ("", "error", "abort")
"""Finish reasons of an answer that is not whole: none, or that of a server that gave up."""


@dataclass(frozen=True)
class Patience:
    """How long a model server may be silent or busy, in seconds."""

    first_seconds: float = 300.0
    """Before its first word: it may load the model, read a long prompt, or serve others first."""
    next_seconds: float = 60.0
    """Between two words."""
    pause_seconds: float = 1.0
    """Before a busy server that does not say how long it will be is asked again; doubled each time."""


async def answer(
    client: http.Client,
    offer: sessions_pb2.JobOffer,
    *,
    served_name: str,
    context_tokens: int,
    monotonic: Callable[[], float],
    patience: Patience,
    path: str,
) -> AsyncGenerator[Piece, None]:
    """Streams the answer to a job, then how likely its tokens were where that is known, then the usage.

    `served_name` is the model's name at the server; `context_tokens` 0: not known.
    Raises EngineError; one with ENGINE_FAILED means that the server cannot be trusted on.
    """
    body = chat.request_body(offer) | {"model": served_name}
    counted = _Answer(body, context_tokens, monotonic, is_chat=bool(offer.chat_request))
    wants_logprobs = chat.is_repeatable(body)
    wait = Wait(offer, patience)
    while not counted.is_over:
        try:
            asked = chat.with_logprobs(body) if wants_logprobs else body
            async with aclosing(_events(client, path, asked, wait, patience)) as events:
                async for event in events:
                    if (piece := counted.take(event)) is not None:
                        yield piece
            counted.check()
        except ServerBusyError as busy:
            if counted.has_begun:
                raise refusals.engine_failed() from busy
            await wait.for_server(busy)
        except _RefusedError as refused:
            if wants_logprobs and not counted.has_begun and refused.may_be_of_logprobs:
                wants_logprobs = False
                continue
            raise refusals.refusal(refused.error, context_tokens) from None
        except (*http.FAILURES, TimeoutError, ValueError) as error:
            raise refusals.engine_failed() from error
    if counted.logprobs:
        yield Logprobs(tuple(counted.logprobs))
    yield counted.usage()


class _RefusedError(Exception):
    """The server answered with an error."""

    def __init__(self, error: refusals.ServerError) -> None:
        super().__init__(error.status)
        self.error = error

    @property
    def may_be_of_logprobs(self) -> bool:
        """It may go without them: some servers know no such parameter, and few say so in the same words."""
        return self.error.fault is None and (400 <= self.error.status < 500 or self.error.status == 501)


class Wait:
    """How long the first word of a job is waited for, or its picture."""

    def __init__(self, offer: sessions_pb2.JobOffer, patience: Patience) -> None:
        now = asyncio.get_running_loop().time()
        self.first_word_by = now + patience.first_seconds
        # A job whose own time went by in front of a busy server would end as if its renter had set too
        # little: half of it is left for another provider.
        limit_seconds = offer.run_limit.ToMilliseconds() / 1000 if offer.HasField("run_limit") else 0.0
        self._give_back_at = min(
            self.first_word_by, now + limit_seconds / 2 if limit_seconds else float("inf")
        )
        self._pause_seconds = patience.pause_seconds

    async def for_server(self, busy: ServerBusyError) -> None:
        """Returns when the server may be asked again. Raises EngineError when that is too late."""
        seconds = max(self._pause_seconds, busy.retry_after_seconds or 0.0)
        self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        if asyncio.get_running_loop().time() + seconds >= self._give_back_at:
            raise refusals.engine_busy() from None
        await asyncio.sleep(seconds)


async def _events(
    client: http.Client, path: str, body: dict[str, Any], wait: Wait, patience: Patience
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of one request. Raises ServerBusyError, _RefusedError, TimeoutError and what HTTP raises."""
    async with AsyncExitStack() as stack:
        async with asyncio.timeout_at(wait.first_word_by):
            response = await stack.enter_async_context(client.stream("POST", path, json=body))
            await _check(response)
        events = await stack.enter_async_context(aclosing(chat.events(response.aiter_bytes())))
        by = wait.first_word_by
        while (event := await _next(events, by)) is not None:
            yield event
            by = asyncio.get_running_loop().time() + patience.next_seconds


async def _next(events: AsyncGenerator[dict[str, Any], None], by: float) -> dict[str, Any] | None:
    async with asyncio.timeout_at(by):
        return await anext(events, None)


async def _check(response: http.Response) -> None:
    if response.status_code == http.OK:
        return
    error = refusals.error_of_body(response.status_code, await http.beginning(response))
    if response.status_code in refusals.BUSY and error.fault is not refusals.Fault.PROMPT_TOO_LONG:
        raise ServerBusyError(http.retry_after_seconds(response))
    raise _RefusedError(error)


class _Answer:
    """What is known of an answer while it streams in."""

    def __init__(
        self,
        body: dict[str, Any],
        context_tokens: int,
        monotonic: Callable[[], float],
        *,
        is_chat: bool,
    ) -> None:
        """`body`: the request; `is_chat`: who asked gets the server's chunks, whatever they say."""
        self.is_over = False
        """It is whole."""
        self._max_tokens = body["max_tokens"] * chat.choices(body)
        # A token may come in several pieces where it ends inside a character.
        self._most_pieces = 4 * self._max_tokens + 64
        self._context_tokens = context_tokens
        self._is_chat = is_chat
        self._shows_logprobs = bool(body.get("logprobs"))
        self._monotonic = monotonic
        self._began_at = monotonic()
        self._first_at: float | None = None
        self._last_at = self._began_at
        self._finish_reason = ""
        self._ends: dict[str, str] = {}
        """Of a chat: why each choice ended; empty while it has not."""
        self._pieces = 0
        self._has_text = False
        self._has_thought = False
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens: int | None = None
        self.logprobs: list[sessions_pb2.TokenLogprob] = []
        """Of the first tokens."""

    @property
    def has_begun(self) -> bool:
        """The model has written or thought something."""
        return self._pieces > 0

    def take(self, event: dict[str, Any]) -> Piece | None:
        """Notes one event; returns what is told of it."""
        if (error := refusals.error_of_event(event)) is not None:
            if error.status in refusals.BUSY and error.fault is not refusals.Fault.PROMPT_TOO_LONG:
                raise ServerBusyError
            raise _RefusedError(error)
        delta = chat.delta_of(event)
        if delta.prompt_tokens is not None:
            self._prompt_tokens = delta.prompt_tokens
        if delta.cached_tokens is not None:
            self._cached_tokens = delta.cached_tokens
        # More than was asked for cannot be true, nor can no token of a text.
        if delta.completion_tokens is not None and delta.completion_tokens <= self._most_pieces:
            self._completion_tokens = delta.completion_tokens
        self.logprobs += delta.logprobs[: chat.MAX_LOGPROBS - len(self.logprobs)]
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._has_text |= bool(delta.text)
        self._has_thought |= delta.is_thought
        chunk = chat.chunk_of(event, with_logprobs=self._shows_logprobs) if self._is_chat else None
        if delta.text or delta.is_thought or chunk is not None:
            self._note_piece()
        if self._is_chat:
            for choice in chunk["choices"] if chunk is not None else ():
                index, reason = str(choice["index"]), choice.get("finish_reason")
                self._ends[index] = (
                    reason if isinstance(reason, str) and reason else self._ends.get(index, "")
                )
            return Chunk(chunk) if chunk is not None else None
        return delta.text or None

    def check(self) -> None:
        """Raises EngineError when the answer is not whole."""
        if self._finish_reason in NO_ENDS:
            raise refusals.engine_failed()
        if self._is_chat:
            if any(reason in NO_ENDS for reason in self._ends.values()):
                raise refusals.engine_failed()
            self.is_over = True
            return
        is_cut = self._finish_reason == "length"
        if not self._has_text and self._has_thought:
            raise refusals.no_answer(self._max_tokens)
        # The server stops at the end of the context as it does at the wanted
        # length; only the count shows that the answer was cut short.
        is_short = self._completion_tokens is not None and self._written < self._max_tokens
        if is_cut and is_short:
            raise refusals.prompt_too_long(self._context_tokens)
        if is_cut and not self._has_text:
            raise refusals.no_answer(self._max_tokens)
        self.is_over = True

    def usage(self) -> jobs_pb2.Usage:
        """The counts of the model server, the times of our clock."""
        usage = jobs_pb2.Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=min(self._cached_tokens, self._prompt_tokens),
        )
        if self._first_at is not None:
            usage.first_token_ms = round((self._first_at - self._began_at) * 1000)
            seconds = self._last_at - self._first_at
            if seconds >= LEAST_SPEED_SECONDS and self._tokens > 1:
                usage.tokens_per_second = (self._tokens - 1) / seconds
        return usage

    @property
    def _tokens(self) -> int:
        # A server that counts nothing sends a token a piece, more or less.
        return self._completion_tokens or self._pieces

    @property
    def _written(self) -> int:
        # Some servers leave what the model thought out of their count.
        return max(self._tokens, self._pieces) if self._has_thought else self._tokens

    def _note_piece(self) -> None:
        self._pieces += 1
        if self._pieces > self._most_pieces:
            raise refusals.engine_failed()
        self._last_at = self._monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
