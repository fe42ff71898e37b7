"""Owns what is uploaded for a folder: its large files one by one, and the small ones in one tar.

The same files make the same bytes, whenever and wherever they are packed, so that only what changed is
sent. It knows no HTTP.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from dcp_client.downloads import digest
from dcp_client.errors import UnsafeNameError

LARGE_BYTES = 1 << 20
"""A file of at least this size is an input of its own: if it does not change, it is not sent again."""
MOST_LARGE = 60
"""A job has at most 100 inputs; the largest files are those of their own."""


@dataclass(frozen=True)
class Piece:
    """A file on this machine that becomes an input."""

    file: Path
    name: str
    path: str
    """Where it lies below `/input`; for a tar, the folder that it is unpacked into."""
    unpack: bool
    size_bytes: int
    sha256: str


def pieces_of(source: Path, scratch: Path, path: str | None = None) -> list[Piece]:
    """What is uploaded for a file or a folder. ``scratch``: an empty folder for the tar.

    ``path``: where it shall lie below `/input`; by default under its own name. Links to files are followed.
    Raises UnsafeNameError for a name that cannot be brought, and OSError.
    """
    below = source.resolve().name if path is None else path
    if source.is_file():
        return [_piece(source, below, below, unpack=False)]
    found = _files(source)
    large = [name for name, size in found.items() if size >= LARGE_BYTES]
    large.sort(key=lambda name: -found[name])
    own = set(large[:MOST_LARGE])
    pieces = [_piece(source / name, name, _under(below, name), unpack=False) for name in sorted(own)]
    small = [name for name in sorted(found) if name not in own]
    if small or not pieces:
        tar = scratch / f"{source.resolve().name or 'input'}.tar"
        _pack(source, small, tar)
        pieces.append(_piece(tar, tar.name, below, unpack=True))
    return pieces


def _piece(file: Path, name: str, path: str, *, unpack: bool) -> Piece:
    return Piece(file, name[-255:], path, unpack, file.stat().st_size, digest(file))


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _files(folder: Path) -> dict[str, int]:
    """The files below a folder by their names, with their sizes."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            file = Path(parent, name)
            if not file.is_file():
                raise UnsafeNameError(f"{file} is not a plain file, or a link to nothing: leave it out")
            found[file.relative_to(folder).as_posix()] = file.stat().st_size
    return found


def _pack(folder: Path, names: list[str], tar_file: Path) -> None:
    """Packs files without their times and owners, which would make other bytes of the same content."""
    with tarfile.open(tar_file, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            file = folder / name
            entry = tarfile.TarInfo(name)
            status = file.stat()
            entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
