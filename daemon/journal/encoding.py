"""Owns how the journal's records are encoded in a file.

A record is its body's length, its body's CRC-32 and the body; the body begins
with its kind. Whatever follows the first incomplete record is a write that a
power cut tore. It must not know files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from dcp.v1 import sessions_pb2
from google.protobuf.message import DecodeError

from daemon.protocol.records import Accepted, Channel, Chunk, Finished, Reading, Record, Started, Stored

_HEAD = struct.Struct("<II")
_CHUNK = struct.Struct("<BQ")
_STORED = struct.Struct("<BQQ")
_READING = struct.Struct("<Q")


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
        case Chunk(channel, seq, data):
            return b"C" + _CHUNK.pack(channel, seq) + data
        case Stored(channel, through, stored_bytes):
            return b"T" + _STORED.pack(channel, through, stored_bytes)
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
            channel, seq = _CHUNK.unpack_from(rest)
            return Chunk(Channel(channel), seq, rest[_CHUNK.size :])
        case b"T":
            channel, through, stored_bytes = _STORED.unpack(rest)
            return Stored(Channel(channel), through, stored_bytes)
        case b"F":
            return Finished(sessions_pb2.JobFinished.FromString(rest))
    raise ValueError(f"a record of kind {kind!r}")
