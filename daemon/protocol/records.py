"""Owns the records of an attempt: what must be durable before it is sent, and what records add up to.

Pure. It must not know how records are encoded or where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from dcp.v1 import sessions_pb2

from daemon.protocol.pieces import Pieces

MAX_OUTPUT_BYTES = 2 * 1024 * 1024
MAX_LOG_BYTES = 1024 * 1024


class Channel(IntEnum):
    """Which of a run's two sequences."""

    OUTPUT = 1
    LOG = 2


@dataclass(frozen=True)
class Accepted:
    """The daemon takes the offer. Its prompt and its environment are not for the disk."""

    offer: sessions_pb2.JobOffer


@dataclass(frozen=True)
class Started:
    """The meter runs."""


@dataclass(frozen=True)
class Reading:
    """So much of the run's time has passed."""

    run_ms: int


@dataclass(frozen=True)
class Chunk:
    """A piece of output or log."""

    channel: Channel
    seq: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Stored:
    """The server has the pieces up to `through`; they had `stored_bytes` in all."""

    channel: Channel
    through: int
    stored_bytes: int


@dataclass(frozen=True)
class Finished:
    """The result."""

    message: sessions_pb2.JobFinished


Record = Accepted | Started | Reading | Chunk | Stored | Finished


def accepted(offer: sessions_pb2.JobOffer) -> Accepted:
    """The record of an accepted offer, without what only the run needs to know."""
    kept = sessions_pb2.JobOffer()
    kept.CopyFrom(offer)
    kept.ClearField("params")
    kept.ClearField("container_spec")
    kept.params.model = offer.params.model
    return Accepted(kept)


class History:
    """What the records of one attempt add up to."""

    def __init__(self, offer: sessions_pb2.JobOffer) -> None:
        self.offer = offer
        self.started = False
        self.run_ms = 0
        self.channels = {
            Channel.OUTPUT: Pieces("output", offer.output_limit_bytes or MAX_OUTPUT_BYTES),
            Channel.LOG: Pieces("log", min(MAX_LOG_BYTES, offer.output_limit_bytes or MAX_LOG_BYTES)),
        }
        self.finished: sessions_pb2.JobFinished | None = None

    @property
    def written_bytes(self) -> int:
        """How much output is known of."""
        return self.channels[Channel.OUTPUT].total_bytes

    @property
    def logged_bytes(self) -> int:
        """How much log is known of."""
        return self.channels[Channel.LOG].total_bytes

    def take(self, record: Record) -> None:
        """Adds one record."""
        match record:
            case Started():
                self.started = True
            case Reading(run_ms):
                self.run_ms = max(self.run_ms, run_ms)
            case Chunk(channel, seq, data):
                self.channels[channel].restore(seq, data)
            case Stored(channel, through, stored_bytes):
                self.channels[channel].restore_stored(through, stored_bytes)
            case Finished(message):
                self.finished = message

    def records(self) -> list[Record]:
        """The fewest records that add up to the same."""
        records: list[Record] = [Accepted(self.offer)]
        if self.started:
            records += [Started(), Reading(self.run_ms)]
        for channel, pieces in self.channels.items():
            if pieces.acknowledged:
                records.append(Stored(channel, pieces.acknowledged, pieces.stored_bytes))
            records += [Chunk(channel, seq, data) for seq, data in pieces.kept()]
        if self.finished is not None:
            records.append(Finished(self.finished))
        return records


def replay(records: Iterable[Record]) -> History | None:
    """The attempt that the records describe; None when they do not begin with its offer."""
    history: History | None = None
    for record in records:
        if history is None:
            if not isinstance(record, Accepted):
                return None
            history = History(record.offer)
        history.take(record)
    return history
