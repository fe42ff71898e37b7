"""The llamacpp engine: one model, served by a child process that stays warm between jobs.

It must not know the session. A child that misbehaves is ended, and the next job
gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.clock import Clock, SystemClock
from daemon.engines import Engine, EngineError, chat
from daemon.engines.answers import Patience, answer
from daemon.engines.child import ChildError, ModelServer, start_model_server
from daemon.engines.warm import WarmModels
from daemon.runners import Piece

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 2048
OVERHEAD_MIB = 256


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
        patience: Patience | None = None,
        warm: WarmModels | None = None,
        watch: bool = False,
    ) -> None:
        """`slots`: how many jobs at once; `watch`: let the child tell what its slots do, for tests."""
        self._name = name
        self._path = path
        self._slots = slots
        self._context_tokens = context_tokens
        self._clock: Clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._watch = watch
        self._warm = warm or WarmModels()
        self._warm.add(self)
        self._busy = 0
        self._used_at = 0.0
        self._server: ModelServer | None = None
        self._starting = asyncio.Lock()

    @property
    def server(self) -> ModelServer | None:
        """The child as it is now."""
        return self._server

    @property
    def slots(self) -> int:
        """How many jobs the child answers at once."""
        return self._slots

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The one model; warm when its server runs."""
        warm = self._server is not None and self._server.alive
        return [sessions_pb2.ServedModel(name=self._name, context_tokens=self._context_tokens, warm=warm)]

    @property
    def is_loaded(self) -> bool:
        """The child runs."""
        return self._server is not None

    @property
    def is_busy(self) -> bool:
        """A job is prepared or answered."""
        return self._busy > 0

    @property
    def used_at(self) -> float:
        """When the last job ended or began."""
        return self._used_at

    async def unload(self) -> None:
        """Ends the child; the next job starts a new one."""
        await self.close()

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the parameters and has a healthy server. Raises EngineError."""
        chat.request_body(offer.params)
        self._begin()
        try:
            await self._load()
        except BaseException:
            self._end()
            raise

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Streams the answer, then the usage, of a job that was prepared. Raises EngineError."""
        try:
            server = self._server
            if server is None:
                raise chat.engine_failed()
            async with aclosing(self._answer(server, offer)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._end()

    async def _answer(self, server: ModelServer, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        pieces = answer(
            server.client,
            offer.params,
            served_name=offer.params.model,
            context_tokens=self._context_tokens,
            monotonic=self._clock.monotonic,
            patience=self._patience,
        )
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except EngineError as error:
            if error.reason == jobs_pb2.FAILURE_REASON_ENGINE_FAILED:
                cause = type(error.__cause__ or error).__name__
                logger.warning("the model server failed during a job error=%s", cause)
                await self._end_server(server)
            raise

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

    def _begin(self) -> None:
        self._busy += 1
        self._used_at = self._clock.monotonic()

    def _end(self) -> None:
        self._busy -= 1
        self._used_at = self._clock.monotonic()
        self._warm.freed()

    async def _load(self) -> None:
        async with self._starting:
            if self._server is not None and not await self._server.healthy():
                await self._end_server(self._server)
            if self._server is None:
                async with self._warm.room(_needed_mib(self._path)):
                    self._server = await self._start()

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


def _needed_mib(path: Path) -> int:
    """What a model takes: its file, and what it computes with."""
    try:
        size_mib = path.stat().st_size >> 20
    except OSError:
        return 0  # its start will say what is wrong
    return size_mib * 6 // 5 + OVERHEAD_MIB
