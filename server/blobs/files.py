"""Blobs as files in one folder: the default, for a server on one machine.

A file is written under ``tmp``, synced, and renamed to ``ab/cd/KEY``, so a file under its final name is
complete. All file operations run in threads of this module, never on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from server.blobs import BlobMissingError, BlobStoreError, Stored

log = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 4
READ_BYTES = 256 * 1024
PAGE_FOLDERS = 256
MARK = "market"


class FileBlobs:
    """Blobs in a folder, which is created when the first blob is stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._unfinished = self._folder / "tmp"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    @property
    def folder(self) -> Path:
        """The folder; it may not exist yet."""
        return self._folder

    async def mark(self) -> str:
        """The text that identifies the folder; empty if it has none. Raises BlobStoreError."""
        return await self._do(self._read_mark)

    async def set_mark(self, mark: str) -> None:
        """Identifies the folder by a text. Raises BlobStoreError."""

        def write() -> None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / MARK).write_text(mark, encoding="ascii")

        await self._do(write)

    def _read_mark(self) -> str:
        try:
            return (self._folder / MARK).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return ""

    async def put(self, key: str, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        """See `Blobs.put`."""
        place = self._place(key)
        writing = await self._do(lambda: _Writing(self._unfinished))
        try:
            async for piece in pieces:
                await self._do(partial(writing.write, piece))
            await self._do(lambda: writing.finish(place))
        except BaseException:
            # In a thread, since after a cancellation another thread may still be writing the file.
            self._threads.submit(writing.discard)
            raise

    async def read(self, key: str, first: int, count: int) -> AsyncGenerator[bytes, None]:
        """See `Blobs.read`."""
        reading = await self._do(lambda: _Reading(self._place(key), first))
        try:
            while count:
                piece = await self._do(partial(reading.read, min(READ_BYTES, count)))
                if not piece:
                    raise BlobMissingError(f"{key} ends {count} bytes early")
                count -= len(piece)
                yield piece
        finally:
            self._threads.submit(reading.close)

    async def delete(self, key: str) -> None:
        """See `Blobs.delete`."""
        await self._do(lambda: self._place(key).unlink(missing_ok=True))

    async def list(self) -> AsyncIterator[list[Stored]]:
        """See `Blobs.list`."""
        folders = await self._do(lambda: list(self._folders()))
        for start in range(0, len(folders), PAGE_FOLDERS):
            if found := await self._do(partial(_listed, folders[start : start + PAGE_FOLDERS])):
                yield found

    async def clean(self, age_seconds: float) -> None:
        """See `Blobs.clean`."""

        def clean() -> None:
            for left in _files(self._unfinished):
                if left.age_seconds > age_seconds:
                    (self._unfinished / left.key).unlink(missing_ok=True)

        await self._do(clean)

    async def close(self) -> None:
        """See `Blobs.close`."""
        await asyncio.to_thread(self._threads.shutdown)

    def _place(self, key: str) -> Path:
        return self._folder / key[:2] / key[2:4] / key

    def _folders(self) -> Iterator[Path]:
        for upper in sorted(self._folder.glob("??")):
            yield from sorted(upper.glob("??"))

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError as error:
            raise BlobMissingError(str(error)) from error
        except OSError as error:
            log.error("could not use the folder of artifacts error=%s", error)
            raise BlobStoreError(error.strerror or type(error).__name__) from error


class _Writing:
    """A file that is being written. Its methods may run in different threads, one at a time."""

    def __init__(self, folder: Path) -> None:
        _create_folder(folder)
        self._path = folder / secrets.token_hex(16)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = open(os.open(self._path, _NEW, 0o600), "wb", buffering=0)  # noqa: SIM115, PTH123

    def write(self, piece: bytes) -> None:
        with self._lock:
            rest = memoryview(piece)
            while self._file is not None and rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, place: Path) -> None:
        with self._lock:
            if self._file is None:
                return
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            _create_folder(place.parent)
            self._path.replace(place)
            for folder in (place.parent, place.parent.parent, place.parent.parent.parent):
                _sync(folder)

    def discard(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
                self._file = None
            self._path.unlink(missing_ok=True)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class _Reading:
    """An open file. Its methods may run in different threads, one at a time."""

    def __init__(self, path: Path, first: int) -> None:
        self._lock = threading.Lock()
        self._file = path.open("rb", buffering=0)
        self._file.seek(first)

    def read(self, most: int) -> bytes:
        with self._lock:
            return b"" if self._file.closed else self._file.read(most)

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _create_folder(folder: Path) -> None:
    """Creates a folder and its missing parents, readable only by this user."""
    if not folder.is_dir():
        _create_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _listed(folders: list[Path]) -> list[Stored]:
    return [file for folder in folders for file in _files(folder)]


def _files(folder: Path) -> Iterator[Stored]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield Stored(entry.name, time.time() - entry.stat().st_mtime)
