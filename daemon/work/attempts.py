"""Gives accepted jobs to runners, one task each, and emits what happens to them as events.

It must not know the server or the session. Whatever a runner does, its task ends with a result or by being
stopped, and never ends the daemon.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dcp.v1 import jobs_pb2, sessions_pb2

from common import tracing
from common.tracing import Span, Traces
from daemon.machine.clock import Clock
from daemon.protocol.events import (
    AttemptEvent,
    AttemptFinished,
    AttemptStarted,
    AttemptWorked,
    AttemptWrote,
    LeaseKey,
    Result,
    failed,
    lease_key,
    released,
    succeeded,
)
from daemon.protocol.records import MAX_OUTPUT_BYTES, Channel
from daemon.runners import Chunk, Log, Logprobs, Picture, Pieces, ResumeOffsets, Runner, RunnerError, WorkDone
from daemon.work.artifacts import ArtifactsError, ArtifactSink, LeaseGoneError
from daemon.work.inputs import InputStore
from daemon.work.lines import Lines
from daemon.work.preparing import Preparing

logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.5
STOP_SECONDS = 2.0
# Tokens are gathered so that each does not cost a message, a write of the journal and a commit: the first
# piece leaves at once, later ones after this time or at this size, and the last ones with the result.
FLUSH_SECONDS = 0.25
# Who asks for a chat reads along. Its chunks are also gathered for as long as the server has one to store.
CHAT_FLUSH_SECONDS = 0.05
FLUSH_BYTES = 64 * 1024

RUNNER_FAILED = failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The provider's engine broke down.")


Emit = Callable[[AttemptEvent], None]


@dataclass
class _Attempt:
    lease: sessions_pb2.Lease
    runner: Runner | None
    model: str
    task: asyncio.Task[None]
    is_stopping: bool = False
    image_digest: str = ""
    writer: _Writer | None = None


class Attempts:
    """The attempts that are at work on this machine."""

    def __init__(
        self,
        runners: Sequence[Runner],
        emit: Emit,
        room: Callable[[sessions_pb2.Lease], Awaitable[None]],
        clock: Clock,
        sink: ArtifactSink | None = None,
        is_leaving: Callable[[Runner], bool] = lambda runner: False,
        traces: Traces = tracing.OFF,
        inputs: InputStore | None = None,
    ) -> None:
        """`emit` is called on the event loop with what happens to attempts; a stopped one does not finish.

        `room` returns when a run may write on. `sink`: where the files go that jobs leave; None: nowhere,
        and their log says so. `is_leaving`: the runner gets only what no other takes. `inputs`: where
        what jobs read comes from; None: jobs with inputs are given back.
        """
        self._runners = runners
        self._emit = emit
        self._room = room
        self._sink = sink
        self._inputs = inputs
        self._is_leaving = is_leaving
        self._traces = traces
        self._clock = clock
        self._attempts: dict[LeaseKey, _Attempt] = {}
        self._killing: set[asyncio.Task[None]] = set()

    def start(self, offer: sessions_pb2.JobOffer) -> None:
        """Begins the offered job."""
        runner = self._runner_for(offer)
        self._begin(offer, runner, lambda: self._result(offer, runner))

    async def adopt(self, offer: sessions_pb2.JobOffer, written: ResumeOffsets) -> bool:
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

    def model_of(self, lease: sessions_pb2.Lease) -> str:
        """The model that an attempt asked for; empty for none, or for an attempt that has ended."""
        attempt = self._attempts.get(lease_key(lease))
        return attempt.model if attempt is not None else ""

    def take_rest(self, lease: sessions_pb2.Lease) -> list[tuple[Channel, bytes]]:
        """What an attempt wrote and did not emit, for its result; it emits nothing of it any more."""
        attempt = self._attempts.get(lease_key(lease))
        return attempt.writer.take_rest() if attempt is not None and attempt.writer is not None else []

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

    def that_see(self, must_yield: Callable[[Collection[str] | None], bool]) -> list[sessions_pb2.Lease]:
        """The leases of the attempts that are to yield, by the GPUs that each can see."""
        return [
            attempt.lease
            for attempt in self._attempts.values()
            if attempt.runner is not None and must_yield(attempt.runner.visible_gpus(attempt.lease))
        ]

    def stop(self, lease: sessions_pb2.Lease) -> None:
        """Ends an attempt without waiting for it; an ended attempt is not an error.

        Its runner is asked; what has not ended after a second and a half is killed.
        """
        attempt = self._attempts.get(lease_key(lease))
        if attempt is None or attempt.is_stopping:
            return
        attempt.is_stopping = True
        attempt.task.cancel()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._kill, attempt)

    def end(self, lease: sessions_pb2.Lease) -> None:
        """Asks an attempt to end, without waiting for it; its files are still handed over."""
        attempt = self._attempts.get(lease_key(lease))
        if attempt is None or attempt.is_stopping or attempt.runner is None:
            return
        ending = asyncio.create_task(self._end_in(attempt.runner, lease))
        self._killing.add(ending)
        ending.add_done_callback(self._killing.discard)

    async def _end_in(self, runner: Runner, lease: sessions_pb2.Lease) -> None:
        try:
            await runner.end(lease)
        except Exception:
            logger.exception("a runner could not end an attempt job_id=%s", lease.job_id)

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
        self._begin(offer, runner, lambda: self._written(offer, pieces))

    def _runner_for(self, offer: sessions_pb2.JobOffer) -> Runner | None:
        """The one that takes the offer and has the most free slots."""
        able = [runner for runner in self._runners if runner.takes(offer)]
        staying = [runner for runner in able if not self._is_leaving(runner)]
        return max(staying or able, key=lambda runner: runner.slots - self._busy(runner), default=None)

    def _busy(self, runner: Runner) -> int:
        return sum(attempt.runner is runner for attempt in self._attempts.values())

    def _begin(
        self, offer: sessions_pb2.JobOffer, runner: Runner | None, work: Callable[[], Awaitable[Result]]
    ) -> None:
        key = lease_key(offer.lease)
        task = asyncio.create_task(self._traced(offer, work))
        self._attempts[key] = _Attempt(offer.lease, runner, offer.params.model, task)
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

    async def _traced(self, offer: sessions_pb2.JobOffer, work: Callable[[], Awaitable[Result]]) -> None:
        """Runs an attempt, below the trace that its offer names."""
        above = tracing.parse(offer.traceparent) if self._traces.is_on else None
        if above is None:
            await self._run(offer.lease, work)
            return
        with self._traces.span("work", tracing.CONSUMER, above):
            tracing.note("dcp.job_id", offer.lease.job_id)
            tracing.note("dcp.lease_epoch", offer.lease.lease_epoch)
            await self._run(offer.lease, work)

    async def _run(self, lease: sessions_pb2.Lease, work: Callable[[], Awaitable[Result]]) -> None:
        try:
            await self._until_stopped_ones_end()
            result = await work()
        except RunnerError as error:
            result = (released if error.gives_back else failed)(error.reason, error.message)
        except Exception:
            logger.exception("a runner failed unexpectedly job_id=%s", lease.job_id)
            result = RUNNER_FAILED
        if (span := tracing.present()) is not None:
            _describe(span, result)
        image_digest = self._attempts[lease_key(lease)].image_digest
        self._emit(AttemptFinished(lease, dataclasses.replace(result, image_digest=image_digest)))

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
        with self._traces.below("load" if offer.params.model else "pull"):
            await self._prepare(offer, runner)
        self._emit(AttemptStarted(offer.lease))
        return await self._written(offer, runner.run(offer))

    async def _prepare(self, offer: sessions_pb2.JobOffer, runner: Runner) -> None:
        """Gets what the job reads, then makes all ready; the meter does not run yet."""
        report = Preparing(offer.lease, self._emit, self._clock)
        if not offer.inputs:
            runner.watch_preparation(offer.lease, report)
            await runner.prepare(offer)
            return
        if self._inputs is None:
            text = "This provider has no place for inputs."
            raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text, gives_back=True)
        async with self._inputs.held(offer, report) as given:
            runner.take_inputs(offer.lease, given)
            runner.watch_preparation(offer.lease, report)
            await runner.prepare(offer)

    async def _written(self, offer: sessions_pb2.JobOffer, pieces: Pieces) -> Result:
        lease = offer.lease
        usage, content_type = jobs_pb2.Usage(), ""
        logprobs: tuple[sessions_pb2.TokenLogprob, ...] = ()
        attempt = self._attempts[lease_key(lease)]
        flush_seconds = CHAT_FLUSH_SECONDS if offer.chat_request else FLUSH_SECONDS
        attempt.writer = writer = _Writer(lease, self._emit, self._clock, flush_seconds)
        if attempt.runner is not None:
            attempt.image_digest = attempt.runner.image_digest(lease)
        with self._traces.below("run"):
            async with aclosing(pieces):
                async for piece in pieces:
                    match piece:
                        case str() | bytes() | Chunk():
                            writer.write(Channel.OUTPUT, piece)
                        case Picture():
                            _check_fits(piece, offer.output_limit_bytes or MAX_OUTPUT_BYTES)
                            content_type = piece.content_type
                            writer.write(Channel.OUTPUT, piece.data)
                        case Log(data):
                            writer.write(Channel.LOG, data)
                        case WorkDone():
                            self._emit(AttemptWorked(lease))
                            await self._hand_over(lease, piece, writer)
                        case Logprobs(logprobs):
                            pass
                        case _:
                            usage = piece
                    await self._room(lease)
        return succeeded(usage, content_type, logprobs)

    async def _hand_over(self, lease: sessions_pb2.Lease, left: WorkDone, writer: _Writer) -> None:
        if not left.artifacts:
            return
        if self._sink is not None:
            try:
                with self._traces.below("upload"):
                    await self._sink.upload(lease, left.artifacts)
            except ArtifactsError as error:
                raise RunnerError(error.reason, error.message) from None
            except LeaseGoneError:
                # The server says so on the stream, too; this result is dropped.
                raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "The lease is gone.") from None
            return
        for artifact in left.artifacts:
            note = f"[dcp] not kept: {artifact.name} ({artifact.size_bytes} bytes)\n"
            writer.write(Channel.LOG, note.encode())


def _describe(span: Span, result: Result) -> None:
    """Says in a span how an attempt ended."""
    span.attributes["dcp.outcome"] = (
        sessions_pb2.RunOutcome.Name(result.outcome).removeprefix("RUN_OUTCOME_").lower()
    )
    if result.failure_reason:
        reason = jobs_pb2.FailureReason.Name(result.failure_reason)
        span.attributes["error.type"] = reason.removeprefix("FAILURE_REASON_")
    span.is_error = result.outcome == sessions_pb2.RUN_OUTCOME_FAILED


def _check_fits(picture: Picture, limit_bytes: int) -> None:
    # Text over the limit is truncated; a truncated image would be useless, so it fails.
    if len(picture.data) > limit_bytes:
        raise RunnerError(
            jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE,
            f"The picture has {len(picture.data)} bytes, and a job may keep {limit_bytes}: "
            "ask for a smaller params.image_size.",
        )


class Batcher:
    """Gathers pieces of text, as UTF-8, and of bytes into chunks."""

    def __init__(self, flush_seconds: float = FLUSH_SECONDS) -> None:
        """`flush_seconds`: how long pieces are gathered after a chunk."""
        self._flush_seconds = flush_seconds
        self._buffer = bytearray()
        self._lines = Lines()
        self._flushed_at: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether a chunk is due now, however soon it comes."""
        return len(self._buffer) >= FLUSH_BYTES

    def add(self, piece: str | bytes | Chunk) -> None:
        """Takes a piece."""
        if isinstance(piece, Chunk):
            self._buffer += self._lines.add(piece.values)
            return
        # A lone surrogate cannot travel as UTF-8, and one must not end a job.
        self._buffer += piece.encode(errors="replace") if isinstance(piece, str) else piece

    def due_seconds(self, now: float) -> float | None:
        """How long what waits may still be gathered; 0 for the first chunk; None if nothing waits."""
        if not self._buffer and not self._lines.is_waiting:
            return None
        return 0.0 if self._flushed_at is None else max(0.0, self._flushed_at + self._flush_seconds - now)

    def flush(self, now: float) -> bytes:
        """Everything that waits, as one chunk."""
        chunk = bytes(self._buffer + self._lines.rest())
        self._buffer.clear()
        self._flushed_at = now
        return chunk


