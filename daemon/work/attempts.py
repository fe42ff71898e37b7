"""Gives accepted jobs to runners, one task each, and tells what happens to them.

It must not know the server or the protocol: a listener hears of starts, output,
log and ends. Whatever a runner does, its task ends with a result or by being
stopped, and never ends the daemon.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.machine.clock import Clock
from daemon.protocol.records import MAX_OUTPUT_BYTES
from daemon.protocol.runs import LeaseKey, Result, failed, lease_key, succeeded
from daemon.runners import Left, Log, Picture, Pieces, Runner, RunnerError, Written
from daemon.work.artifacts import ArtifactsError, ArtifactSink, LeaseGoneError
from daemon.work.outputs import FLUSH_SECONDS, Batcher

logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.5
STOP_SECONDS = 2.0

RUNNER_FAILED = failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's engine broke down.")


class Listener(Protocol):
    """Who hears of attempts; called on the event loop."""

    def started(self, lease: sessions_pb2.Lease) -> None:
        """The run itself has begun."""
        ...

    def output(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """The run wrote output."""
        ...

    def log(self, lease: sessions_pb2.Lease, data: bytes) -> None:
        """The run wrote log."""
        ...

    def worked(self, lease: sessions_pb2.Lease) -> None:
        """The work is over: what follows until the end is not metered."""
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
    runner: Runner | None
    task: asyncio.Task[None]
    is_stopping: bool = False
    image_digest: str = ""


class Attempts:
    """The attempts that are at work on this machine."""

    def __init__(
        self, runners: Sequence[Runner], listener: Listener, clock: Clock, sink: ArtifactSink | None = None
    ) -> None:
        """`sink`: where the files go that jobs leave; None: nowhere, and their log says so."""
        self._runners = runners
        self._listener = listener
        self._sink = sink
        self._clock = clock
        self._attempts: dict[LeaseKey, _Attempt] = {}
        self._killing: set[asyncio.Task[None]] = set()

    def start(self, offer: sessions_pb2.JobOffer) -> None:
        """Begins the offered job."""
        runner = self._runner_for(offer)
        self._begin(offer.lease, runner, lambda: self._result(offer, runner))

    async def adopt(self, offer: sessions_pb2.JobOffer, written: Written) -> bool:
        """Goes on with what an earlier daemon began and a runner still runs; False: none does."""
        for runner in self._runners:
            try:
                pieces = await runner.adopt(offer, written)
            except Exception:
                logger.exception("a runner could not say what it runs job_id=%s", offer.lease.job_id)
                continue
            if pieces is not None:
                self._go_on(offer, runner, pieces)
                return True
        return False

    def runner_of(self, lease: sessions_pb2.Lease) -> Runner | None:
        """The runner that an attempt is on; None for one that has ended."""
        attempt = self._attempts.get(lease_key(lease))
        return attempt.runner if attempt is not None else None

    def is_busy(self, runner: Runner) -> bool:
        """Whether an attempt is on this runner."""
        return self._busy(runner) > 0

    def of_gpus(self, is_lost: Callable[[Collection[str] | None], bool]) -> list[sessions_pb2.Lease]:
        """The leases of the attempts whose GPUs are lost."""
        return [
            attempt.lease
            for attempt in self._attempts.values()
            if attempt.runner is not None and is_lost(attempt.runner.gpus(attempt.lease))
        ]

    def stop(self, lease: sessions_pb2.Lease) -> None:
        """Ends an attempt without waiting for it; one that has ended is no error.

        Its runner is asked; what has not ended after a second and a half is killed.
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

    def _go_on(self, offer: sessions_pb2.JobOffer, runner: Runner, pieces: Pieces) -> None:
        self._begin(offer.lease, runner, lambda: self._written(offer, pieces))

    def _runner_for(self, offer: sessions_pb2.JobOffer) -> Runner | None:
        """The one that takes the offer and has the most free slots."""
        able = [runner for runner in self._runners if runner.takes(offer)]
        return max(able, key=lambda runner: runner.slots - self._busy(runner), default=None)

    def _busy(self, runner: Runner) -> int:
        return sum(attempt.runner is runner for attempt in self._attempts.values())

    def _begin(
        self, lease: sessions_pb2.Lease, runner: Runner | None, work: Callable[[], Awaitable[Result]]
    ) -> None:
        key = lease_key(lease)
        task = asyncio.create_task(self._run(lease, work))
        self._attempts[key] = _Attempt(lease, runner, task)
        task.add_done_callback(lambda _: self._attempts.pop(key, None))

    def _kill(self, attempt: _Attempt) -> None:
        if attempt.task.done():
            return
        logger.warning("a stopped attempt has not ended; killing it job_id=%s", attempt.lease.job_id)
        if attempt.runner is not None:
            killing = asyncio.create_task(self._kill_in(attempt.runner, attempt.lease))
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)

    async def _kill_in(self, runner: Runner, lease: sessions_pb2.Lease) -> None:
        try:
            await runner.kill(lease)
        except Exception:
            logger.exception("a runner could not kill an attempt job_id=%s", lease.job_id)

    async def _run(self, lease: sessions_pb2.Lease, work: Callable[[], Awaitable[Result]]) -> None:
        try:
            await self._until_stopped_ones_end()
            result = await work()
        except RunnerError as error:
            result = failed(error.reason, error.message)
        except Exception:
            logger.exception("a runner failed unexpectedly job_id=%s", lease.job_id)
            result = RUNNER_FAILED
        image_digest = self._attempts[lease_key(lease)].image_digest
        self._listener.finished(lease, dataclasses.replace(result, image_digest=image_digest))

    async def _until_stopped_ones_end(self) -> None:
        # What kills a stubborn attempt may take its model server with it, and
        # the next attempt must not be on it.
        stopping = [attempt.task for attempt in self._attempts.values() if attempt.is_stopping]
        if stopping or self._killing:
            await asyncio.wait([*stopping, *self._killing], timeout=STOP_SECONDS)

    async def _result(self, offer: sessions_pb2.JobOffer, runner: Runner | None) -> Result:
        if runner is None:
            text = f"The model {offer.params.model} is not served here."
            raise RunnerError(jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED, text)
        await runner.prepare(offer)
        self._listener.started(offer.lease)
        return await self._written(offer, runner.run(offer))

    async def _written(self, offer: sessions_pb2.JobOffer, pieces: Pieces) -> Result:
        lease = offer.lease
        writer = _Writer(lease, self._listener, self._clock)
        usage, content_type = jobs_pb2.Usage(), ""
        attempt = self._attempts[lease_key(lease)]
        if attempt.runner is not None:
            attempt.image_digest = attempt.runner.image_digest(lease)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    match piece:
                        case str() | bytes():
                            writer.write(piece)
                        case Picture():
                            _check_fits(piece, offer.output_limit_bytes or MAX_OUTPUT_BYTES)
                            content_type = piece.content_type
                            self._listener.output(lease, piece.data)
                        case Log(data):
                            writer.log(data)
                        case Left():
                            self._listener.worked(lease)
                            await self._hand_over(lease, piece, writer)
                        case _:
                            usage = piece
                    await self._listener.room(lease)
        finally:
            # Also on the way to a failure: what was written, was written.
            writer.flush()
        return succeeded(usage, content_type)

    async def _hand_over(self, lease: sessions_pb2.Lease, left: Left, writer: _Writer) -> None:
        if not left.artifacts:
            return
        if self._sink is not None:
            try:
                await self._sink.upload(lease, left.artifacts)
            except ArtifactsError as error:
                raise RunnerError(error.reason, error.message) from None
            except LeaseGoneError:
                # The server says so on the stream, too; nobody hears this result.
                raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The lease is gone.") from None
            return
        for artifact in left.artifacts:
            note = f"[dcp] not kept: {artifact.name} ({artifact.size_bytes} bytes)\n"
            writer.log(note.encode())


