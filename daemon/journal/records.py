"""Owns the journal's records: what is written about an attempt, how it is framed, what it adds up to.

A record is its body's length, its body's CRC-32 and the body; the body begins
with its kind. What follows the first record that is not whole is a write that a
power cut tore. It must not know files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from dcp.v1 import sessions_pb2
from google.protobuf.message import DecodeError

from daemon.protocol.pieces import Pieces

_HEAD = struct.Struct("<II")
_CHUNK = struct.Struct("<BQ")
_STORED = struct.Struct("<BQQ")
_READING = struct.Struct("<Q")
MAX_OUTPUT_BYTES = 2 * 1024 * 1024
MAX_LOG_BYTES = 1024 * 1024


class Stream(IntEnum):
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

    stream: Stream
    seq: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Stored:
    """The server has the pieces up to `through`; they had `stored_bytes` in all."""

    stream: Stream
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
        self.streams = {
            Stream.OUTPUT: Pieces("output", offer.output_limit_bytes or MAX_OUTPUT_BYTES),
            Stream.LOG: Pieces("log", min(MAX_LOG_BYTES, offer.output_limit_bytes or MAX_LOG_BYTES)),
        }
        self.finished: sessions_pb2.JobFinished | None = None

    @property
    def written_bytes(self) -> int:
        """How much output is known of."""
        return self.streams[Stream.OUTPUT].total_bytes

    @property
    def logged_bytes(self) -> int:
        """How much log is known of."""
        return self.streams[Stream.LOG].total_bytes

    def take(self, record: Record) -> None:
        """Adds one record."""
        match record:
            case Started():
                self.started = True
            case Reading(run_ms):
                self.run_ms = max(self.run_ms, run_ms)
            case Chunk(stream, seq, data):
                self.streams[stream].restore(seq, data)
            case Stored(stream, through, stored_bytes):
                self.streams[stream].restore_stored(through, stored_bytes)
            case Finished(message):
                self.finished = message

    def records(self) -> list[Record]:
        """The fewest records that add up to the same."""
        records: list[Record] = [Accepted(self.offer)]
        if self.started:
            records += [Started(), Reading(self.run_ms)]
        for stream, pieces in self.streams.items():
            if pieces.acknowledged:
                records.append(Stored(stream, pieces.acknowledged, pieces.stored_bytes))
            records += [Chunk(stream, seq, data) for seq, data in pieces.kept()]
        if self.finished is not None:
            records.append(Finished(self.finished))
        return records


def replay(records: Iterable[Record]) -> History | None:
    """The attempt that the records tell of; None when they do not begin with its offer."""
    history: History | None = None
    for record in records:
        if history is None:
            if not isinstance(record, Accepted):
                return None
            history = History(record.offer)
        history.take(record)
    return history


def encode(records: Iterable[Record]) -> bytes:
    """The records as they lie in a file."""
    return b"".join(_framed(_body(record)) for record in records)


def decode(data: bytes) -> tuple[list[Record], int]:
    """The whole records at the beginning of `data`, and how many bytes they take."""
    records: list[Record] = []
    at = 0
    while at + _HEAD.size <= len(data):
        size, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + size]
        # A length of zero is what a file that grew and lost its content holds.
        if not body or len(body) < size or zlib.crc32(body) != checksum:
            break
        try:
            records.append(_record(body))
        except (DecodeError, KeyError, ValueError, struct.error):
            break
        at += _HEAD.size + size
    return records, at


def _framed(body: bytes) -> bytes:
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _body(record: Record) -> bytes:
    match record:
        case Accepted(offer):
            return b"A" + offer.SerializeToString()
        case Started():
            return b"S"
        case Reading(run_ms):
            return b"R" + _READING.pack(run_ms)
        case Chunk(stream, seq, data):
            return b"C" + _CHUNK.pack(stream, seq) + data
        case Stored(stream, through, stored_bytes):
            return b"T" + _STORED.pack(stream, through, stored_bytes)
        case Finished(message):
            return b"F" + message.SerializeToString()


def _record(body: bytes) -> Record:
    kind, rest = body[:1], body[1:]
    match kind:
        case b"A":
            return Accepted(sessions_pb2.JobOffer.FromString(rest))
        case b"S":
            return Started()
        case b"R":
            return Reading(*_READING.unpack(rest))
        case b"C":
            stream, seq = _CHUNK.unpack_from(rest)
            return Chunk(Stream(stream), seq, rest[_CHUNK.size :])
        case b"T":
            stream, through, stored_bytes = _STORED.unpack(rest)
            return Stored(Stream(stream), through, stored_bytes)
        case b"F":
            return Finished(sessions_pb2.JobFinished.FromString(rest))
    raise ValueError(f"a record of kind {kind!r}")
