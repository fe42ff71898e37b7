"""The events of a job, as a function of what is stored: no event is a row of its own.

A cursor names what a reader has: the lease, the step that the job had reached in it, and how far the output
and the log were read. Its text is the id of the event that led to it. All events after a cursor follow from
the cursor, the job, its newest lease and the chunks, so a reader can continue after any restart. Events of an
attempt that is over are not sent again: its output is void.
"""

from __future__ import annotations

import hashlib
import re
from codecs import utf_8_decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from server.domain.errors import DomainError, invalid_field
from server.domain.jobs import FINAL, Job, JobState, JobType
from server.domain.leases import MAX_CHUNK_BYTES, WORKED, Channel, Lease, LeaseOutcome
from server.domain.preparations import Preparation

HEADER = "Last-Event-ID"
PIECE_BYTES = 8 * 1024
"""Most bytes of a channel in one event. In JSON, a byte can take six characters."""
PAGE_BYTES = 32 * 1024
"""Most bytes of all texts that are read for a reader at once, but for the last piece of each channel."""
_ID = re.compile(r"(\d{1,9})\.([1-9])\.(\d{1,18})\.(\d{1,6})\.(\d{1,18})\.(\d{1,6})\.([0-9a-f]{8})", re.ASCII)


class Step(IntEnum):
    """What a reader knows of a job under one lease, in the order of the events."""

    NOTHING = 0
    QUEUED = 1
    OFFERED = 2
    ACCEPTED = 3
    STARTED = 4
    CANCEL_REQUESTED = 5
    BEGINS_ANEW = 6
    QUEUED_AGAIN = 7
    FILE = 8
    END = 9


class Place(NamedTuple):
    """How far a channel was read: its next chunk, and how many bytes of that chunk were sent."""

    seq: int = 1
    skip: int = 0


START = Place()


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a reader has of a job."""

    lease_epoch: int = 0
    step: Step = Step.NOTHING
    output: Place = START
    log: Place = START

    def place(self, channel: Channel) -> Place:
        return self.output if channel is Channel.OUTPUT else self.log

    def at(self, channel: Channel, place: Place) -> Cursor:
        """The cursor after more of a channel."""
        return replace(self, output=place) if channel is Channel.OUTPUT else replace(self, log=place)


@dataclass(frozen=True, slots=True)
class StateChange:
    state: JobState
    at_ms: int
    attempt: int = 0
    provider_id: int | None = None
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class BeginsAnew:
    """The attempt gave no result: what was sent of its output and log is void."""

    ended_attempt: int
    outcome: LeaseOutcome
    at_ms: int


@dataclass(frozen=True, slots=True)
class Text:
    channel: Channel
    data: bytes
    """UTF-8."""


@dataclass(frozen=True, slots=True)
class File:
    """An output that is not text."""

    content_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    job: Job
    texts_removed: bool


Kind: TypeAlias = StateChange | BeginsAnew | Preparation | Text | File | End


@dataclass(frozen=True, slots=True)
class Event:
    """An event, and the cursor of a reader that has it."""

    cursor: Cursor
    kind: Kind


Chunks: TypeAlias = Iterable[tuple[int, bytes]]
"""Chunks of a channel with their numbers, from a place on."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it was read for a reader, but for its texts."""

    job: Job
    lease: Lease | None
    """The newest."""
    known: Lease | None = None
    """The one of the cursor, if there is a newer one."""
    texts_removed: bool = False

    @property
    def is_final(self) -> bool:
        return self.job.state in FINAL

    @property
    def waits(self) -> bool:
        """Whether the job was queued again after its newest lease; it may have ended since, without a run."""
        job, lease = self.job, self.lease
        if lease is None or job.state is JobState.QUEUED:
            return True
        return self.is_final and lease.ended_ms is not None and lease.ended_ms != job.ended_ms

    @property
    def is_image(self) -> bool:
        """Whether the output is no text."""
        return _is_image(self.job)


def _is_image(job: Job) -> bool:
    return job.job_type is JobType.IMAGE_GENERATION or job.content_type.startswith("image/")


def event_id(job_id: str, cursor: Cursor) -> str:
    """The id of the event that led to a cursor."""
    numbers = (cursor.lease_epoch, cursor.step.value, *cursor.output, *cursor.log)
    return f"{'.'.join(map(str, numbers))}.{_mark(job_id)}"


