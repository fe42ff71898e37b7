"""Owns files on this machine that are downloaded: their paths, the part that is there, and the comparison.

A file has its name only when its SHA-256 is right; until then it has another, with `.part`. It knows no HTTP.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Callable

from dcp_client.errors import DigestError, UnsafeNameError
from dcp_client.generated.models import Artifact

Progress = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes that are there, and those that it has."""

_READ_BYTES = 1 << 20
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def target(folder: Path, name: str) -> Path:
    """The path of a file in a folder. Raises UnsafeNameError: names come from programs of others."""
    parts = PurePosixPath(name).parts
    is_bad = (
        not parts
        or name.startswith(("/", "~"))
        or "\\" in name
        or any(part in ("", ".", "..") or ":" in part for part in name.split("/"))
        or any(unicodedata.category(each) in ("Cc", "Cf") for each in name)
        or any(_RESERVED.fullmatch(part) for part in parts)
    )
    path = folder.joinpath(*parts)
    # A link that is already there may lead out of the folder.
    if is_bad or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UnsafeNameError(f"{name!r} is not a name of a file inside of {folder}")
    return path


class PartFile:
    """A file that is being downloaded."""

    def __init__(self, path: Path, artifact: Artifact) -> None:
        self._path = path
        self._artifact = artifact
        # Another version of the file has another part.
        self._part = path.with_name(f"{path.name}.{artifact.sha256[:16]}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("ab")
        self.size = self._part.stat().st_size
        if self.size > artifact.size_bytes:
            self.restart()

    def restart(self) -> None:
        """Begins with nothing."""
        self._file.truncate(0)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Appends bytes. Raises DigestError if the file becomes larger than it was listed."""
        self.size += len(data)
        if self.size > self._artifact.size_bytes:
            self._discard("is larger")
        self._file.write(data)

    def finish(self) -> Path:
        """Gives the file its name if its content is right. Raises DigestError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if digest(self._part) != self._artifact.sha256:
            self._discard("has another SHA-256")
        self._part.replace(self._path)
        return self._path

    def close(self) -> None:
        """Leaves the part for a later download."""
        self._file.close()

    def _discard(self, why: str) -> None:
        self._file.close()
        self._part.unlink()
        raise DigestError(f"{self._artifact.name} {why} than the market listed: download it again")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            found.update(data)
    return found.hexdigest()


def is_here(path: Path, artifact: Artifact) -> bool:
    """Whether the file is there already, whole."""
    return path.is_file() and path.stat().st_size == artifact.size_bytes and digest(path) == artifact.sha256
