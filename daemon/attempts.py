"""Runs accepted jobs on engines, one task each, and tells what happens to them.

It must not know the server or the protocol: a listener hears of starts, output
and ends. Whatever an engine does, its task ends with a result or by being
stopped, and never ends the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.clock import Clock
from daemon.engines import Engine, EngineError
from daemon.outputs import FLUSH_SECONDS, Batcher
from daemon.runs import LeaseKey, Result, failed, lease_key, succeeded

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0


class Listener(Protocol):
    """Who hears of attempts; called on the event loop."""

    def started(self, lease: sessions_pb2.Lease) -> None:
        """The run itself has begun."""
        ...

    def output(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """The run wrote output."""
        ...

    def finished(self, lease: sessions_pb2.Lease, result: Result) -> None:
        """The run has ended by itself; not called for a stopped one."""
        ...


class Attempts:
    """The attempts that are at work on this machine."""

    def __init__(self, engines: Sequence[Engine], listener: Listener, clock: Clock) -> None:
        self._engines = engines
        self._listener = listener
        self._clock = clock
        self._tasks: dict[LeaseKey, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def start(self, offer: sessions_pb2.JobOffer) -> None:
        """Begins the offered job."""
        key = lease_key(offer.lease)
        task = asyncio.create_task(self._run(offer))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    def stop(self, lease: sessions_pb2.Lease) -> None:
        """Ends an attempt without waiting for it; one that has ended is no error."""
        task = self._tasks.get(lease_key(lease))
        if task is None:
            return
        task.cancel()
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._complain, task, lease.job_id)

    async def close(self) -> None:
        """Ends every attempt, waiting at most two seconds for them."""
        tasks = [*self._tasks.values(), *self._stopping]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def _complain(self, task: asyncio.Task[None], job_id: str) -> None:
        if not task.done():
            logger.warning("a stopped attempt has not ended job_id=%s seconds=%.1f", job_id, STOP_SECONDS)

    async def _run(self, offer: sessions_pb2.JobOffer) -> None:
        try:
            result = await self._result(offer)
        except EngineError as error:
            result = failed(error.reason, error.message)
        except Exception:
            logger.exception("an engine failed unexpectedly job_id=%s", offer.lease.job_id)
            result = failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's engine broke down.")
        self._listener.finished(offer.lease, result)

    async def _result(self, offer: sessions_pb2.JobOffer) -> Result:
        engine = self._engine_for(offer.params.model)
        await engine.prepare(offer)
        self._listener.started(offer.lease)
        writer = _Writer(offer.lease, self._listener, self._clock)
        usage = jobs_pb2.Usage()
        try:
            async with aclosing(engine.generate(offer)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        writer.write(piece)
                    else:
                        usage = piece
        finally:
            # Also on the way to a failure: what was written, was written.
            writer.flush()
        return succeeded(usage)

    def _engine_for(self, model: str) -> Engine:
        for engine in self._engines:
            if any(served.name == model for served in engine.models()):
                return engine
        raise EngineError(jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED, f"The model {model} is not served here.")


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