def parse_event_id(job_id: str, text: str) -> Cursor:
    """The cursor of an id. Raises INVALID_FIELD for one that is no id, and for one of another job."""
    found = _ID.fullmatch(text)
    if found is None:
        raise _refused("is not the id of an event")
    if found[7] != _mark(job_id):
        raise _refused("is the id of an event of another job")
    epoch, step, *places = map(int, found.groups()[:6])
    return Cursor(epoch, Step(step), Place(*places[:2]), Place(*places[2:]))


def check(cursor: Cursor, seen: Seen) -> None:
    """Raises INVALID_FIELD for a cursor that no event of the job has led to."""
    if not _is_possible(cursor, seen):
        raise _refused("is the id of an event that has not happened")


def shown_events(
    cursor: Cursor, job: Job, lease_epoch: int, channel: Channel, seq: int, data: bytes
) -> list[Event]:
    """The events of a chunk for a reader that has all that comes before it; none for any other."""
    is_running = cursor.lease_epoch == lease_epoch and cursor.step in (Step.STARTED, Step.CANCEL_REQUESTED)
    is_text = channel is Channel.LOG or not _is_image(job)
    if not (is_running and is_text and cursor.place(channel) == Place(seq)):
        return []
    return list(text_events(cursor, channel, [(seq, data)], is_last=False, most_bytes=PAGE_BYTES))


def state_events(cursor: Cursor, seen: Seen) -> Iterator[Event]:
    """The events before the texts of the newest attempt."""
    job, lease = seen.job, seen.lease
    if cursor.step >= Step.FILE:
        return
    if cursor.step is Step.NOTHING:
        cursor = Cursor(0, Step.QUEUED)
        yield Event(cursor, StateChange(JobState.QUEUED, job.created_ms))
    if lease is None or (seen.waits and cursor.step in (Step.QUEUED, Step.QUEUED_AGAIN)):
        return
    if cursor.lease_epoch < lease.lease_epoch or seen.waits:
        left = lease if cursor.lease_epoch == lease.lease_epoch else seen.known
        if left is not None and Step.ACCEPTED <= cursor.step < Step.BEGINS_ANEW:
            cursor = Cursor(cursor.lease_epoch, Step.BEGINS_ANEW)
            yield Event(cursor, _anew(left))
    if seen.waits:
        ended_ms = lease.ended_ms or job.created_ms
        cursor = Cursor(lease.lease_epoch, Step.QUEUED_AGAIN)
        yield Event(cursor, StateChange(JobState.QUEUED, ended_ms, job.attempt))
        return
    known = cursor.step if cursor.lease_epoch == lease.lease_epoch else Step.NOTHING
    cursor = cursor if known else Cursor(lease.lease_epoch)
    for step, change in _changes(job, lease):
        if step > known:
            cursor = replace(cursor, step=step)
            yield Event(cursor, change)


def text_events(
    cursor: Cursor, channel: Channel, chunks: Chunks, *, is_last: bool, most_bytes: int
) -> Iterator[Event]:
    """The texts of a channel, in whole characters, until ``most_bytes`` are reached.

    An incomplete character waits for its rest; only if ``is_last`` there is none, and it is replaced.
    """
    waiting = _Waiting(cursor.place(channel))
    sent = 0
    for seq, data in chunks:
        waiting.add(seq, data)
        for piece in waiting.pieces():
            cursor = cursor.at(channel, waiting.place)
            yield Event(cursor, Text(channel, piece))
            sent += len(piece)
            if sent >= most_bytes:
                return
    if is_last and (rest := waiting.rest()):
        yield Event(cursor.at(channel, waiting.place), Text(channel, rest))


def final_events(cursor: Cursor, seen: Seen) -> Iterator[Event]:
    """The events after the texts of a job that has ended."""
    job = seen.job
    has_image = job.state is JobState.COMPLETED and seen.is_image and job.output_bytes > 0
    if has_image and not seen.texts_removed and cursor.step < Step.FILE:
        cursor = replace(cursor, step=Step.FILE)
        yield Event(cursor, File(job.content_type, job.output_bytes))
    if cursor.step < Step.END:
        yield Event(replace(cursor, step=Step.END), End(job, seen.texts_removed))


