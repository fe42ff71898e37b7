"""Owns the folder that the journal lies in: whether it can be used, and how its files are written and synced.

It must not know what is in the files.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Protocol

from daemon.machine import durable

MIN_FREE_BYTES = 16 * 1024 * 1024


class JournalError(Exception):
    """The journal cannot be used; the text names the remedy."""


class Disk(Protocol):
    """A folder of files. Every method may raise OSError; nothing is durable before it is synced."""

    def names(self) -> list[str]:
        """The files that there are."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file; creates it if there is none. A failure may leave a part of the data."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file to `size` bytes."""
        ...

    def sync(self, name: str) -> None:
        """Makes a file's content durable."""
        ...

    def sync_folder(self) -> None:
        """Makes durable which files there are."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Gives a file new content, whole or not at all; durable after a sync of the folder."""
        ...

    def delete(self, name: str) -> None:
        """Removes a file; a missing file is not an error."""
        ...

    def free_bytes(self) -> int:
        """How much can still be written."""
        ...


def journal_folder(state_dir: Path) -> Path:
    """Where the journal of a state folder is."""
    return state_dir / "journal"


def problem(state_dir: Path) -> str:
    """Why no journal can be kept in a state folder, and the remedy; empty when one can. Makes nothing."""
    existing = next(
        path for path in (journal_folder(state_dir), *journal_folder(state_dir).parents) if path.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written: correct its owner and mode, or set DCP_STATE_DIR"
    try:
        # Asking for space says nothing of a file system that is mounted read-only.
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{existing} cannot be written ({error.strerror}): make room, or set DCP_STATE_DIR"
    if (free := _free_bytes(existing)) < MIN_FREE_BYTES:
        return f"{existing} has {free >> 20} MiB left, and {MIN_FREE_BYTES >> 20} are needed: make room"
    return ""


def _check_owner(state_dir: Path) -> None:
    """Keeps root from writing what the service's user could not read afterwards. Raises JournalError."""
    if os.geteuid() == 0 and state_dir.exists() and state_dir.stat().st_uid != 0:
        raise JournalError(
            f"{state_dir} belongs to another user, who could not read what root writes there: "
            "run systemctl start dcp-daemon, or dcp-daemon run as that user"
        )


class FileDisk:
    """A real folder, for this user and one daemon only."""

    def __init__(self, folder: Path) -> None:
        """Raises JournalError when the folder cannot be used or another daemon uses it."""
        self._folder = folder
        _check_owner(folder.parent)
        try:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            for path in made:
                durable.sync(path.parent)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"the journal's folder {folder} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise JournalError(
                f"another daemon uses {folder}: stop it, or set DCP_STATE_DIR to another folder"
            ) from None

    def close(self) -> None:
        """Lets another daemon use the folder."""
        os.close(self._lock)

    def names(self) -> list[str]:
        """The files that there are."""
        return sorted(path.name for path in self._folder.iterdir() if path.name != "lock")

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self._folder / name).read_bytes()

    def append(self, name: str, data: bytes) -> None:
        """Adds to a file's end."""
        self._write(name, data, os.O_APPEND)

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file."""
        os.truncate(self._folder / name, size)

    def sync(self, name: str) -> None:
        """Makes a file's content durable."""
        durable.sync(self._folder / name)

    def sync_folder(self) -> None:
        """Makes durable which files there are."""
        durable.sync(self._folder)

    def replace(self, name: str, data: bytes) -> None:
        """Gives a file new content."""
        new = name + ".new"
        try:
            self._write(new, data, os.O_TRUNC)
            self.sync(new)
            (self._folder / new).replace(self._folder / name)
        except OSError:
            self.delete(new)
            raise

    def delete(self, name: str) -> None:
        """Removes a file."""
        (self._folder / name).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """How much this user can still write."""
        return _free_bytes(self._folder)

    def _write(self, name: str, data: bytes, flag: int) -> None:
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
