"""Owns how a job's inputs become the files of its folder `/input`: which are taken, and how much.

An input is a renter's, so it is hostile to the provider: names never lead out of the folder, links only
within it, devices are not taken, and what unpacks to more than its limits is refused before it takes the
room. Nothing of a renter's tar reaches the container engine: the files are written into a tar of our own.
Everything here blocks. It must not know containers or processes.
"""

from __future__ import annotations

import io
import itertools
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from daemon.runners.output_folder import name_problem

MAX_ENTRIES = 200_000
MAX_HEAD_BYTES = 64 * 1024
"""Most bytes of what a tar says about one entry before it."""
_CHUNK = 1024 * 1024
_GZIP = b"\x1f\x8b"
_HEADS = frozenset(
    {
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    }
)


class RefusedError(Exception):
    """The inputs are not taken; the text is for the renter."""


@dataclass(frozen=True)
class Given:
    """An input that is on this machine."""

    file: Path
    path: str
    """Where it lies below `/input`; empty for a tar that is unpacked there."""
    unpack: bool


@dataclass(frozen=True)
class InputRoom:
    """What of the disk inputs may take before they are given to a job."""

    kept_bytes: int = 32 << 30
    """The most that they take together; those unused longest are removed first."""
    free_bytes: int = 2 << 30
    """What stays free."""


@dataclass(frozen=True)
class Limits:
    """How much the inputs of one job may be."""

    unpacked_bytes: int
    entries: int = MAX_ENTRIES


class _Member(tarfile.TarInfo):
    """An entry of a stranger's tar. What is said before its file is read whole, so it has a limit."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADS and self.size > MAX_HEAD_BYTES:
            raise tarfile.ReadError(f"an entry has more than {MAX_HEAD_BYTES} bytes of names and attributes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it has files with holes; pack it without --sparse")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found

    def _no_holes(self, *_: object) -> None:
        raise tarfile.ReadError("it has files with holes; pack it without --sparse")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _no_holes


class _Folder:
    """What has a place in `/input` so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._entries = 0
        self._files: set[str] = set()
        self._folders: set[str] = {""}
        self._links: set[str] = set()

    def add(self, name: str, size: int, *, is_folder: bool = False, is_link: bool = False) -> None:
        """Takes a place for an entry. Raises RefusedError."""
        self._entries += 1
        self._bytes += size
        if self._entries > self._limits.entries:
            raise RefusedError(f"the inputs have more than {self._limits.entries} files and folders")
        if self._bytes > self._limits.unpacked_bytes:
            raise RefusedError(
                f"the inputs have, unpacked, more than the {self._limits.unpacked_bytes} bytes that are taken"
            )
        if problem := name_problem(name):
            raise RefusedError(f"{_shown(name)}: {problem}")
        parts = name.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in self._files or above in self._links:
                raise RefusedError(f"{_shown(name)}: {_shown(above)} is no folder")
            self._folders.add(above)
        if name in self._files or name in self._links or (name in self._folders and not is_folder):
            raise RefusedError(f"{_shown(name)}: another file has this place")
        (self._folders if is_folder else self._links if is_link else self._files).add(name)


def pack(given: Sequence[Given], texts: dict[str, bytes], into: Path, limits: Limits) -> int:
    """Writes a tar with the files of `/input` and returns its size. Raises RefusedError, OSError.

    `texts`: files that came with the job itself.
    """
    folder = _Folder(limits)
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in texts.items():
            folder.add(name, len(content))
            _write(tar, name, len(content), _reader(content), is_program=True)
        for one in given:
            if one.unpack:
                _unpack(tar, folder, one)
                continue
            size = one.file.stat().st_size
            folder.add(one.path, size)
            with one.file.open("rb") as source:
                _write(tar, one.path, size, source)
        end = file.tell() + 2 * tarfile.BLOCKSIZE
    # Podman stops reading where the tar ends, and does not bear the padding that follows.
    os.truncate(into, end)
    return end


def unpack(packed: Path, folder: Path) -> None:
    """Writes the files of a tar that `pack` made below an empty folder, read-only. Raises OSError."""
    with tarfile.open(packed, "r:") as tar:
        for member in tar:
            place = folder / member.name
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if member.isdir():
                place.mkdir(mode=0o700, exist_ok=True)
            elif member.issym():
                place.symlink_to(member.linkname)
            else:
                source = tar.extractfile(member)
                assert source is not None, "a regular file has content"
                with place.open("xb") as file:
                    _copy(source, file, member.size)
                place.chmod(0o500 if member.mode & 0o100 else 0o400)


