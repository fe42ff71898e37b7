"""Runs accepted jobs on engines, one task each, and tells what happens to them.

It must not know the server or the protocol: a listener hears of starts, output
and ends. Whatever an engine does, its task ends with a result or by being
stopped, and never ends the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.clock import Clock
from daemon.engines import Engine, EngineError
from daemon.outputs import FLUSH_SECONDS, Batcher
from daemon.runs import LeaseKey, Result, failed, lease_key, succeeded

logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.5
STOP_SECONDS = 2.0

Pieces = AsyncGenerator[str | jobs_pb2.Usage, None]


class Listener(Protocol):
    """Who hears of attempts; called on the event loop."""

    def started(self, lease: sessions_pb2.Lease) -> None:
        """The run itself has begun."""
        ...

    def stopped(self, lease: sessions_pb2.Lease) -> None:
        """What ran has ended, and its files go to the server before `finished`: that time is not paid."""
        ...

    def output(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """The run wrote output."""
        ...

    async def room(self, lease: sessions_pb2.Lease) -> None:
        """Returns when the run may write on."""
        ...

    def finished(self, lease: sessions_pb2.Lease, result: Result) -> None:
        """The run has ended by itself; not called for a stopped one."""
        ...


@dataclass
class _Attempt:
    lease: sessions_pb2.Lease
    engine: Engine | None
    task: asyncio.Task[None]
    is_stopping: bool = False


class Attempts:
    """The attempts that are at work on this machine."""

    def __init__(self, engines: Sequence[Engine], listener: Listener, clock: Clock) -> None:
        self._engines = engines
        self._listener = listener
        self._clock = clock
        self._attempts: dict[LeaseKey, _Attempt] = {}
        self._killing: set[asyncio.Task[None]] = set()

    def start(self, offer: sessions_pb2.JobOffer) -> None:
        """Begins the offered job."""
        engine = self._engine_for(offer.params.model)
        self._begin(offer.lease, engine, lambda: self._result(offer, engine))

    async def adopt(self, offer: sessions_pb2.JobOffer, written_bytes: int) -> bool:
        """Goes on with what an earlier daemon began and an engine still runs; False: none does."""
        for engine in self._engines:
            try:
                pieces = await engine.adopt(offer, written_bytes)
            except Exception:
                logger.exception("an engine could not say what it runs job_id=%s", offer.lease.job_id)
                continue
            if pieces is not None:
                self._go_on(offer.lease, engine, pieces)
                return True
        return False

    def stop(self, lease: sessions_pb2.Lease) -> None:
        """Ends an attempt without waiting for it; one that has ended is no error.

        Its engine is asked; what has not ended after a second and a half is killed.
        """
        attempt = self._attempts.get(lease_key(lease))
        if attempt is None or attempt.is_stopping:
            return
        attempt.is_stopping = True
        attempt.task.cancel()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._kill, attempt)

    async def close(self) -> None:
        """Ends every attempt, waiting at most two seconds for them."""
        attempts = list(self._attempts.values())
        for attempt in attempts:
            self.stop(attempt.lease)
        if attempts:
            await asyncio.wait([attempt.task for attempt in attempts], timeout=STOP_SECONDS)
        if self._killing:
            await asyncio.wait(self._killing, timeout=STOP_SECONDS)

    def _go_on(self, lease: sessions_pb2.Lease, engine: Engine, pieces: Pieces) -> None:
        self._begin(lease, engine, lambda: self._written(lease, pieces))

    def _begin(
        self, lease: sessions_pb2.Lease, engine: Engine | None, work: Callable[[], Awaitable[Result]]
    ) -> None:
        key = lease_key(lease)
        task = asyncio.create_task(self._run(lease, work))
        self._attempts[key] = _Attempt(lease, engine, task)
        task.add_done_callback(lambda _: self._attempts.pop(key, None))

    def _kill(self, attempt: _Attempt) -> None:
        if attempt.task.done():
            return
        logger.warning("a stopped attempt has not ended; killing it job_id=%s", attempt.lease.job_id)
        if attempt.engine is not None:
            killing = asyncio.create_task(self._kill_in(attempt.engine, attempt.lease))
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)

    async def _kill_in(self, engine: Engine, lease: sessions_pb2.Lease) -> None:
        try:
            await engine.kill(lease)
        except Exception:
            logger.exception("an engine could not kill an attempt job_id=%s", lease.job_id)

    async def _run(self, lease: sessions_pb2.Lease, work: Callable[[], Awaitable[Result]]) -> None:
        try:
            await self._until_stopped_ones_end()
            result = await work()
        except EngineError as error:
            result = failed(error.reason, error.message)
        except Exception:
            logger.exception("an engine failed unexpectedly job_id=%s", lease.job_id)
            result = failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's engine broke down.")
        self._listener.finished(lease, result)

    async def _until_stopped_ones_end(self) -> None:
        # What kills a stubborn attempt may take its model server with it, and
        # the next attempt must not be on it.
        stopping = [attempt.task for attempt in self._attempts.values() if attempt.is_stopping]
        if stopping or self._killing:
            await asyncio.wait([*stopping, *self._killing], timeout=STOP_SECONDS)

    async def _result(self, offer: sessions_pb2.JobOffer, engine: Engine | None) -> Result:
        if engine is None:
            text = f"The model {offer.params.model} is not served here."
            raise EngineError(jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED, text)
        await engine.prepare(offer)
        self._listener.started(offer.lease)
        return await self._written(offer.lease, engine.generate(offer))

    async def _written(self, lease: sessions_pb2.Lease, pieces: Pieces) -> Result:
        writer = _Writer(lease, self._listener, self._clock)
        usage = jobs_pb2.Usage()
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, str):
                        writer.write(piece)
                        await self._listener.room(lease)
                    else:
                        usage = piece
        finally:
            # Also on the way to a failure: what was written, was written.
            writer.flush()
        return succeeded(usage)

    def _engine_for(self, model: str) -> Engine | None:
        for engine in self._engines:
            if any(served.name == model for served in engine.models()):
                return engine
        return None


class _Writer:
    """Passes an attempt's text on in batches; a batch never waits for the next piece."""

    def __init__(self, lease: sessions_pb2.Lease, listener: Listener, clock: Clock) -> None:
        self._lease = lease
        self._listener = listener
        self._clock = clock
        self._batcher = Batcher()
        self._timer: asyncio.TimerHandle | None = None

    def write(self, text: str) -> None:
        self._emit(self._batcher.add(text, self._clock.monotonic()))
        if self._batcher.pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._emit(self._batcher.flush(self._clock.monotonic()))

    def _emit(self, data: bytes) -> None:
        if data:
            self._listener.output(self._lease, data)
