"""A disk for the journal, in memory. A crash loses what was not synced, and the disk can be full."""

from __future__ import annotations

import errno
from random import Random


class MemoryDisk:
    """Has the shape of `daemon.journal.disk.Disk`; deterministic.

    `is_full`: appends fail. `free`: the free bytes that it reports. `fails_to_sync`: syncs of files fail;
    `fails_to_sync_folder`: those of the folder.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.free = 1 << 40
        self.fails_to_sync = False
        self.fails_to_sync_folder = False
        self.syncs = 0
        self._files: dict[str, bytearray] = {}
        self._durable: dict[str, bytes] = {}
        self._synced: dict[str, bytes] = {}
        self._replaced: set[str] = set()

    def names(self) -> list[str]:
        """The names of the files."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """A file's content, whether synced or not."""
        return bytes(self._files[name])

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file; a full disk stores a part before it fails."""
        file = self._files.setdefault(name, bytearray())
        if self.is_full:
            file += data[: len(data) // 2]
            raise OSError(errno.ENOSPC, "No space left on device")
        file += data

    def truncate(self, name: str, size: int) -> None:
        """Truncates a file."""
        del self._files[name][size:]

    def sync(self, name: str) -> None:
        """Makes a file's content durable if its folder entry is durable."""
        if self.fails_to_sync:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        self._synced[name] = bytes(self._files[name])
        if name in self._durable and name not in self._replaced:
            self._durable[name] = self._synced[name]

    def sync_folder(self) -> None:
        """Makes the folder's entries durable."""
        if self.fails_to_sync_folder:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        self._replaced.clear()
        self._durable = {name: self._synced.get(name, b"") for name in self._files}

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a file's content atomically; until the folder is synced, a crash may restore the old."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._files[name] = bytearray(data)
        self._synced[name] = bytes(data)
        self._replaced.add(name)

    def delete(self, name: str) -> None:
        """Removes a file."""
        self._files.pop(name, None)
        self._synced.pop(name, None)
        self._replaced.discard(name)

    def free_bytes(self) -> int:
        """The value that was set, or 0 if the disk is full."""
        return 0 if self.is_full else self.free

    def crash(self, rng: Random) -> None:
        """Simulates a power cut: any prefix of the data that was not synced may have reached the disk."""
        for name in sorted(self._replaced & self._durable.keys()):
            if rng.random() < 0.5:
                self._durable[name] = self._synced[name]
        for name, content in self._durable.items():
            written = bytes(self._files.get(name, b""))
            more = written[len(content) :] if written.startswith(content) else b""
            self._durable[name] = content + more[: rng.randint(0, len(more))]
        self._files = {name: bytearray(content) for name, content in self._durable.items()}
        self._synced = dict(self._durable)
        self._replaced.clear()
