"""Owns what all engines share that start their model server themselves, however they start it.

One server for one public model: started for the first job, kept warm between jobs,
unloaded when memory is short, ended when it misbehaves. It must not know how a server
is started or what a session is.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Generic, TypeVar

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import Engine, EngineError, NoChatError, job_types_for, refusals, requests
from daemon.engines.answers import Patience
from daemon.engines.warm import WarmModels
from daemon.foreign import http
from daemon.machine.clock import Clock, SystemClock
from daemon.runners import Ability, Piece

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 5.0
OVERHEAD_MIB = 256


class StartError(Exception):
    """The model server did not start; the text is for the provider's log."""


class Server(ABC):
    """A running model server; `client` talks to it."""

    client: http.Client
    context_tokens: int = 0
    """The length of its context; 0: it does not report one."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """It has not ended."""

    @property
    def visible_gpus(self) -> Collection[str] | None:
        """The UUIDs of the GPUs that it can see; None: all of the machine's."""
        return None

    async def healthy(self) -> bool:
        """Whether it answers that its model is loaded."""
        if not self.alive:
            return False
        try:
            async with self.client.stream("GET", "/health", timeout=HEALTH_SECONDS) as answer:
                return answer.status_code == http.OK
        except http.FAILURES:
            return False

    @abstractmethod
    async def close(self) -> None:
        """Ends it."""

    @abstractmethod
    async def kill(self) -> None:
        """Kills it."""


def client_of(
    base_url: str, *, headers: Mapping[str, str] | None = None, socket: str | None = None
) -> http.Client:
    """A client for one of our model servers; `socket`: the path of the Unix socket that it listens on."""
    # A prompt may be read for minutes before the first token; the job's own time limit bounds it.
    timeout = http.Timeout(HEALTH_SECONDS, read=None)
    return http.client(base_url=base_url, headers=headers, socket=socket, timeout=timeout)


async def until_healthy(server: Server, every_seconds: float = 0.05) -> None:
    """Waits until it is. Raises StartError when it ends before."""
    while not await server.healthy():
        if not server.alive:
            raise StartError("the model server ended while it started")
        await asyncio.sleep(every_seconds)


S = TypeVar("S", bound=Server)


