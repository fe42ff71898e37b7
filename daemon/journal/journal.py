"""The journal: what this daemon has promised and not yet been relieved of, safe from a crash.

One append-only file for each attempt, from the offer's acceptance until its
result is acknowledged. A `Disk` holds the files; the simulator passes one that
loses what was not synced. It must not know the session or the event loop:
everything here blocks.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from dcp.v1 import sessions_pb2

from daemon.journal.disk import MIN_FREE_BYTES, Disk, JournalError
from daemon.journal.encoding import decode, encode
from daemon.protocol.effects import Forget, Persist
from daemon.protocol.records import Accepted, History, Stored, replay

logger = logging.getLogger(__name__)

COMPACT_BYTES = 256 * 1024
_SUFFIX = ".attempt"


class _File:
    """What the journal knows of one file."""

    def __init__(self, size: int, *, is_listed: bool) -> None:
        self.size = size
        """Of the whole records that are durable; 0 for a new file."""
        self.end = size
        """With what is written and not yet synced."""
        self.is_listed = is_listed
        """The folder durably has this file under its name."""
        self.compact_at = max(COMPACT_BYTES, 2 * size)
        """The size at which to look for records that are not needed any more."""


class Journal:
    """The attempts' files. Used by one thread at a time."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: dict[str, _File] = {}

    def recover(self) -> list[History]:
        """The attempts in the files; torn ends are cut off. Raises JournalError when they cannot be read.

        It is durable on return. A file that could not be synced takes no more records, so that its
        run is given back as soon as it has something to save.
        """
        try:
            histories = [self._recover(name) for name in self._disk.names()]
        except OSError as error:
            raise JournalError(f"the journal cannot be read: {error.strerror}") from None
        self._sync_recovered()
        return [history for history in histories if history is not None]

    def write(self, entries: Sequence[Persist | Forget]) -> list[OSError | None]:
        """Carries out the entries in order with one sync for each file; says which failed, and why.

        An entry without an error is durable on return.
        """
        errors: list[OSError | None] = [None] * len(entries)
        written: dict[str, list[int]] = {}
        for at, entry in enumerate(entries):
            name = _name(entry.lease)
            if isinstance(entry, Forget):
                written.pop(name, None)
            else:
                written.setdefault(name, []).append(at)
            errors[at] = _attempt(self._carry_out, name, entry)
        for name, numbers in written.items():
            self._make_durable(name, numbers, errors)
        if any(isinstance(entry, Forget) for entry in entries) and (
            error := _attempt(self._disk.sync_folder)
        ):
            # What comes back after a crash is reported again to the server, which recognizes it.
            logger.warning("the journal's folder could not be synced error=%s", error)
        for name, numbers in written.items():
            if any(isinstance(record, Stored) for at in numbers for record in _records(entries[at])):
                self._compact(name)
        return errors

    def _recover(self, name: str) -> History | None:
        data = self._disk.read(name) if name.endswith(_SUFFIX) else b""
        records, size = decode(data)
        history = replay(records)
        if history is None:
            self._disk.delete(name)
            return None
        if size < len(data):
            torn = len(data) - size
            logger.warning(
                "cut a torn record off the journal job_id=%s bytes=%d", history.offer.lease.job_id, torn
            )
            self._disk.truncate(name, size)
        self._files[name] = _File(size, is_listed=True)
        return history

    def _sync_recovered(self) -> None:
        """Makes durable what was read: an earlier process may have died between a write and its sync."""
        folder_error = _attempt(self._disk.sync_folder) if self._files else None
        for name in list(self._files):
            if error := folder_error or _attempt(self._disk.sync, name):
                logger.error("a file of the journal could not be synced error=%s", error)
                del self._files[name]

    def _carry_out(self, name: str, entry: Persist | Forget) -> None:
        if isinstance(entry, Forget):
            self._files.pop(name, None)
            self._disk.delete(name)
            return
        if any(isinstance(record, Accepted) for record in entry.records):
            # A job is refused if its output will not fit.
            if self._disk.free_bytes() < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._files[name] = _File(0, is_listed=False)
        elif name not in self._files:
            raise OSError(errno.EIO, "the attempt's journal was lost")
        data = encode(entry.records)
        self._disk.append(name, data)
        self._files[name].end += len(data)

    def _make_durable(self, name: str, numbers: list[int], errors: list[OSError | None]) -> None:
        """Syncs what was appended; a failure is cut off again, with all that shared its sync."""
        error = next((errors[at] for at in numbers if errors[at] is not None), None)
        error = error or _attempt(self._sync, name)
        if error is not None:
            self._cut_back(name)
            for at in numbers:
                errors[at] = error

    def _sync(self, name: str) -> None:
        file = self._files[name]
        self._disk.sync(name)
        if not file.is_listed:
            self._disk.sync_folder()
        file.size, file.is_listed = file.end, True

    def _cut_back(self, name: str) -> None:
        """What is left of a failed write must not stand between two whole records."""
        file = self._files.get(name)
        if file is None or not file.size:
            self._files.pop(name, None)
            _attempt(self._disk.delete, name)
        elif _attempt(self._disk.truncate, name, file.size) is None:
            file.end = file.size
        else:
            # A file that cannot be mended takes nothing more; what is whole in it stays.
            self._files.pop(name)

    def _compact(self, name: str) -> None:
        """Writes a file anew without what the server has stored, when it has grown to twice its size."""
        file = self._files.get(name)
        if file is None or file.size < file.compact_at:
            return
        if error := _attempt(self._write_anew, name):
            file.compact_at *= 2
            logger.warning("the journal could not be made smaller error=%s", error)

    def _write_anew(self, name: str) -> None:
        history = replay(decode(self._disk.read(name))[0])
        assert history is not None, "its first record was written with it"
        data = encode(history.records())
        self._disk.replace(name, data)
        # The old file is gone. Until the folder is synced, a crash may bring it back without later records.
        self._files[name] = file = _File(len(data), is_listed=False)
        self._disk.sync_folder()
        file.is_listed = True


def _attempt(work: Callable[..., None], *arguments: Any) -> OSError | None:
    """Does something and returns the error of the disk, if there was one."""
    try:
        work(*arguments)
    except OSError as error:
        return error
    return None


def _records(entry: Persist | Forget) -> Sequence[object]:
    return entry.records if isinstance(entry, Persist) else ()


def _name(lease: sessions_pb2.Lease) -> str:
    # The server chooses a job's id: hashed, it cannot name another file.
    return hashlib.sha256(lease.SerializeToString(deterministic=True)).hexdigest()[:40] + _SUFFIX
