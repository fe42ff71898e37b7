"""Owns one numbered sequence of pieces of a run: its output, or its log.

Data is gathered, sealed into numbered pieces, saved in the journal, sent, and
forgotten when the server has stored it, in this order. Pieces that need no saving are sent when they
are sealed. It must not know leases, messages, streams or files.

    _acknowledged <= _sent <= _saved <= _taken <= last, if they need saving; else
    _acknowledged = _saved = _taken <= _sent <= last
"""

from __future__ import annotations

from collections import deque
from itertools import islice

MAX_CHUNK_BYTES = 64 * 1024


class Pieces:
    """Pieces numbered from 1, kept until acknowledged; at most `limit_bytes` in all, the rest is counted."""

    def __init__(self, what: str, limit_bytes: int) -> None:
        """`what`: what they are pieces of, for whoever reads that some are missing."""
        self._what = what
        self._limit_bytes = limit_bytes
        self._kept: deque[bytes] = deque()
        self._gathered = bytearray()
        self._acknowledged = 0
        self._sent = 0
        self._saved = 0
        self._taken = 0
        self._stored_bytes = 0
        self._kept_bytes = 0
        self.dropped_bytes = 0
        self.need_saving = True
        """Whether a piece is sent only when it is saved."""

    @property
    def last(self) -> int:
        """The number of the last sealed piece; 0: there is none."""
        return self._acknowledged + len(self._kept)

    @property
    def acknowledged(self) -> int:
        """The number of the last piece that the server has stored."""
        return self._acknowledged

    @property
    def stored_bytes(self) -> int:
        """How many bytes the acknowledged pieces had."""
        return self._stored_bytes

    @property
    def in_flight(self) -> int:
        """How many pieces are sent and not acknowledged."""
        return self._sent - self._acknowledged

    @property
    def backlog_bytes(self) -> int:
        """How much is kept because the server has not stored it."""
        return self._kept_bytes + len(self._gathered)

    @property
    def total_bytes(self) -> int:
        """How much was taken in all."""
        return self._stored_bytes + self.backlog_bytes

    def add(self, data: bytes) -> None:
        """Takes data; what passes the limit is dropped from the last whole character on."""
        kept = data
        if self.dropped_bytes:
            kept = b""
        elif (room := self._limit_bytes - self.total_bytes) < len(data):
            kept = _whole_characters(data, max(0, room))
        self._gathered += kept
        self.dropped_bytes += len(data) - len(kept)

    def end(self) -> None:
        """Nothing follows: says what was dropped, and seals everything."""
        if self.dropped_bytes:
            marker = f"\n[{self._what} truncated: {self.dropped_bytes} bytes not kept]\n"
            self._gathered += marker.encode()
        self.seal()

    def seal(self, window: int | None = None) -> None:
        """Makes pieces of what is gathered, as long as fewer than `window` are unacknowledged."""
        while self._gathered and (window is None or len(self._kept) < window):
            self._keep(bytes(self._gathered[:MAX_CHUNK_BYTES]))
            del self._gathered[:MAX_CHUNK_BYTES]

    def take_unsaved(self) -> list[tuple[int, bytes]]:
        """The sealed pieces that were not yet taken to be saved, with their numbers."""
        first = self._taken
        self._taken = self.last
        kept = islice(self._kept, first - self._acknowledged, None)
        return list(enumerate(kept, first + 1))

    def saved(self, through: int) -> None:
        """The pieces up to `through` are safe; they may be sent."""
        self._saved = max(self._saved, through)

    def drop_unsaved(self) -> None:
        """Forgets whatever is not safe."""
        while self.last > self._saved:
            self._kept_bytes -= len(self._kept.pop())
        self._taken = self._saved
        self._sent = min(self._sent, self._saved)
        self._gathered.clear()

    def restore(self, seq: int, data: bytes) -> None:
        """A piece as it was saved; one out of turn is ignored."""
        if seq == self.last + 1:
            self._keep(data)
            self._taken = self._saved = seq

    def restore_stored(self, through: int, stored_bytes: int) -> None:
        """The server has the pieces up to `through`, which had `stored_bytes` in all."""
        if through > self.last:
            self._kept.clear()
            self._acknowledged = self._sent = self._saved = self._taken = through
            self._kept_bytes = 0
        self.acknowledge(through)
        self._stored_bytes = stored_bytes

    def kept(self) -> list[tuple[int, bytes]]:
        """The saved pieces that are not acknowledged, with their numbers."""
        saved = islice(self._kept, 0, self._saved - self._acknowledged)
        return list(enumerate(saved, self._acknowledged + 1))

    @property
    def unsent(self) -> int:
        """How many pieces wait that may be sent."""
        return max(0, (self._saved if self.need_saving else self.last) - self._sent)

    def take_unsent(self) -> tuple[int, bytes]:
        """The next piece to send and its number; it counts as sent from here on."""
        data = self._kept[self._sent - self._acknowledged]
        self._sent += 1
        return self._sent, data

    def acknowledge(self, through: int) -> bool:
        """Forgets the pieces up to `through`; False when no such piece was ever saved or sent."""
        if through > max(self._saved, self._sent):
            return False
        while self._acknowledged < through:
            size = len(self._kept.popleft())
            self._kept_bytes -= size
            self._stored_bytes += size
            self._acknowledged += 1
        self._sent = max(self._sent, self._acknowledged)
        # What the server has needs no saving.
        self._saved = max(self._saved, self._acknowledged)
        self._taken = max(self._taken, self._acknowledged)
        return True

    def rewind(self) -> None:
        """Everything that is not acknowledged is sent again."""
        self._sent = self._acknowledged

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)


def _whole_characters(data: bytes, room: int) -> bytes:
    """At most `room` bytes, of UTF-8 without half a character at the end."""
    end = room
    while end > max(0, room - 3) and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end]