class ServedEngine(Engine, Generic[S]):
    """One public model, and its server while it is loaded."""

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        needed_mib: Callable[[], int],
        clock: Clock | None = None,
        patience: Patience | None = None,
        warm: WarmModels | None,
        ability: Ability | None = None,
    ) -> None:
        """`slots`: how many jobs at once; `needed_mib`: what the model takes while it is loaded.

        `ability`: what the model is served for, where that is known before a test.
        """
        self._ability = ability
        self._name = name
        self._slots = slots
        self._needed_mib = needed_mib
        self._clock: Clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._warm = warm or WarmModels()
        self._warm.add(self)
        self._busy = 0
        self._loaded_jobs = 0
        self._job_ended = asyncio.Event()
        self._used_at = 0.0
        self._server: S | None = None
        self._starting = asyncio.Lock()

    async def start_server(self) -> S:
        """A new server that is healthy. Raises StartError."""
        raise NotImplementedError

    @property
    def context_tokens(self) -> int:
        """The length of the model's context; 0: unknown."""
        return 0

    @property
    def server(self) -> S | None:
        """The server as it is now."""
        return self._server

    @property
    def slots(self) -> int:
        """How many jobs the server answers at once."""
        return self._slots

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The one model; warm when its server runs."""
        warm = self._server is not None and self._server.alive
        return [
            sessions_pb2.ServedModel(
                name=self._name,
                context_tokens=self.context_tokens,
                warm=warm,
                job_types=job_types_for(self._ability),
            )
        ]

    def learn(self, model: str, ability: Ability) -> None:
        """The model is offered for what it can do."""
        self._ability = ability

    async def self_test(self, model: str = "") -> Ability | None:
        """The model chats, or it embeds. Raises EngineError."""
        try:
            return await super().self_test(model)
        except NoChatError:
            with suppress(EngineError):
                return await self.test_embedding(model)
            raise

    @property
    def is_loaded(self) -> bool:
        """The server runs."""
        return self._server is not None

    @property
    def is_busy(self) -> bool:
        """A job is prepared or answered."""
        return self._busy > 0

    @property
    def used_at(self) -> float:
        """When the last job ended or began."""
        return self._used_at

    def visible_gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """Those that the server can see."""
        return self._server.visible_gpus if self._server is not None else ()

    def sees(self, gpus: Collection[str]) -> bool:
        """Whether its server, if there is one, can see one of these GPUs."""
        server = self._server
        return server is not None and _sees(server, gpus)

    async def unload(self) -> None:
        """Ends the server; the next job starts a new one."""
        async with self._starting:
            if self._server is not None:
                await self._end_server(self._server)

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the parameters and has a healthy server. Raises EngineError."""
        requests.check(offer)
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
                raise refusals.engine_failed()
            async with aclosing(self._answer(server, offer)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._loaded_jobs -= 1
            self._job_ended.set()
            self._end()

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends the server by what cannot be ignored; the next job gets a new one."""
        server, self._server = self._server, None
        if server is not None:
            await server.kill()

    async def close(self) -> None:
        """Ends the server."""
        await self.unload()

    async def _answer(self, server: S, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        pieces = requests.pieces(
            server.client,
            offer,
            served_name=offer.params.model,
            context_tokens=self.context_tokens,
            monotonic=self._clock.monotonic,
            patience=self._patience,
        )
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except EngineError as error:
            # Nobody else uses this server: one that stays busy does not answer any more.
            if error.reason in (jobs_pb2.FAILURE_REASON_ENGINE_FAILED, jobs_pb2.FAILURE_REASON_ENGINE_BUSY):
                cause = type(error.__cause__ or error).__name__
                logger.warning("the model server failed during a job error=%s", cause)
                await self._end_server(server)
            raise

    def _begin(self) -> None:
        self._busy += 1
        self._used_at = self._clock.monotonic()

    def _end(self) -> None:
        self._busy -= 1
        self._used_at = self._clock.monotonic()
        self._warm.freed()

    async def _load(self) -> None:
        async with self._starting:
            server = self._server
            if server is not None and _sees(server, self._warm.kept_gpus()):
                await self._until_no_job_is_on_it()
                await self._end_server(server)
            elif server is not None and not await server.healthy():
                await self._end_server(server)
            if self._server is None:
                async with self._warm.room(self._needed_mib()):
                    self._server = await self._start()
            self._loaded_jobs += 1

    async def _until_no_job_is_on_it(self) -> None:
        # The owner keeps its GPU: what it answers may end there, and what comes now goes elsewhere.
        while self._loaded_jobs:
            self._job_ended.clear()
            await self._job_ended.wait()

    async def _start(self) -> S:
        try:
            return await self.start_server()
        except StartError as error:
            logger.error("the model server did not start model=%s error=%s", self._name, error)
            raise refusals.engine_failed() from None

    async def _end_server(self, server: S) -> None:
        if self._server is server:
            self._server = None
        await server.close()


def _sees(server: Server, gpus: Collection[str]) -> bool:
    visible = server.visible_gpus
    return bool(gpus) if visible is None else not set(gpus).isdisjoint(visible)


def size_and_more_mib(path: Path) -> int:
    """What a model takes: its file, or the files of its folder, and what it computes with."""
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        size_mib = sum(file.stat().st_size for file in files) >> 20
    except OSError:
        return 0  # its start will say what is wrong
    return needed_mib(size_mib)


def needed_mib(size_mib: int) -> int:
    """What a model with files of this size takes: these, and a fifth and more to compute with."""
    return size_mib * 6 // 5 + OVERHEAD_MIB