def _unpack(tar: tarfile.TarFile, folder: _Folder, one: Given) -> None:
    prefix = f"{one.path}/" if one.path else ""
    try:
        with one.file.open("rb") as source:
            for member, content in _members(source):
                name = _place(member.name)
                if not name:
                    continue  # the folder that was packed
                _take(tar, folder, prefix, name, member, content)
    except (tarfile.TarError, EOFError, RecursionError, ValueError, zlib.error) as error:
        text = str(error) if isinstance(error, tarfile.TarError) else "it is cut or damaged"
        raise RefusedError(f"the tar cannot be unpacked: {text[:200]}") from None


def _take(
    tar: tarfile.TarFile,
    folder: _Folder,
    prefix: str,
    name: str,
    member: tarfile.TarInfo,
    content: BinaryIO | None,
) -> None:
    place = prefix + name
    if member.isreg():
        assert content is not None, "a regular file has content"
        folder.add(place, member.size)
        _write(tar, place, member.size, content, is_program=bool(member.mode & 0o111))
    elif member.isdir():
        folder.add(place, 0, is_folder=True)
        entry = tarfile.TarInfo(place)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o555
        tar.addfile(entry)
    elif member.issym():
        _refuse_leading_out(name, member.linkname)
        folder.add(place, 0, is_link=True)
        entry = tarfile.TarInfo(place)
        entry.type, entry.linkname = tarfile.SYMTYPE, member.linkname
        tar.addfile(entry)
    else:
        kind = "a hard link; pack it with --hard-dereference" if member.islnk() else "a device or a pipe"
        raise RefusedError(f"{_shown(name)}: it is {kind}")


def _members(source: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO | None]]:
    """The entries of a tar, each with its content, read once from its begin to its end."""
    is_packed = source.read(2) == _GZIP
    source.seek(0)
    with tarfile.open(
        fileobj=source, mode="r|gz" if is_packed else "r|", tarinfo=_Member, errors="surrogateescape"
    ) as tar:
        count = 0
        while (member := tar.next()) is not None:
            count += 1
            _check_size(tar, member)
            yield member, tar.extractfile(member) if member.isreg() else None  # type: ignore[misc]
            tar.members = []  # type: ignore[attr-defined]  # the library keeps them all
        if not count and os.fstat(source.fileno()).st_size % tarfile.BLOCKSIZE and not is_packed:
            raise tarfile.ReadError("it is no tar")


def _check_size(tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Refuses sizes that make the library read elsewhere than the entry lies."""
    if member.size < 0:
        raise tarfile.ReadError("an entry has a size below zero")
    if "size" in tar.pax_headers:  # it holds for all entries, but the library knows it only after the first
        raise tarfile.ReadError("its global header sets the size of entries")


def _place(name: str) -> str:
    """The name without what leads nowhere; one that leads out stays as it is, and is refused."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name in (".", "./", "") else name.rstrip("/")


def _refuse_leading_out(name: str, target: str) -> None:
    """Refuses a link that leads out of what was packed, also by way of other links."""
    steps = [part for part in target.split("/") if part not in ("", ".")]
    if ".." in itertools.dropwhile("..".__eq__, steps):
        # Behind a name that is a link itself, it would lead from where that one leads.
        raise RefusedError(
            f"{_shown(name)}: it is a link with `..` behind a name; pack it with --dereference"
        )
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if target.startswith("/") or end == ".." or end.startswith("../") or not target or "\0" in target:
        raise RefusedError(f"{_shown(name)}: it is a link that leads out of the folder")


def _write(tar: tarfile.TarFile, name: str, size: int, source: BinaryIO, *, is_program: bool = False) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o555 if is_program else 0o444
    tar.addfile(entry, source)


def _copy(source: IO[bytes], file: BinaryIO, size: int) -> None:
    while size and (data := source.read(min(_CHUNK, size))):
        file.write(data)
        size -= len(data)


def _reader(content: bytes) -> BinaryIO:
    return io.BytesIO(content)


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "replace").decode()[:200])