def _check_fits(picture: Picture, limit_bytes: int) -> None:
    # Text is cut where a job may keep no more; a part of a picture is none.
    if len(picture.data) > limit_bytes:
        raise RunnerError(
            jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE,
            f"The picture has {len(picture.data)} bytes, and a job may keep {limit_bytes}: "
            "ask for a smaller params.image_size.",
        )


class _Writer:
    """Passes an attempt's output and log on in batches; a batch never waits for the next piece."""

    def __init__(self, lease: sessions_pb2.Lease, listener: Listener, clock: Clock) -> None:
        self._lease = lease
        self._listener = listener
        self._clock = clock
        self._output = Batcher()
        self._log = Batcher()
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: str | bytes) -> None:
        self._emit(self._output.add(data, self._clock.monotonic()))
        self._flush_soon()

    def log(self, data: bytes) -> None:
        self._emit_log(self._log.add(data, self._clock.monotonic()))
        self._flush_soon()

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        self._emit(self._output.flush(now))
        self._emit_log(self._log.flush(now))

    def _flush_soon(self) -> None:
        if (self._output.pending or self._log.pending) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def _emit(self, data: bytes) -> None:
        if data:
            self._listener.output(self._lease, data)

    def _emit_log(self, data: bytes) -> None:
        if data:
            self._listener.log(self._lease, data)
