"""Reads a stream of server-sent events by the WHATWG's standard (HTML, "Interpreting an event stream").

Pure: bytes in, events out. The standard bounds nothing; here a line and an event have a greatest size.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from common.documents import DocumentError

MAX_EVENT_BYTES = 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream."""

    kind: str
    """The event's type; empty: a message."""
    data: str


class EventReader:
    """Turns the bytes of one stream, cut anywhere, into its events."""

    def __init__(self, most_bytes: int = MAX_EVENT_BYTES) -> None:
        """`most_bytes`: the greatest size of a line, and of the data of an event."""
        self._most_bytes = most_bytes
        self._line = bytearray()
        self._is_first_line = True
        self._ended_in_cr = False
        self._kind = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """The events that end in this piece. Raises DocumentError for what has no end."""
        for line in self._lines(piece):
            if line:
                self._take(line)
            elif (event := self._dispatch()) is not None:
                yield event

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        if not piece:
            return
        # A line may end in CR LF, and the piece between the two.
        if self._ended_in_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._ended_in_cr = piece.endswith(b"\r")
        *ends, rest = _LINE_END.split(piece)
        for end in ends:
            self._grow(end)
            line, self._line = bytes(self._line), bytearray()
            yield self._without_bom(line)
        self._grow(rest)

    def _grow(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > self._most_bytes:
            raise DocumentError("it has a line without an end")

    def _without_bom(self, line: bytes) -> bytes:
        is_first, self._is_first_line = self._is_first_line, False
        return line.removeprefix(_BOM) if is_first else line

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"event":
                self._kind = text
            case b"data":
                self._add(text, len(value))
            case b"error":
                # Not in the standard: older llama.cpp servers name the field for their errors so.
                self._kind = "error"
                self._add(text, len(value))

    def _add(self, text: str, size: int) -> None:
        self._data.append(text)
        self._data_bytes += size + 1
        if self._data_bytes > self._most_bytes:
            raise DocumentError("it has an event without an end")

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._kind, "\n".join(self._data))
        self._kind, self._data, self._data_bytes = "", [], 0
        return event if event.data else None


async def server_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """The events of a stream; one that its end cuts off is dropped. Raises DocumentError."""
    reader = EventReader()
    async for piece in pieces:
        for event in reader.feed(piece):
            yield event