class _Waiting:
    """The bytes of a channel that were not sent, and the place of the first one."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._parts: list[tuple[Place, bytes]] = []

    def add(self, seq: int, data: bytes) -> None:
        skip = self.place.skip if seq == self.place.seq else 0
        self._parts.append((Place(seq, skip), data[skip:]))

    def pieces(self) -> Iterator[bytes]:
        """Whole characters, as long as there are any; ``place`` is where each ends."""
        while (taken := self._take(is_last=False)) is not None:
            yield taken

    def rest(self) -> bytes | None:
        """What is left, although its last character is incomplete."""
        return self._take(is_last=True)

    def _take(self, *, is_last: bool) -> bytes | None:
        window = b"".join(part for _, part in self._parts)[:PIECE_BYTES]
        text, used = utf_8_decode(window, "replace", is_last)
        if not used:
            return None
        self._drop(used)
        return text.encode()

    def _drop(self, count: int) -> None:
        while self._parts and count >= len(self._parts[0][1]):
            place, part = self._parts.pop(0)
            count -= len(part)
            self.place = Place(place.seq + 1)
        if self._parts:
            place, part = self._parts[0]
            self.place = Place(place.seq, place.skip + count)
            self._parts[0] = (self.place, part[count:])


def _changes(job: Job, lease: Lease) -> Iterator[tuple[Step, StateChange]]:
    """The states of a job under its newest lease."""
    provider = lease.provider_id
    # Before it was accepted, the offer was no attempt.
    before = job.attempt - (1 if lease.accepted_ms is not None else 0)
    yield Step.OFFERED, StateChange(JobState.PENDING, lease.offered_ms, before, provider)
    if lease.accepted_ms is not None:
        yield Step.ACCEPTED, StateChange(JobState.ASSIGNED, lease.accepted_ms, job.attempt, provider)
    if lease.started_ms is not None:
        yield Step.STARTED, StateChange(JobState.RUNNING, lease.started_ms, job.attempt, provider)
        if job.cancel_requested_ms is not None:
            at_ms = job.cancel_requested_ms
            yield (
                Step.CANCEL_REQUESTED,
                StateChange(JobState.RUNNING, at_ms, job.attempt, provider, cancel_requested=True),
            )


def _anew(lease: Lease) -> BeginsAnew:
    return BeginsAnew(lease.attempt, lease.outcome or LeaseOutcome.LOST, lease.ended_ms or lease.offered_ms)


def _is_possible(cursor: Cursor, seen: Seen) -> bool:
    job, lease, step = seen.job, seen.lease, cursor.step
    if step is Step.NOTHING or cursor.lease_epoch > job.lease_epoch:
        return False
    if step in (Step.FILE, Step.END) and not seen.is_final:
        return False
    if lease is None or not cursor.lease_epoch:
        return (step is Step.QUEUED or step is Step.END) and (cursor.output, cursor.log) == (START, START)
    if cursor.lease_epoch < job.lease_epoch:
        return step is not Step.END
    reached = {
        Step.ACCEPTED: lease.accepted_ms is not None,
        Step.STARTED: lease.started_ms is not None,
        Step.CANCEL_REQUESTED: job.cancel_requested_ms is not None,
        Step.BEGINS_ANEW: lease.ended_ms is not None,
        Step.QUEUED_AGAIN: lease.ended_ms is not None,
    }
    # A chunk is shown while it is stored (``shown_events``): until its result one more of a run may be known.
    shown = 1 if lease.started_ms is not None and lease.outcome not in WORKED else 0
    return (
        reached.get(step, True)
        and _is_reached(cursor.output, lease.output_through_seq + shown)
        and _is_reached(cursor.log, lease.log_through_seq + shown)
    )


def _is_reached(place: Place, through_seq: int) -> bool:
    last = through_seq + 1
    return 1 <= place.seq <= last and place.skip <= (MAX_CHUNK_BYTES if place.seq < last else 0)


def _mark(job_id: str) -> str:
    """What tells the ids of one job from those of another."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:8]


def _refused(why: str) -> DomainError:
    return invalid_field(HEADER, f"{why}; send the id of the last event of this job's stream, or none")
