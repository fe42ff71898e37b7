"""Owns what one accepted lease has to tell the server, until the server knows it all.

A run is a transcript: JobStarted, the numbered pieces of output and log, then
JobFinished. It is kept until acknowledged and can be rewound, so the same story
is told again on a new stream. It must not know streams, timers or engines.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from dcp.v1 import jobs_pb2, sessions_pb2
from google.protobuf.duration_pb2 import Duration

MAX_CHUNK_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 2 * 1024 * 1024
MAX_LOG_BYTES = 256 * 1024
MAX_MESSAGE_CHARACTERS = 2000

LeaseKey = tuple[str, int, bytes]


def lease_key(lease: sessions_pb2.Lease) -> LeaseKey:
    """The whole lease as a key: one that differs in any part is another lease."""
    return lease.job_id, lease.lease_epoch, lease.lease_secret


class Phase(Enum):
    """Where a run is in its life."""

    PREPARING = auto()
    RUNNING = auto()
    FINISHED = auto()


class Step(Enum):
    """What can happen to a run."""

    START = auto()
    WRITE = auto()
    FINISH = auto()


# A step that is not in the table is late or repeated: it changes nothing.
NEXT: dict[Phase, dict[Step, Phase]] = {
    Phase.PREPARING: {Step.START: Phase.RUNNING, Step.FINISH: Phase.FINISHED},
    Phase.RUNNING: {Step.WRITE: Phase.RUNNING, Step.FINISH: Phase.FINISHED},
    Phase.FINISHED: {},
}


@dataclass(frozen=True)
class Result:
    """How an attempt ended."""

    outcome: sessions_pb2.RunOutcome.ValueType
    failure_reason: jobs_pb2.FailureReason.ValueType = jobs_pb2.FAILURE_REASON_UNSPECIFIED
    failure_message: str = ""
    usage: jobs_pb2.Usage = field(default_factory=jobs_pb2.Usage)


def succeeded(usage: jobs_pb2.Usage) -> Result:
    """The result of an attempt that did its work."""
    return Result(sessions_pb2.RUN_OUTCOME_SUCCEEDED, usage=usage)


def failed(reason: jobs_pb2.FailureReason.ValueType, message: str) -> Result:
    """The result of an attempt that could not; `message` is for the renter to read."""
    return Result(sessions_pb2.RUN_OUTCOME_FAILED, reason, message)


class Pieces:
    """A numbered sequence of pieces, from 1, kept until acknowledged."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: deque[bytes] = deque()
        self._acknowledged = 0
        self._sent = 0
        self._total_bytes = 0

    @property
    def last(self) -> int:
        """The number of the last piece; 0: there is none."""
        return self._acknowledged + len(self._kept)

    @property
    def acknowledged(self) -> int:
        """The number of the last piece that the server has stored."""
        return self._acknowledged

    @property
    def in_flight(self) -> int:
        """How many pieces are sent and not acknowledged."""
        return self._sent - self._acknowledged

    def add(self, data: bytes) -> bool:
        """Appends `data` in pieces of at most 64 KiB; False, and nothing added, when it passes the limit."""
        if self._total_bytes + len(data) > self._limit_bytes:
            return False
        self._total_bytes += len(data)
        self._kept.extend(data[at : at + MAX_CHUNK_BYTES] for at in range(0, len(data), MAX_CHUNK_BYTES))
        return True

    def has_unsent(self) -> bool:
        """Whether a piece waits to be sent."""
        return self._sent < self.last

    def take_unsent(self) -> tuple[int, bytes]:
        """The next piece to send and its number; it counts as sent from here on."""
        data = self._kept[self._sent - self._acknowledged]
        self._sent += 1
        return self._sent, data

    def acknowledge(self, through: int) -> bool:
        """Forgets the pieces up to `through`; False when there is no such piece yet."""
        if through > self.last:
            return False
        while self._acknowledged < through:
            self._kept.popleft()
            self._acknowledged += 1
        self._sent = max(self._sent, self._acknowledged)
        return True

    def rewind(self) -> None:
        """Everything that is not acknowledged is sent again."""
        self._sent = self._acknowledged