class _Writer:
    """Emits an attempt's output and log in chunks; a chunk never waits for the next piece."""

    def __init__(self, lease: sessions_pb2.Lease, emit: Emit, clock: Clock, flush_seconds: float) -> None:
        self._lease = lease
        self._emit = emit
        self._clock = clock
        self._batchers = {channel: Batcher(flush_seconds) for channel in Channel}
        self._timers: dict[Channel, asyncio.TimerHandle] = {}

    def write(self, channel: Channel, data: str | bytes | Chunk) -> None:
        batcher = self._batchers[channel]
        batcher.add(data)
        if batcher.is_full:
            self._flush(channel)
        elif channel not in self._timers:
            # Also a chunk that is due now leaves by the event loop: the end of a short run may take it along.
            due = batcher.due_seconds(self._clock.monotonic())
            if due is not None:
                self._timers[channel] = asyncio.get_running_loop().call_later(due, self._flush, channel)

    def take_rest(self) -> list[tuple[Channel, bytes]]:
        """What waits to be emitted, which then is not: its timers find nothing."""
        now = self._clock.monotonic()
        return [(channel, batcher.flush(now)) for channel, batcher in self._batchers.items()]

    def _flush(self, channel: Channel) -> None:
        if (timer := self._timers.pop(channel, None)) is not None:
            timer.cancel()
        if data := self._batchers[channel].flush(self._clock.monotonic()):
            self._emit(AttemptWrote(self._lease, channel, data))
