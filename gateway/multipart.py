"""Owns how a form with files (`multipart/form-data`) is read as its bytes arrive. It keeps no file.

Parts, their headers and their small values are bounded; the data of a file is passed on as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from typing import NamedTuple

from gateway.errors import ApiError

MAX_PARTS = 20
MAX_HEAD_BYTES = 8 << 10
_PREAMBLE, _HEAD, _BODY, _END = range(4)


class Part(NamedTuple):
    """A part begins: the name of its field, and of its file if it has one."""

    name: str
    filename: str | None


class Data(NamedTuple):
    """The next bytes of the part that began last."""

    data: bytes


class Multipart:
    """Reads one form. Feed it the body; `finish` says whether it was whole."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._rest = b"\r\n"  # the first boundary may be the very beginning
        self._state = _PREAMBLE
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[Part | Data]:
        """What these bytes hold. Raises INVALID_FIELD."""
        self._rest += data
        while True:
            if self._state == _HEAD:
                part = self._head()
                if part is None:
                    return
                yield part
                self._state = _BODY
            elif self._state == _END:
                self._rest = b""
                return
            else:
                place = self._rest.find(self._delimiter)
                until = place if place >= 0 else max(0, len(self._rest) - len(self._delimiter) + 1)
                if self._state == _BODY and until:
                    yield Data(self._rest[:until])
                self._rest = self._rest[until:]
                if place < 0 or not self._is_past_delimiter():
                    return

    def finish(self) -> None:
        """Raises INVALID_FIELD if the end of the form did not come."""
        if self._state != _END:
            raise _wrong("ends before its last boundary; send all of it")

    def _is_past_delimiter(self) -> bool:
        """Steps over a boundary; False if what follows it has not arrived."""
        after = len(self._delimiter)
        if len(self._rest) < after + 2:
            return False
        mark = self._rest[after : after + 2]
        if mark not in (b"--", b"\r\n"):
            raise _wrong("has something behind a boundary")
        # A head may be empty, so the line end before it stays.
        self._rest = self._rest[after if mark == b"\r\n" else after + 2 :]
        self._state = _END if mark == b"--" else _HEAD
        return True

    def _head(self) -> Part | None:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > MAX_HEAD_BYTES:
                raise _wrong(f"has a part with more than {MAX_HEAD_BYTES >> 10} KiB of headers")
            return None
        head, self._rest = self._rest[2:end], self._rest[end + 4 :]
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _wrong(f"has more than {MAX_PARTS} parts")
        return _part(HeaderParser().parsestr(head.decode(errors="replace")))


def _part(head: Message) -> Part:
    name = head.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise _wrong("has a part without a name")
    filename = head.get_filename()
    return Part(name, filename)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary of a form with files. Raises UNSUPPORTED_MEDIA_TYPE."""
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    boundary = message.get_param("boundary")
    if (
        message.get_content_type() != "multipart/form-data"
        or not isinstance(boundary, str)
        or not 1 <= len(boundary) <= 200
    ):
        raise ApiError(
            "UNSUPPORTED_MEDIA_TYPE",
            "Send a form with a file: Content-Type multipart/form-data, with its boundary.",
        )
    return boundary.encode("latin-1", errors="replace")


def _wrong(text: str) -> ApiError:
    return ApiError("INVALID_FIELD", f"body: the form {text}.", field="body")
