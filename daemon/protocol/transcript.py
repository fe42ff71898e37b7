"""Owns what is sent to the server about one accepted lease, until the server has all of it.

A transcript is JobStarted, the numbered pieces of output and log, then
JobFinished. Nothing of it is sent before it is saved in the journal, but for the pieces of a
chat: its run ends with its process in any case, so they are saved with its result. It is kept
until acknowledged and can be rewound, so that it is repeated unchanged on a new
stream. It must not know streams, timers or engines.
"""

from __future__ import annotations

from enum import Enum, auto

from dcp.v1 import sessions_pb2
from google.protobuf.duration_pb2 import Duration

from daemon.protocol.events import Result
from daemon.protocol.pieces import Pieces
from daemon.protocol.records import (
    Accepted,
    Channel,
    Chunk,
    Finished,
    History,
    Reading,
    Record,
    Started,
    Stored,
    accepted,
)

MAX_MESSAGE_CHARACTERS = 2000
MAX_DIGEST_CHARACTERS = 200
START_TICKS = 2
"""How many ticks an acceptance waits at most for the start, so that both are saved and sent as one."""


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


class Transcript:
    """One accepted lease and its transcript."""

    def __init__(self, history: History, now: float) -> None:
        """A run as the journal has it; `Transcript.of` creates one that the journal does not have yet."""
        offer = history.offer
        self.offer = offer
        self.lease = offer.lease
        self.attempt = offer.attempt
        self.limit_ms = offer.run_limit.ToMilliseconds()
        self.lost_after_seconds = offer.lost_after.ToTimedelta().total_seconds()
        self.phase = Phase.RUNNING if history.started else Phase.PREPARING
        self.renewed_at = self.progress_at = now
        self.channels = history.channels
        self.is_accepted = True
        """Its acceptance is saved."""
        self._ran_ms = history.run_ms
        self._running_since: float | None = None
        self._was_started = self._start_is_saved = history.started
        self._finished = history.finished
        self._finish_is_saved = history.finished is not None
        if self._finish_is_saved:
            self.phase = Phase.FINISHED
        self._unsaved: list[Record] = []
        self._saving: tuple[Record, ...] = ()
        self._saved_stored = self._stored()
        self._is_unsaveable = False
        self._flowing = True
        self._started_sent = False
        self._finished_sent = False
        self.is_ending = False
        """The server cancelled it, and waits for the files that it has written."""
        self.has_begun = False
        """It was begun before its acceptance was saved."""
        self._ticks_to_wait = 0

    @classmethod
    def of(cls, offer: sessions_pb2.JobOffer, now: float, *, starts_soon: bool = False) -> Transcript:
        """A run that begins with this offer.

        `starts_soon`: it is begun now, and its acceptance waits for its start.
        """
        run = cls(History(offer), now)
        run._unsaved.append(accepted(offer))
        run.is_accepted = False
        run.has_begun = starts_soon
        run._ticks_to_wait = START_TICKS if starts_soon else 0
        for pieces in run.channels.values():
            pieces.need_saving = not offer.chat_request
        return run

    def take(self, step: Step) -> bool:
        """Moves along the table; False, and nothing changed, when the step is not in it."""
        following = NEXT[self.phase].get(step)
        if following is None:
            return False
        self.phase = following
        return True

    # --- what happens to it ---

    @property
    def output(self) -> Pieces:
        """What it wrote."""
        return self.channels[Channel.OUTPUT]

    @property
    def backlog_bytes(self) -> int:
        """How much of its output and its log the server has yet to store."""
        return sum(pieces.backlog_bytes for pieces in self.channels.values())

    @property
    def finished(self) -> bool:
        """It has ended; only its result is left to be saved and sent."""
        return self.phase is Phase.FINISHED

    def start(self, now: float) -> bool:
        """The meter runs from here; False when it did already or the run has ended."""
        if not self.take(Step.START):
            return False
        self._running_since = now
        self._was_started = True
        self._unsaved.append(Started())
        self._ticks_to_wait = 0
        return True

    def tick(self) -> None:
        """Time passes: the acceptance does not wait for the start much longer."""
        self._ticks_to_wait = max(0, self._ticks_to_wait - 1)

    def adopt(self, now: float) -> None:
        """It still runs, and did all the time: the meter goes on from its last reading."""
        self._running_since = now

    def worked(self, now: float) -> None:
        """Its work is done: stops the meter, while its files are uploaded."""
        if self.phase is Phase.RUNNING and self._running_since is not None:
            self._ran_ms, self._running_since = self.run_ms(now), None
            self._unsaved.append(Reading(self._ran_ms))

    @property
    def run_time(self) -> Duration:
        """How long the run took, by its result."""
        assert self._finished is not None, "it has a result"
        return self._finished.run_time

    def run_ms(self, now: float) -> int:
        """How long it has run: 0 before the start, never above the limit."""
        running = 0.0 if self._running_since is None else max(0.0, now - self._running_since)
        return min(self._ran_ms + round(running * 1000), self.limit_ms)

    def reached_limit(self, now: float) -> bool:
        """Whether a run that has not ended has used up its time."""
        is_metered = self.phase is Phase.RUNNING and self._running_since is not None
        return is_metered and self.run_ms(now) >= self.limit_ms

    def write(self, channel: Channel, data: bytes) -> bool:
        """Takes output or log; False when the run does not write any more."""
        if not self.take(Step.WRITE):
            return False
        self.channels[channel].add(data)
        return True

    def finish(self, result: Result, now: float) -> bool:
        """Stops the meter, ends both channels and keeps the result; False when there is a result already."""
        if not self.take(Step.FINISH):
            return False
        self._ran_ms, self._running_since = self.run_ms(now), None
        self._ticks_to_wait = 0
        for pieces in self.channels.values():
            pieces.end()
            pieces.need_saving = True
        self._finished = self._message(result)
        self._unsaved.append(Finished(self._finished))
        return True

    def _message(self, result: Result) -> sessions_pb2.JobFinished:
        message = sessions_pb2.JobFinished(
            lease=self.lease,
            outcome=result.outcome,
            failure_reason=result.failure_reason,
            failure_message=result.failure_message[:MAX_MESSAGE_CHARACTERS],
            last_output_seq=self.output.last,
            usage=result.usage,
            content_type=result.content_type,
            output_truncated=self.output.dropped_bytes > 0,
            image_digest=result.image_digest[:MAX_DIGEST_CHARACTERS],
            logprobs=result.logprobs,
        )
        message.run_time.FromMilliseconds(self._ran_ms)
        return message

    # --- saving it ---

    def read_meter(self, now: float) -> None:
        """The journal shall know how long it has run."""
        if self._running_since is not None:
            self._unsaved.append(Reading(self.run_ms(now)))

    def take_unsaved(self, window: int) -> tuple[Record, ...]:
        """The records to save now, one batch at a time; `window`: the most unacknowledged pieces."""
        if self._saving or self._is_unsaveable or self._ticks_to_wait:
            return ()
        chunks: list[Record] = []
        for channel, pieces in self.channels.items():
            # A chat leaves in small pieces, one at a time: in larger ones if the server stores them slowly.
            pieces.seal(1 if self.offer.chat_request else window)
            if pieces.need_saving:
                chunks += [Chunk(channel, seq, data) for seq, data in pieces.take_unsaved()]
        finish = [record for record in self._unsaved if isinstance(record, Finished)]
        others = [record for record in self._unsaved if not isinstance(record, Finished)]
        if not (chunks or finish or others):
            return ()
        # What the server has stored is not worth a write of its own.
        stored = self._stored()
        forgotten = [record for record in stored if record not in self._saved_stored]
        self._unsaved = []
        # The pieces follow those that the server has, of which none may be in the journal.
        self._saving = (*others, *forgotten, *chunks, *finish)
        return self._saving

    def saved(self) -> tuple[Record, ...]:
        """The batch is durable and may be sent. Returns it."""
        batch, self._saving = self._saving, ()
        for record in batch:
            match record:
                case Accepted():
                    self.is_accepted = True
                case Started():
                    self._start_is_saved = True
                case Chunk(channel, seq, _):
                    self.channels[channel].saved(seq)
                case Stored():
                    others = [each for each in self._saved_stored if each.channel != record.channel]
                    self._saved_stored = [*others, record]
                case Finished():
                    self._finish_is_saved = True
        return batch

    def not_saved(self, result: Result, now: float) -> tuple[Record, ...]:
        """Unless only meter readings were lost, ends the run and reports what is already durable.

        Its result is then sent without being saved: `result`, or its own when it had not succeeded.
        """
        batch, self._saving = self._saving, ()
        if all(isinstance(record, Reading | Stored) for record in batch):
            return batch
        if not self.finish(result, now) and self._succeeded:
            self._finished = self._message(result)
        for pieces in self.channels.values():
            pieces.drop_unsaved()
        assert self._finished is not None, "it has ended"
        self._finished.last_output_seq = self.output.last
        self._unsaved = []
        self._was_started = self._start_is_saved
        self._is_unsaveable = self._finish_is_saved = True
        return batch

    @property
    def _succeeded(self) -> bool:
        return self._finished is not None and self._finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED

    def _stored(self) -> list[Stored]:
        return [
            Stored(channel, pieces.acknowledged, pieces.stored_bytes)
            for channel, pieces in self.channels.items()
            if pieces.acknowledged
        ]

    # --- sending it ---

    @property
    def has_result(self) -> bool:
        """Its result may be sent."""
        return self._finish_is_saved

    @property
    def is_reported(self) -> bool:
        """The present stream has carried JobFinished."""
        return self._finished_sent

    @property
    def in_flight(self) -> int:
        """How many pieces are sent and not acknowledged."""
        return sum(pieces.in_flight for pieces in self.channels.values())

    @property
    def waiting(self) -> bool:
        """Something was sent that the server has not confirmed."""
        unconfirmed_start = self._started_sent and not self._start_confirmed
        return not self._flowing or self.in_flight > 0 or self._finished_sent or unconfirmed_start

    @property
    def _start_confirmed(self) -> bool:
        # JobStarted has no acknowledgement of its own; stored output implies it.
        return self.output.acknowledged > 0

    def acknowledge(self, output_through: int, log_through: int, now: float) -> bool:
        """Forgets what is stored; False when the server confirms what it cannot have."""
        self.progress_at = now
        stored_output = self.output.acknowledge(output_through)
        return self.channels[Channel.LOG].acknowledge(log_through) and stored_output

    def pause(self) -> None:
        """Sends nothing until rewound: the stream is gone, or the server has not yet said KEEP."""
        self.rewind()
        self._flowing = False

    def resume(self) -> None:
        """Goes on sending from where it was paused."""
        self._flowing = True

    def rewind(self) -> None:
        """Sends everything again that is not confirmed."""
        for pieces in self.channels.values():
            pieces.rewind()
        self._flowing = True
        self._started_sent = False
        self._finished_sent = False

    def reply(self, now: float) -> sessions_pb2.OfferReply:
        """The acceptance, once it is saved; it says the start too if that is saved with it."""
        self._started_sent = self._start_is_saved
        self.progress_at = now
        return sessions_pb2.OfferReply(lease=self.lease, accepted=True, started=self._start_is_saved)

    def next_message(
        self, credit: int, now: float, *, merges: bool = False
    ) -> sessions_pb2.DaemonMessage | None:
        """What is to be sent next, in the order of the transcript; chunks only while there is credit.

        `merges`: the result carries the last piece of output if that was not sent yet.
        """
        message = self._next_message(credit, merges) if self._flowing else None
        if message is not None:
            self.progress_at = now
        return message

    def _next_message(self, credit: int, merges: bool) -> sessions_pb2.DaemonMessage | None:
        if self._was_started and not self._started_sent:
            if not self._start_is_saved:
                return None
            self._started_sent = True
            if not self._start_confirmed:
                return sessions_pb2.DaemonMessage(job_started=sessions_pb2.JobStarted(lease=self.lease))
        is_result_due = self._finish_is_saved and not self._finished_sent
        carries_last = merges and is_result_due and self.output.unsent == 1
        for channel, pieces in self.channels.items():
            if pieces.unsent > (carries_last and channel is Channel.OUTPUT):
                return self._chunk(channel, *pieces.take_unsent()) if credit > 0 else None
        if not is_result_due or (carries_last and credit <= 0):
            return None
        self._finished_sent = True
        return sessions_pb2.DaemonMessage(job_finished=self._result(carries_last))

    def _result(self, carries_last: bool) -> sessions_pb2.JobFinished:
        assert self._finished is not None, "it has a result"
        if not carries_last:
            return self._finished
        result = sessions_pb2.JobFinished()
        result.CopyFrom(self._finished)
        _, result.last_output = self.output.take_unsent()
        return result

    def _chunk(self, channel: Channel, seq: int, data: bytes) -> sessions_pb2.DaemonMessage:
        if channel is Channel.OUTPUT:
            chunk = sessions_pb2.OutputChunk(lease=self.lease, seq=seq, data=data)
            return sessions_pb2.DaemonMessage(output_chunk=chunk)
        log = sessions_pb2.LogChunk(lease=self.lease, seq=seq, data=data)
        return sessions_pb2.DaemonMessage(log_chunk=log)
