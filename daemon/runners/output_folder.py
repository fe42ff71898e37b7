"""Owns how the files that a job left become artifacts: which names and kinds are taken, and how many.

What a job left is hostile: its names never name a file outside its folder, links and devices
are not taken, and what does not fit its limits is not taken at all. Everything
here blocks. It must not know containers or processes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from daemon.work.artifacts import Artifact

MAX_FILES = 1000
MAX_DEPTH = 16
MAX_NAME_BYTES = 1000
MAX_PART_BYTES = 255
MAX_NOTES = 20
_BLOCK = 4096
_CHUNK = 256 * 1024


class TooMuchError(Exception):
    """The files do not fit the limits; the text is for the renter."""


@dataclass
class Collected:
    """What was taken, and what was not."""

    artifacts: list[Artifact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """For the renter: what was left out, and why."""
    used_bytes: int = 0
    """What the files took of the space that they lay in."""


def name_problem(name: str) -> str:
    """Why a file of this name cannot be an artifact; empty when it can."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "its name leads out of the folder"
    if any(ord(character) < 32 or ord(character) == 127 for character in name) or "\\" in name:
        return "its name has characters that names may not have"
    if len(encoded) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return "its name is too long"
    return "it lies too deep" if len(parts) > MAX_DEPTH else ""


class Collector:
    """Copies files, one by one, into a folder of the daemon's own, where they are numbered."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Makes `folder` anew. Raises OSError."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self.collected = Collected()

    def take(self, name: str, size: int, read: Callable[[int], bytes]) -> None:
        """Takes one file. Raises TooMuchError, OSError."""
        if problem := name_problem(name):
            self.refuse(name, problem)
            return
        if len(self.collected.artifacts) >= MAX_FILES:
            raise TooMuchError(f"/output has more than {MAX_FILES} files")
        if self._taken_bytes + size > self._limit_bytes:
            raise TooMuchError(f"the files in /output have more than {self._limit_bytes} bytes")
        path = self._folder / f"{len(self.collected.artifacts):04d}"
        digest, copied = self._copy(path, size, read)
        self._taken_bytes += copied
        self.collected.artifacts.append(Artifact(name, path, copied, digest))

    def refuse(self, name: str, problem: str) -> None:
        """Notes that something was not taken."""
        if len(self.collected.notes) < MAX_NOTES:
            shown = name.encode("utf-8", "replace").decode()[:200]
            self.collected.notes.append(f"not taken from /output: {shown!r}: {problem}")

    def count(self, size: int) -> None:
        """Notes the space that something took where it lay."""
        self.collected.used_bytes += max(1, -(-size // _BLOCK)) * _BLOCK

    def _copy(self, path: Path, size: int, read: Callable[[int], bytes]) -> tuple[bytes, int]:
        digest = hashlib.sha256()
        copied = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # A file that grows meanwhile is cut at the size that was looked at.
            while copied < size and (data := read(min(_CHUNK, size - copied))):
                digest.update(data)
                file.write(data)
                copied += len(data)
        return digest.digest(), copied


def from_tar(tar_file: BinaryIO, folder: Path, limit_bytes: int) -> Collected:
    """The files of a tar whose names begin with the folder that was archived.

    Raises TooMuchError, OSError, tarfile.TarError.
    """
    collector = Collector(folder, limit_bytes)
    with tarfile.open(fileobj=tar_file, mode="r|", errors="surrogateescape") as tar:
        for member in tar:
            _, slash, name = member.name.removeprefix("./").partition("/")
            if not slash and member.isdir():
                continue  # the folder itself
            collector.count(member.size if member.isreg() else 0)
            if member.isreg():
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                collector.take(name, member.size, content.read)
            elif not member.isdir():
                collector.refuse(name, "it is not a plain file")
    return collector.collected


def used_in_tar(tar_file: BinaryIO) -> int:
    """How much space the files of a tar took where they lay. Raises tarfile.TarError."""
    with tarfile.open(fileobj=tar_file, mode="r|", errors="surrogateescape") as tar:
        return sum(max(1, -(-(m.size if m.isreg() else 0) // _BLOCK)) * _BLOCK for m in tar)


def from_folder(output: Path, folder: Path, limit_bytes: int) -> Collected:
    """The files below a folder that a process of another's could still change.

    Every step is by descriptor and follows no link. Raises TooMuchError, OSError.
    """
    collector = Collector(folder, limit_bytes)
    root = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _walk(root, "", collector)
    finally:
        os.close(root)
    return collector.collected


def _walk(descriptor: int, prefix: str, collector: Collector, depth: int = 0) -> None:
    for entry in _entries(descriptor):
        # Names are UTF-8 whatever the machine's locale; what is not is refused.
        name = prefix + os.fsencode(entry).decode("utf-8", "surrogateescape")
        try:
            opened = os.open(
                entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor
            )
        except OSError:
            collector.refuse(name, "it is not a plain file, or cannot be read")
            continue
        try:
            status = os.fstat(opened)
            if stat.S_ISDIR(status.st_mode):
                if depth < MAX_DEPTH:
                    _walk(opened, f"{name}/", collector, depth + 1)
                else:
                    collector.refuse(name, "it lies too deep")
            elif not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                collector.refuse(name, "it is not a plain file")
            else:
                collector.count(status.st_size)
                collector.take(name, status.st_size, partial(os.read, opened))
        finally:
            os.close(opened)


def _entries(descriptor: int) -> Iterator[str]:
    with os.scandir(descriptor) as entries:
        names = sorted(entry.name for _, entry in zip(range(10 * MAX_FILES), entries, strict=False))
    return iter(names)
