"""Owns the form of the journal's files, its segments. It must not know disks.

A segment begins with a header: a magic word, the version of the form, and a marker, eight random bytes of
this segment. Frames follow: the marker, the body's length, the CRC-32 of marker and body, and the body, which
is one entry. An entry is whole or absent. Behind bytes that cannot be read the next frame is found by the
marker, which no job can know: what a job wrote is never taken for a frame.

Entries of an attempt are numbered, so that one behind a gap is not applied. An entry that begins with the
offer starts the attempt's history, at its number: compaction writes a whole history as one entry.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from dcp.v1 import sessions_pb2

from daemon.journal.encoding import decode, encode
from daemon.protocol.records import Accepted, History, Record, replay

VERSION = 1
_MAGIC = b"DCPJ"
_HEADER = struct.Struct("<4sB3x8s")
_FRAME = struct.Struct("<8sII")
_ENTRY = struct.Struct("<20sI")

HEADER_BYTES = _HEADER.size

AttemptId = bytes
"""Twenty bytes that name an attempt: a digest of its lease, because the server chooses a lease's texts."""


class UnknownVersionError(Exception):
    """A segment has the form of another version of the daemon."""


@dataclass(frozen=True)
class Entry:
    """One entry: records of an attempt, or, without records, that it is forgotten."""

    attempt: AttemptId
    number: int
    """Which of the attempt's entries it is, from 0."""
    records: Sequence[Record]


@dataclass(frozen=True)
class Damage:
    """Bytes between two whole frames that cannot be read."""

    offset: int
    size: int


@dataclass
class Content:
    """What a segment holds."""

    marker: bytes
    entries: list[Entry] = field(default_factory=list)
    end: int = HEADER_BYTES
    """Behind the last whole frame; what follows is a write that was torn."""
    damage: list[Damage] = field(default_factory=list)


@dataclass
class Attempt:
    """What the entries of one attempt add up to."""

    number: int
    """Of the last entry."""
    history: History


def attempt_id(lease: sessions_pb2.Lease) -> AttemptId:
    """The attempt of a lease."""
    return hashlib.sha256(lease.SerializeToString(deterministic=True)).digest()[:20]


def header() -> tuple[bytes, bytes]:
    """The beginning of a new segment, and the marker in it."""
    marker = secrets.token_bytes(8)
    return _HEADER.pack(_MAGIC, VERSION, marker), marker


def frame(marker: bytes, entry: Entry) -> bytes:
    """An entry as it lies in the segment of this marker."""
    body = _ENTRY.pack(entry.attempt, entry.number) + encode(entry.records)
    return _FRAME.pack(marker, len(body), _checksum(marker, body)) + body


def read(data: bytes) -> Content:
    """Everything in a segment that can be read. Raises UnknownVersionError."""
    if len(data) < HEADER_BYTES:
        return Content(b"", end=0)
    content = _begin(data)
    at = HEADER_BYTES
    while (following := _next(data, at, content.marker)) is not None:
        begin, end, entry = following
        if begin > at:
            content.damage.append(Damage(at, begin - at))
        content.entries.append(entry)
        content.end = at = end
    return content


def apply(entry: Entry, attempts: dict[AttemptId, Attempt]) -> bool:
    """Adds an entry to what is known; False if it was left out because an earlier one is missing."""
    known = attempts.get(entry.attempt)
    if not entry.records:
        attempts.pop(entry.attempt, None)
        return True
    if isinstance(entry.records[0], Accepted):
        # A history that could be written and not be made durable may lie behind newer entries.
        is_newer = not entry.number or known is None or known.number < entry.number
        if is_newer and (history := replay(entry.records)) is not None:
            attempts[entry.attempt] = Attempt(entry.number, history)
        return True
    if known is None or entry.number != known.number + 1:
        return False
    for record in entry.records:
        known.history.take(record)
    known.number = entry.number
    return True


def _checksum(marker: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(marker))


def _begin(data: bytes) -> Content:
    magic, version, marker = _HEADER.unpack_from(data)
    if magic == _MAGIC and version != VERSION:
        raise UnknownVersionError(f"its format is {version}, and this daemon reads format {VERSION}")
    # Every frame has the marker, too, so that a segment can be read without its header.
    first = data[HEADER_BYTES : HEADER_BYTES + len(marker)]
    if first != marker and _entry_at(data, HEADER_BYTES, first) is not None:
        return Content(first, damage=[Damage(0, HEADER_BYTES)])
    return Content(marker, damage=[] if magic == _MAGIC else [Damage(0, HEADER_BYTES)])


def _next(data: bytes, at: int, marker: bytes) -> tuple[int, int, Entry] | None:
    """The first whole frame from `at` on: where it begins and ends, and its entry."""
    while 0 <= at < len(data):
        if found := _entry_at(data, at, marker):
            return at, *found
        at = data.find(marker, at + 1)
    return None


def _entry_at(data: bytes, at: int, marker: bytes) -> tuple[int, Entry] | None:
    """Where the frame ends that begins at `at`, and its entry; None if it is no whole frame."""
    if at + _FRAME.size > len(data):
        return None
    found, size, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + size
    body = data[at + _FRAME.size : end]
    if found != marker or len(body) < max(size, _ENTRY.size) or _checksum(marker, body) != checksum:
        return None
    records, length = decode(body[_ENTRY.size :])
    if length != size - _ENTRY.size:
        return None
    attempt, number = _ENTRY.unpack_from(body)
    return end, Entry(attempt, number, records)
