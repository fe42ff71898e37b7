"""A disk for the journal, in memory. A crash loses what was not synced, and the disk can be full."""

from __future__ import annotations

import errno
from random import Random


class _File:
    """A file's content, what of it is durable, and the operations since then."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = b""
        self.pending: list[bytes | int] = []
        """Data that was appended, or a size to which the file was cut."""
        self.dropped: list[tuple[int, int]] = []
        """Ranges that a failed sync lost: the kernel shows them, and no later sync writes them."""

    def append(self, data: bytes) -> None:
        self.content += data
        self.pending.append(data)

    def truncate(self, size: int) -> None:
        del self.content[size:]
        self.pending.append(size)
        self.dropped = [(begin, min(end, size)) for begin, end in self.dropped if begin < size]

    def sync(self) -> None:
        self.durable = bytes(self.content)
        self.pending = []

    def fail_to_sync(self) -> None:
        kept = min([len(self.durable), *(size for size in self.pending if isinstance(size, int))])
        if kept < len(self.content):
            self.dropped.append((kept, len(self.content)))

    def after_a_crash(self, rng: Random) -> _File:
        """What the disk has: the first operations, the next one in part, and pages out of order."""
        content = bytearray(self.durable)
        safe = len(content)
        done = rng.randint(0, len(self.pending))
        for operation in self.pending[:done]:
            if isinstance(operation, int):
                del content[operation:]
                safe = min(safe, operation)
            else:
                content += operation
        if done < len(self.pending) and isinstance(torn := self.pending[done], bytes):
            content += torn[: rng.randint(0, len(torn))]
        if len(content) > safe and rng.random() < 0.25:
            begin = rng.randint(safe, len(content))
            end = rng.randint(begin, len(content))
            content[begin:end] = bytes(end - begin)
        for begin, end in self.dropped:
            if rng.random() < 0.5:
                end = min(end, len(content))
                content[begin:end] = bytes(max(0, end - begin))
        left = _File()
        left.append(bytes(content))
        left.sync()
        return left


class MemoryDisk:
    """Has the shape of `daemon.journal.disk.Disk`; deterministic.

    `is_full`: appends fail. `free`: the free bytes that it reports. `fails_to_sync`: syncs of files fail;
    `fails_to_sync_folder`: those of the folder; `fails_to_cut`: files cannot be cut. `room`: the longest data
    that can be appended, if not all.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.free = 1 << 40
        self.room: int | None = None
        self.fails_to_sync = False
        self.fails_to_sync_folder = False
        self.fails_to_cut = False
        self.syncs = 0
        self._files: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}

    def names(self) -> list[str]:
        """The names of the files."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """A file's content, whether synced or not."""
        return bytes(self._files[name].content)

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file; a full disk stores a part before it fails."""
        file = self._files.setdefault(name, _File())
        room = len(data) // 2 if self.is_full else self.room
        if room is not None and (self.is_full or len(data) > room):
            file.append(data[:room])
            raise OSError(errno.ENOSPC, "No space left on device")
        file.append(data)

    def truncate(self, name: str, size: int) -> None:
        """Truncates a file."""
        if self.fails_to_cut:
            raise OSError(errno.EIO, "Input/output error")
        self._files[name].truncate(size)

    def sync(self, name: str) -> None:
        """Makes a file's content durable, but not its name."""
        if self.fails_to_sync:
            self._files[name].fail_to_sync()
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        self._files[name].sync()

    def sync_folder(self) -> None:
        """Makes the folder's entries durable."""
        if self.fails_to_sync_folder:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        self._durable = dict(self._files)

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a file's content atomically; until the folder is synced, a crash may restore the old."""
        if self.is_full or self.fails_to_sync:
            number = errno.ENOSPC if self.is_full else errno.EIO
            raise OSError(number, "No space left on device" if self.is_full else "Input/output error")
        file = _File()
        file.append(bytes(data))
        file.sync()
        self._files[name] = file

    def delete(self, name: str) -> None:
        """Removes a file."""
        self._files.pop(name, None)

    def free_bytes(self) -> int:
        """The value that was set, or 0 if the disk is full."""
        return 0 if self.is_full else self.free

    def crash(self, rng: Random) -> None:
        """Simulates a power cut: each name and each file is as it was at some time since its sync."""
        files = {}
        for name in sorted(self._files.keys() | self._durable.keys()):
            now, before = self._files.get(name), self._durable.get(name)
            file = now if now is before or rng.random() < 0.5 else before
            if file is not None:
                files[name] = file.after_a_crash(rng)
        self._files = files
        self._durable = dict(files)