class Run:
    """One accepted lease and its transcript."""

    def __init__(self, offer: sessions_pb2.JobOffer, now: float) -> None:
        self.lease = offer.lease
        self.attempt = offer.attempt
        self.limit_seconds = offer.run_limit.ToTimedelta().total_seconds()
        self.phase = Phase.PREPARING
        self.renewed_at = now
        self.progress_at = now
        self.output = Pieces(MAX_OUTPUT_BYTES)
        self.log = Pieces(MAX_LOG_BYTES)
        self._started_at: float | None = None
        self._finished: sessions_pb2.JobFinished | None = None
        self._flowing = True
        self._started_sent = False
        self._finished_sent = False

    def take(self, step: Step) -> bool:
        """Moves along the table; False, and nothing changed, when the step is not in it."""
        following = NEXT[self.phase].get(step)
        if following is None:
            return False
        self.phase = following
        return True

    @property
    def finished(self) -> bool:
        """It has a result; only telling it is left."""
        return self.phase is Phase.FINISHED

    @property
    def told(self) -> bool:
        """The present stream has carried JobFinished."""
        return self._finished_sent

    @property
    def in_flight(self) -> int:
        """How many pieces are sent and not acknowledged."""
        return self.output.in_flight + self.log.in_flight

    @property
    def waiting(self) -> bool:
        """Something was sent that the server has not confirmed."""
        unconfirmed_start = self._started_sent and not self._start_confirmed
        return not self._flowing or self.in_flight > 0 or self._finished_sent or unconfirmed_start

    @property
    def _start_confirmed(self) -> bool:
        # JobStarted has no acknowledgement of its own; stored output implies it.
        return self.output.acknowledged > 0

    def start(self, now: float) -> bool:
        """The meter runs from here; False when it did already or the run has ended."""
        if not self.take(Step.START):
            return False
        self._started_at = now
        return True

    def run_seconds(self, now: float) -> float:
        """How long it has run: 0 before the start, never above the limit."""
        if self._started_at is None:
            return 0.0
        return min(max(0.0, now - self._started_at), self.limit_seconds)

    def reached_limit(self, now: float) -> bool:
        """Whether a run that has not ended has used up its time."""
        return self.phase is Phase.RUNNING and self.run_seconds(now) >= self.limit_seconds

    def finish(self, result: Result, now: float) -> bool:
        """Keeps the result; False when there is one already."""
        if not self.take(Step.FINISH):
            return False
        run_time = Duration()
        run_time.FromMilliseconds(round(self.run_seconds(now) * 1000))
        self._finished = sessions_pb2.JobFinished(
            lease=self.lease,
            outcome=result.outcome,
            failure_reason=result.failure_reason,
            failure_message=result.failure_message[:MAX_MESSAGE_CHARACTERS],
            run_time=run_time,
            last_output_seq=self.output.last,
            usage=result.usage,
        )
        return True

    def acknowledge(self, output_through: int, log_through: int, now: float) -> bool:
        """Forgets what is stored; False when the server confirms what it cannot have."""
        self.progress_at = now
        stored_output = self.output.acknowledge(output_through)
        return self.log.acknowledge(log_through) and stored_output

    def pause(self) -> None:
        """Sends nothing until rewound: the stream is gone, or the server has not yet said KEEP."""
        self.rewind()
        self._flowing = False

    def resume(self) -> None:
        """Goes on sending from where it was paused."""
        self._flowing = True

    def rewind(self) -> None:
        """Tells everything again that is not confirmed."""
        self.output.rewind()
        self.log.rewind()
        self._flowing = True
        self._started_sent = False
        self._finished_sent = False

    def next_message(self, credit: int, now: float) -> sessions_pb2.DaemonMessage | None:
        """What is to be sent next, in the order of the transcript; chunks only while there is credit."""
        message = self._next_message(credit) if self._flowing else None
        if message is not None:
            self.progress_at = now
        return message

    def _next_message(self, credit: int) -> sessions_pb2.DaemonMessage | None:
        if self._started_at is not None and not self._started_sent:
            self._started_sent = True
            if not self._start_confirmed:
                return sessions_pb2.DaemonMessage(job_started=sessions_pb2.JobStarted(lease=self.lease))
        if self.output.has_unsent() or self.log.has_unsent():
            return self._next_chunk() if credit > 0 else None
        if self._finished is not None and not self._finished_sent:
            self._finished_sent = True
            return sessions_pb2.DaemonMessage(job_finished=self._finished)
        return None

    def _next_chunk(self) -> sessions_pb2.DaemonMessage:
        if self.output.has_unsent():
            seq, data = self.output.take_unsent()
            chunk = sessions_pb2.OutputChunk(lease=self.lease, seq=seq, data=data)
            return sessions_pb2.DaemonMessage(output_chunk=chunk)
        seq, data = self.log.take_unsent()
        return sessions_pb2.DaemonMessage(
            log_chunk=sessions_pb2.LogChunk(lease=self.lease, seq=seq, data=data)
        )
