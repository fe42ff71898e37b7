"""The llamacpp engine: one model, served by a child process that stays warm between jobs.

It must not know the session. A child that misbehaves is ended, and the next job
gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.clock import Clock, SystemClock
from daemon.engines import Engine, EngineError, chat
from daemon.engines.child import ChildError, ModelServer, start_model_server

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 2048


class LlamaCppEngine(Engine):
    """Serves one GGUF file under a public name."""

    name = "llamacpp"

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        slots: int = 1,
        context_tokens: int = CONTEXT_TOKENS,
        clock: Clock | None = None,
        watch: bool = False,
    ) -> None:
        """`slots`: how many jobs at once; `watch`: let the child tell what its slots do, for tests."""
        self._name = name
        self._path = path
        self._slots = slots
        self._context_tokens = context_tokens
        self._clock: Clock = clock or SystemClock()
        self._watch = watch
        self._server: ModelServer | None = None
        self._starting = asyncio.Lock()

    @property
    def server(self) -> ModelServer | None:
        """The child as it is now."""
        return self._server

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The one model; warm when its server runs."""
        warm = self._server is not None and self._server.alive
        return [sessions_pb2.ServedModel(name=self._name, context_tokens=self._context_tokens, warm=warm)]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the parameters and has a healthy server. Raises EngineError."""
        chat.request_body(offer.params)
        async with self._starting:
            if self._server is not None and not await self._server.healthy():
                await self._end_server(self._server)
            if self._server is None:
                self._server = await self._start()

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[str | jobs_pb2.Usage, None]:
        """Streams the answer, then the usage. Raises EngineError."""
        server = self._server
        if server is None:
            raise chat.engine_failed()
        answer = _Answer(chat.max_tokens(offer.params), self._context_tokens, self._clock.monotonic)
        try:
            async with aclosing(self._stream(server, offer, answer)) as pieces:
                async for piece in pieces:
                    yield piece
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("the model server failed during a job error=%s", type(error).__name__)
            await self._end_server(server)
            raise chat.engine_failed() from None
        except EngineError as error:
            if error.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED:
                await self._end_server(server)
            raise
        yield answer.usage()

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends the child with a signal that cannot be ignored; the next job gets a new one."""
        server, self._server = self._server, None
        if server is not None:
            await server.kill()

    async def close(self) -> None:
        """Ends the child."""
        async with self._starting:
            if self._server is not None:
                await self._end_server(self._server)

    async def _start(self) -> ModelServer:
        settings = {
            "model_path": str(self._path),
            "api_key": secrets.token_urlsafe(32),
            "slots": self._slots,
            "context_tokens": self._context_tokens,
            "threads": os.cpu_count() or 1,
            "endpoint_slots": self._watch,
        }
        try:
            return await start_model_server(settings)
        except ChildError as error:
            logger.error("the model server did not start model=%s error=%s", self._name, error)
            raise chat.engine_failed() from None

    async def _end_server(self, server: ModelServer) -> None:
        if self._server is server:
            self._server = None
        await server.close()

    async def _stream(
        self, server: ModelServer, offer: sessions_pb2.JobOffer, answer: _Answer
    ) -> AsyncGenerator[str, None]:
        body = chat.request_body(offer.params)
        async with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                error = chat.error_of(await response.aread())
                raise chat.refusal(response.status_code, error, self._context_tokens)
            async for event in chat.events(response.aiter_bytes()):
                if piece := answer.take(event):
                    yield piece
        answer.check()


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
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def take(self, event: dict[str, Any]) -> str:
        """Notes one event; returns its text, often empty."""
        match event:
            case {"error": {"code": int(code)}}:
                raise chat.refusal(code, event["error"], self._context_tokens)
            case {"error": _}:
                raise chat.engine_failed()
            case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}}:
                self._prompt_tokens, self._completion_tokens = prompt, completion
            case {"choices": [{"finish_reason": str(reason)}, *_]}:
                self._finish_reason = reason
            case {"choices": [{"delta": {"content": str(text)}}, *_]} if text:
                self._note_token()
                return text
        return ""

    def check(self) -> None:
        """Raises EngineError when the answer is not whole."""
        if self._finish_reason is None:
            raise chat.engine_failed()
        # The server stops at the end of the context as it does at the wanted
        # length; only the count tells that the answer was cut short.
        if self._finish_reason == "length" and self._completion_tokens < self._max_tokens:
            raise chat.prompt_too_long(self._context_tokens)

    def usage(self) -> jobs_pb2.Usage:
        """The counts of the model server, the times of our clock."""
        usage = jobs_pb2.Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)
        if self._first_at is not None:
            usage.first_token_ms = round((self._first_at - self._began_at) * 1000)
            seconds = self._last_at - self._first_at
            if seconds > 0 and self._completion_tokens > 1:
                usage.tokens_per_second = (self._completion_tokens - 1) / seconds
        return usage

    def _note_token(self) -> None:
        self._last_at = self._monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
