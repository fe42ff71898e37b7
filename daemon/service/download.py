"""Downloads a large file to a place on the disk, and goes on where an earlier try broke off.

Until it is whole it has another name, `.part`; what it was begun with lies beside that. It must not know what
the file is.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from common import documents
from daemon.foreign import http
from daemon.machine import durable
from daemon.service.fetch import BrokenError, FetchError, answering, digest_of

FREE_BYTES = 1 << 30
"""What stays free on the disk."""
TRIES = 3
"""How often it is tried again without one byte in between."""
_PIECE_BYTES = 1 << 20
_CHECK_BYTES = 64 << 20
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_SHA256 = re.compile(r"sha-256=:?([A-Za-z0-9+/]{43}=):?", re.IGNORECASE)
Hear = Callable[[int, int | None], None]
"""Gets how many bytes are there, and of how many, if that is known."""


@dataclass(frozen=True)
class Wanted:
    """A file to download."""

    source: str
    """An https address, or a path."""
    target: Path
    """Where it is to be."""
    sha256: str = ""
    """Its digest in hexadecimal; empty: what its source says, if it does."""
    size: int | None = None
    """How large it must be; None: unknown."""


@dataclass(frozen=True)
class Got:
    """A file that is whole."""

    sha256: str
    size: int
    is_verified: bool
    """Whether somebody had said what the digest must be."""


@dataclass(frozen=True)
class _Begun:
    """What a part was begun with; a part of anything else is of no use."""

    source: str
    validator: str = ""
    """For If-Range; empty: the source cannot say whether it changed."""
    size: int | None = None
    sha256: str = ""
    """What the source said."""


def download(
    wanted: Wanted,
    *,
    check: Callable[[int | None], None] = lambda size: None,
    peek: Callable[[Path], None] = lambda part: None,
    hear: Hear = lambda done, size: None,
    wait: Callable[[float], None] = time.sleep,
) -> Got:
    """Downloads the file, and returns once it is whole and its digest is right. Raises FetchError.

    `check` gets the size before the first byte is written, and `peek` the part from time to time; both may
    raise to end it.
    """
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    with _part(wanted.target) as part:
        return _Download(wanted, part, check, peek, hear).run(wait)


@contextlib.contextmanager
def _part(target: Path) -> Iterator[BinaryIO]:
    """The part, which nobody else writes meanwhile."""
    path = target.with_name(f"{target.name}.part")
    with path.open("ab+") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{path} is being written by another download: wait for it") from None
        yield part


class _Download:
    def __init__(
        self,
        wanted: Wanted,
        part: BinaryIO,
        check: Callable[[int | None], None],
        peek: Callable[[Path], None],
        hear: Hear,
    ) -> None:
        self._wanted, self._part = wanted, part
        self._check, self._peek, self._hear = check, peek, hear
        self._path = Path(part.name)
        self._notes = self._path.with_name(f"{self._path.name}.json")
        self._begun = self._read_notes()
        if not self._begun.validator:
            self._begin_anew(_Begun(wanted.source))

    def run(self, wait: Callable[[float], None]) -> Got:
        failures, done = 0, self._done
        while True:
            try:
                self._go_on()
                return self._finish()
            except FetchError as error:
                failures = failures + 1 if self._done <= done else 0
                if failures >= TRIES or not isinstance(error, BrokenError):
                    raise FetchError(f"{error}{self._remark()}") from None
                done = self._done
            wait(2.0**failures)

    @property
    def _done(self) -> int:
        return os.fstat(self._part.fileno()).st_size

    def _remark(self) -> str:
        done = self._done
        if not done or not self._begun.validator:
            return ""
        return f"; {done >> 20} MiB are kept, and the same command goes on from there"

    # --- one request ---

    def _go_on(self) -> None:
        if self._begun.size is not None and self._done == self._begun.size and self._begun.validator:
            return  # only the digest was not looked at yet
        if "://" not in self._wanted.source:
            self._copy()
            return
        first = self._done
        headers = {"Range": f"bytes={first}-", "If-Range": self._begun.validator} if first else {}
        with answering(self._wanted.source, headers) as answer:
            self._take(answer, first)

    def _take(self, answer: http.Response, first: int) -> None:
        if answer.status_code == http.PARTIAL and first:
            found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if not found or int(found[1]) != first or int(found[2]) != self._begun.size:
                self._begin_anew(_Begun(self._wanted.source))
                raise BrokenError(f"{answer.url} sent another part than was asked for")
        elif answer.status_code == http.OK:
            self._begin_anew(_described(self._wanted.source, answer))
        elif answer.status_code == http.RANGE_REFUSED and first:
            self._begin_anew(_Begun(self._wanted.source))
            raise BrokenError(f"{answer.url} has no such part any more")
        elif answer.status_code >= 500:
            raise BrokenError(f"{answer.url} answers {answer.status_code}")
        else:
            raise FetchError(f"{answer.url} answers {answer.status_code}")
        self._check_size()
        self._write(answer.iter_bytes(_PIECE_BYTES))

    def _copy(self) -> None:
        path = Path(self._wanted.source)
        try:
            with path.open("rb") as file:
                self._begin_anew(_Begun(self._wanted.source, size=os.fstat(file.fileno()).st_size))
                self._check_size()
                self._write(iter(lambda: file.read(_PIECE_BYTES), b""))
        except OSError as error:
            raise FetchError(f"{path} cannot be copied: {error.strerror}") from None

    def _check_size(self) -> None:
        size, expected = self._begun.size, self._wanted.size
        if None not in (size, expected) and size != expected:
            raise FetchError(f"{self._wanted.source} has {size} bytes, not {expected}")
        self._check(size)
        missing = max(0, (size or 0) - self._done)
        free = shutil.disk_usage(self._path.parent).free
        if free - missing < FREE_BYTES:
            raise FetchError(
                f"the disk of {self._path.parent} has {gib(free)} free, {gib(missing)} are still to come, "
                f"and {gib(FREE_BYTES)} must stay free: free some, or choose another disk with --folder"
            )

    def _write(self, pieces: Iterator[bytes]) -> None:
        checked = self._done
        try:
            for piece in pieces:
                self._part.write(piece)
                self._part.flush()
                done = self._done
                most = self._begun.size or self._wanted.size
                if most is not None and done > most:
                    raise FetchError(f"{self._wanted.source} is larger than the {most} bytes that it has")
                if checked == 0 or done - checked >= _CHECK_BYTES:
                    checked = done
                    self._peek(self._path)
                    if shutil.disk_usage(self._path.parent).free < FREE_BYTES:
                        raise FetchError(f"the disk of {self._path.parent} is full")
                self._hear(done, self._begun.size)
        except OSError as error:
            raise FetchError(f"{self._path} cannot be written: {error.strerror}") from None
        if self._begun.size is not None and self._done < self._begun.size:
            raise BrokenError(f"{self._wanted.source} cannot be fetched: it ended early")

    # --- its beginning and its end ---

    def _begin_anew(self, begun: _Begun) -> None:
        self._part.truncate(0)
        self._begun = begun
        if begun.validator:
            durable.replace(self._notes, json.dumps(asdict(begun)), mode=0o600)
        else:
            self._notes.unlink(missing_ok=True)

    def _read_notes(self) -> _Begun:
        try:
            begun = _Begun(**documents.parse_object(self._notes.read_bytes()))
        except (OSError, ValueError, TypeError):
            return _Begun("")
        return begun if begun.source == self._wanted.source else _Begun("")

    def _finish(self) -> Got:
        self._part.flush()
        os.fsync(self._part.fileno())
        self._peek(self._path)
        found = digest_of(self._path)
        expected = self._wanted.sha256.lower() or self._begun.sha256
        size = self._done
        if expected and found != expected:
            self._notes.unlink(missing_ok=True)
            self._path.unlink()
            raise FetchError(
                f"{self._wanted.source} has the SHA-256 {found}, not {expected}: nothing of it is kept"
            )
        self._path.rename(self._wanted.target)
        self._notes.unlink(missing_ok=True)
        durable.sync(self._wanted.target.parent)
        return Got(found, size, bool(expected))


def _described(source: str, answer: http.Response) -> _Begun:
    """What an answer says of the whole file."""
    headers = answer.headers
    etag, length = headers.get("etag", ""), headers.get("content-length", "")
    # A weak tag says that two files mean the same, not that they have the same bytes.
    validator = etag if etag.startswith('"') else headers.get("last-modified", "")
    size = int(length) if length.isascii() and length.isdecimal() and len(length) < 19 else None
    return _Begun(source, validator if size is not None else "", size, _stated_digest(headers))


def _stated_digest(headers: http.Headers) -> str:
    for name in ("repr-digest", "digest"):
        for part in headers.get(name, "").split(","):
            if found := _SHA256.fullmatch(part.strip()):
                with contextlib.suppress(binascii.Error):
                    return base64.b64decode(found[1], validate=True).hex()
    return ""


def gib(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / (1 << 30):.2f} GiB"
