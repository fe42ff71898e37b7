"""The journal: what this daemon has promised and not yet been relieved of, safe from a crash.

One append-only sequence of entries for all attempts, in segments of bounded size. An attempt is in it from
the offer's acceptance until its result is acknowledged. Entries that are written together share one sync. A
`Disk` holds the files; the simulator passes one that loses what was not synced. It must not know the session
or the event loop: everything here blocks.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.journal import segment as form
from daemon.journal.disk import MIN_FREE_BYTES, Disk, JournalError
from daemon.journal.encoding import decode
from daemon.journal.segment import HEADER_BYTES, Attempt, AttemptId, Entry, attempt_id
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import (
    Accepted,
    Chunk,
    Finished,
    History,
    Reading,
    Record,
    Started,
    Stored,
    replay,
)

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 256 * 1024
"""A segment of this size takes no more entries; the last one may pass it."""

# Whether a record must be durable before the session continues. The others only keep their place: they become
# durable with what follows, and losing them loses nothing that was reported. The same holds for `Forget`.
MUST_BE_DURABLE: dict[type[Record], bool] = {
    Accepted: True,  # reported by OfferReply
    Started: True,  # reported by JobStarted
    Chunk: True,  # reported by OutputChunk or LogChunk; of a chat, they come with the result
    Finished: True,  # reported by JobFinished
    Reading: False,  # after a loss of power no run continues; after a kill the kernel has it
    Stored: False,  # the server has these pieces, and recognizes them if they come again
}

_SUFFIX = ".segment"
_OLD_SUFFIX = ".attempt"


class _Segment:
    """What the journal knows of one segment."""

    def __init__(self, name: str, marker: bytes, size: int) -> None:
        self.name = name
        self.marker = marker
        self.size = size
        """With what is written and not yet synced."""
        self.is_synced = True


@dataclass
class _Lease:
    """What the journal knows of one attempt."""

    number: int
    """Of its last entry."""
    takes_more: bool = True


@dataclass(frozen=True)
class _Write:
    """An entry of a batch, with its position in the batch."""

    at: int
    entry: Entry

    @property
    def must_sync(self) -> bool:
        return any(MUST_BE_DURABLE[type(record)] for record in self.entry.records)


class Journal:
    """The attempts' entries. Used by one thread at a time."""

    def __init__(self, disk: Disk, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        """In order; the last one takes the entries."""
        self._attempts: dict[AttemptId, _Lease] = {}
        self._next_segment = 1
        self._compact_at = segment_bytes
        self._old_files: list[str] = []
        """Of an earlier version, a file for each attempt."""
        self._is_suspect = False
        """A sync or a cut failed: all is written anew before more is appended."""

    @property
    def size_bytes(self) -> int:
        """Of all segments. Any thread may ask: it may be a moment old."""
        return sum(segment.size for segment in list(self._segments))

    def recover(self) -> list[History]:
        """The attempts in the journal; torn ends are cut off. Raises JournalError when it cannot be read.

        It is durable on return. If it cannot be made durable, its attempts take no more records, so that each
        run is given back as soon as it has something to save.
        """
        try:
            attempts = self._recover_files()
        except OSError as error:
            raise JournalError(f"the journal cannot be read: {error.strerror}") from None
        # With no attempt to keep, what there is gives way to a new segment: its name may not be durable.
        self._is_suspect = not attempts
        failure = self._make_durable(attempts) if attempts else None
        if failure is not None:
            logger.error("the journal could not be synced error=%s", failure)
        for attempt, known in attempts.items():
            self._attempts.setdefault(attempt, _Lease(known.number)).takes_more = failure is None
        self._tidy()
        return [known.history for known in attempts.values()]

    def write(self, entries: Sequence[Persist | Forget]) -> list[OSError | None]:
        """Carries out the entries in order with one sync for all; says which failed, and why.

        A Persist without an error is durable on return if one of its records must be (`MUST_BE_DURABLE`).
        None of the records of one with an error are found again.
        """
        errors: list[OSError | None] = [None] * len(entries)
        error = _attempt(self._write_anew) if self._is_suspect or not self._segments else None
        writes = self._prepare(entries, errors)
        if error := error or _attempt(self._write, writes, errors):
            for write in writes:
                errors[write.at] = error
        for write in writes:
            if not write.entry.records:
                self._attempts.pop(write.entry.attempt, None)
            elif errors[write.at] is None:
                self._attempts[write.entry.attempt] = _Lease(write.entry.number)
        self._tidy()
        return errors

    # --- writing ---

    def _prepare(self, entries: Sequence[Persist | Forget], errors: list[OSError | None]) -> list[_Write]:
        """What is to be written; an entry that must not be is given its error."""
        numbers = {attempt: lease.number for attempt, lease in self._attempts.items() if lease.takes_more}
        writes = []
        for at, entry in enumerate(entries):
            attempt = attempt_id(entry.lease)
            records = entry.records if isinstance(entry, Persist) else ()
            if isinstance(entry, Forget):
                is_known = numbers.pop(attempt, None) is not None or attempt in self._attempts
                if is_known:
                    writes.append(_Write(at, Entry(attempt, 0, ())))
            elif error := self._refusal(records, is_known=attempt in numbers):
                errors[at] = error
            elif records:
                numbers[attempt] = numbers.get(attempt, -1) + 1
                writes.append(_Write(at, Entry(attempt, numbers[attempt], records)))
        return writes

    def _refusal(self, records: Sequence[Record], *, is_known: bool) -> OSError | None:
        if any(isinstance(record, Accepted) for record in records):
            return _attempt(self._check_room)
        return None if is_known else OSError(errno.EIO, "the attempt's journal was lost")

    def _check_room(self) -> None:
        """A job is refused if its output will not fit."""
        if self._disk.free_bytes() < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, writes: list[_Write], errors: list[OSError | None]) -> None:
        """Appends the entries and syncs them. Raises OSError if none of them was written."""
        begin = self._segments[-1].size
        if writes and _attempt(self._append, writes):
            self._append_singly(writes, errors)
        if not any(write.must_sync and errors[write.at] is None for write in writes):
            return
        if error := _attempt(self._sync):
            self._cut(begin)
            raise error

    def _append_singly(self, writes: list[_Write], errors: list[OSError | None]) -> None:
        """An entry that does not fit fails alone, with the later ones of its attempt."""
        failed: dict[AttemptId, OSError] = {}
        for write in writes:
            earlier = failed.get(write.entry.attempt) if write.entry.records else None
            if error := earlier or _attempt(self._append, [write]):
                failed[write.entry.attempt] = errors[write.at] = error

    def _append(self, writes: Iterable[_Write]) -> None:
        """Appends to the last segment; a failure leaves nothing."""
        active = self._segments[-1]
        if self._is_suspect:
            raise OSError(errno.EIO, "what is left of a failed write could not be cut off")
        data = b"".join(form.frame(active.marker, write.entry) for write in writes)
        try:
            self._disk.append(active.name, data)
        except OSError:
            self._cut(active.size)
            raise
        active.size += len(data)
        active.is_synced = False

    def _cut(self, size: int) -> None:
        """What is left of a failed write must not stand before the next one."""
        active = self._segments[-1]
        active.size = size
        if _attempt(self._disk.truncate, active.name, size):
            self._is_suspect = True

    def _sync(self) -> None:
        """Makes the last segment durable; the others are."""
        try:
            self._disk.sync(self._segments[-1].name)
        except OSError:
            # The kernel may have dropped what it could not write, earlier entries among it.
            self._is_suspect = True
            raise
        self._segments[-1].is_synced = True

    # --- keeping it small ---

    def _tidy(self) -> None:
        """Empties, shortens or continues the journal when it is time."""
        size = sum(segment.size for segment in self._segments)
        if not self._attempts:
            self._empty()
        elif size >= self._compact_at:
            if error := _attempt(self._write_anew):
                self._compact_at = size + self._segment_bytes
                logger.warning("the journal could not be made smaller error=%s", error)
        elif self._segments and self._segments[-1].size >= self._segment_bytes:
            self._continue()

    def _empty(self) -> None:
        """Nothing is to be kept. What comes back after a crash is reported again, and recognized."""
        if len(self._segments) > 1 or self._is_suspect or self._old_files:
            self._remove_all()
            self._segments, self._is_suspect = [], False
        elif self._segments and self._segments[0].size > HEADER_BYTES:
            self._cut(HEADER_BYTES)
        self._compact_at = self._segment_bytes

    def _continue(self) -> None:
        """Begins a new segment, if the disk lets it. All that lies before it is durable."""
        try:
            if not self._segments[-1].is_synced:
                self._sync()
            self._segments += self._created([])
        except OSError as error:
            logger.warning("the journal could not begin a new segment error=%s", error)

    def _write_anew(self) -> None:
        """Replaces all files by new segments without what is not needed any more. Raises OSError."""
        attempts: dict[AttemptId, Attempt] = {}
        for segment in self._segments:
            for entry in form.read(self._disk.read(segment.name)[: segment.size]).entries:
                form.apply(entry, attempts)
        self._add_old_files(attempts)
        kept = {attempt: attempts[attempt] for attempt in self._attempts if attempt in attempts}
        if [known.number for known in kept.values()] != [lease.number for lease in self._attempts.values()]:
            raise OSError(errno.EIO, "the journal cannot be read back")
        self._replace(kept)

    def _replace(self, attempts: dict[AttemptId, Attempt]) -> None:
        """Writes these attempts into new segments, then removes all other files. Raises OSError."""
        # Each is numbered after what it stands for: behind newer entries it is not applied.
        created = self._created(
            Entry(attempt, known.number + 1, known.history.records()) for attempt, known in attempts.items()
        )
        self._remove_all()
        for attempt, known in attempts.items():
            self._attempts.setdefault(attempt, _Lease(0)).number = known.number + 1
        self._segments, self._is_suspect = created, False
        self._compact_at = max(self._segment_bytes, 2 * sum(segment.size for segment in created))

    def _created(self, entries: Iterable[Entry]) -> list[_Segment]:
        """New segments, at least one; durable on return. On failure there are none. Raises OSError."""
        created: list[_Segment] = []
        try:
            for marker, data in self._packed(entries):
                name = f"{self._next_segment:08}{_SUFFIX}"
                self._next_segment += 1
                created.append(_Segment(name, marker, len(data)))
                self._disk.replace(name, data)
            self._disk.sync_folder()
        except OSError:
            for segment in created:
                _attempt(self._disk.delete, segment.name)
            raise
        return created

    def _packed(self, entries: Iterable[Entry]) -> Iterator[tuple[bytes, bytes]]:
        """The contents of new segments, each with its marker."""
        data, marker = form.header()
        for entry in entries:
            if len(data) >= self._segment_bytes:
                yield marker, data
                data, marker = form.header()
            data += form.frame(marker, entry)
        yield marker, data

    def _remove_all(self) -> None:
        """Removes every file that the journal has taken entries from."""
        names = [segment.name for segment in self._segments] + self._old_files
        if not names:
            return
        for name in names:
            if error := _attempt(self._disk.delete, name):
                logger.warning("a file of the journal could not be removed file=%s error=%s", name, error)
        self._old_files = []
        if error := _attempt(self._disk.sync_folder):
            logger.warning("the journal's folder could not be synced error=%s", error)

    # --- recovering ---

    def _recover_files(self) -> dict[AttemptId, Attempt]:
        """The attempts in all files. What is no file of the journal is removed."""
        attempts: dict[AttemptId, Attempt] = {}
        names = self._disk.names()
        segments = sorted((name for name in names if _number(name)), key=_number)
        for name in segments:
            self._next_segment = _number(name) + 1
            self._recover_segment(name, attempts)
        self._old_files = [name for name in names if name.endswith(_OLD_SUFFIX)]
        self._add_old_files(attempts)
        for name in names:
            if name not in segments and name not in self._old_files:
                self._disk.delete(name)
        return attempts

    def _recover_segment(self, name: str, attempts: dict[AttemptId, Attempt]) -> None:
        data = self._disk.read(name)
        try:
            content = form.read(data)
        except form.UnknownVersionError as error:
            raise JournalError(
                f"the journal's file {name} was written by another version of dcp-daemon ({error}): "
                "run that version, and end it with SIGTERM, which drains it, before this one starts"
            ) from None
        for entry in content.entries:
            if not form.apply(entry, attempts):
                logger.error("left out a record behind a gap file=%s attempt=%s", name, entry.attempt.hex())
        for damage in content.damage:
            logger.error(
                "the journal is damaged file=%s offset=%d bytes=%d", name, damage.offset, damage.size
            )
        if content.end < len(data):
            torn = len(data) - content.end
            logger.warning(
                "cut a torn record off the journal file=%s offset=%d bytes=%d", name, content.end, torn
            )
            self._disk.truncate(name, content.end)
        if content.end == 0:
            self._disk.delete(name)
        else:
            self._segments.append(_Segment(name, content.marker, content.end))

    def _add_old_files(self, attempts: dict[AttemptId, Attempt]) -> None:
        """Adds what an earlier version of the daemon kept in a file for each attempt."""
        for name in self._old_files:
            data = self._disk.read(name)
            records, size = decode(data)
            if size < len(data):
                logger.warning("left out a torn record file=%s offset=%d", name, size)
            if (history := replay(records)) is not None:
                attempts.setdefault(attempt_id(history.offer.lease), Attempt(0, history))

    def _make_durable(self, attempts: dict[AttemptId, Attempt]) -> OSError | None:
        """Makes durable what was read: an earlier process may have died between a write and its sync.

        A sync is the second choice: if an earlier one failed, it may succeed without what that one lost.
        """
        if (error := _attempt(self._replace, attempts)) is None:
            return None
        logger.warning("the journal could not be written anew error=%s", error)
        names = [*(segment.name for segment in self._segments), *self._old_files]
        errors = [_attempt(self._disk.sync_folder), *(_attempt(self._disk.sync, name) for name in names)]
        self._is_suspect |= bool(self._old_files) or any(errors)
        return next(filter(None, errors), None)


def _number(name: str) -> int:
    """The number of a segment, from 1; 0 for the name of another file."""
    stem, dot, suffix = name.partition(".")
    return int(stem) if dot + suffix == _SUFFIX and stem.isdecimal() else 0


def _attempt(work: Callable[..., None], *arguments: Any) -> OSError | None:
    """Does something and returns the error of the disk, if there was one."""
    try:
        work(*arguments)
    except OSError as error:
        return error
    return None
