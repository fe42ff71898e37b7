"""Artifacts: the files that a run leaves, their names, their limits, and the parts that readers ask for.

A name comes from an untrusted machine and appears in URLs, lists and folders of other people, so only a plain
relative path is accepted. Names are stored and compared in Unicode's composed form (NFC), so that one
name is not stored twice in two encodings. Case is kept: most machines that run jobs distinguish it.
This module does not know where the bytes are stored.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.texts import check_shown
from server.domain.transitions import Transitions

MAX_NAME_BYTES = 512
MAX_PART_BYTES = 255
MAX_PARTS = 16
SHA256_BYTES = 32
# An upload is ended when no byte arrives for IDLE_SECONDS, or when it has taken UPLOAD_SECONDS in total.
IDLE_SECONDS = 60.0
UPLOAD_SECONDS = 6 * 3600.0
# While a finished run's files arrive, the server waits this long beyond the run's limit, free of charge.
UPLOAD_GRACE_SECONDS = 3600.0
DEFAULT_CONTENT_TYPE = "application/octet-stream"

# Only the standard library's table: the machine's own tables would differ between servers.
_TYPES = mimetypes.MimeTypes()
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """How many files of a job are kept, how large they may be, and for how long."""

    file_bytes: int = 1 << 30
    """At most this many bytes in one file."""
    job_bytes: int = 4 << 30
    """At most this many bytes in all files of a job."""
    count: int = 100
    """At most this many files of one job."""
    days: int = 30
    """How many days files are kept after the job's end."""

    @property
    def keep_ms(self) -> int:
        """``days`` in milliseconds."""
        return self.days * 24 * 3600 * 1000


class ArtifactState(StrEnum):
    """The state of a file, from its announcement to its deletion."""

    UPLOADING = "uploading"
    """Its bytes may arrive."""
    READY = "ready"
    """It is stored; its job has not ended."""
    PUBLISHED = "published"
    """Its attempt ended the job: it can be downloaded."""
    DOOMED = "doomed"
    """Its bytes are to be deleted first, then its row."""


class ArtifactEvent(StrEnum):
    """What happens to a file."""

    ANNOUNCE = "announce"
    """Its daemon is about to send it."""
    STORE = "store"
    """All its bytes have arrived."""
    PUBLISH = "publish"
    """Its attempt ended the job."""
    BREAK_OFF = "break_off"
    """Its upload failed, or takes too long."""
    LEAVE_BEHIND = "leave_behind"
    """Its attempt ended and did not end the job."""
    EXPIRE = "expire"
    """The time for which files are kept has passed."""
    ERASE = "erase"
    """Its renter deleted the account."""
    DELETE = "delete"
    """Its bytes are deleted."""


ARTIFACT_TRANSITIONS: Transitions[ArtifactState, ArtifactEvent] = Transitions(
    {
        (None, ArtifactEvent.ANNOUNCE): ArtifactState.UPLOADING,
        (ArtifactState.UPLOADING, ArtifactEvent.STORE): ArtifactState.READY,
        (ArtifactState.UPLOADING, ArtifactEvent.BREAK_OFF): ArtifactState.DOOMED,
        # Whoever began the upload finds it by its state, and undoes it.
        (ArtifactState.UPLOADING, ArtifactEvent.ERASE): ArtifactState.UPLOADING,
        (ArtifactState.READY, ArtifactEvent.PUBLISH): ArtifactState.PUBLISHED,
        (ArtifactState.READY, ArtifactEvent.LEAVE_BEHIND): ArtifactState.DOOMED,
        (ArtifactState.READY, ArtifactEvent.ERASE): ArtifactState.DOOMED,
        (ArtifactState.PUBLISHED, ArtifactEvent.EXPIRE): ArtifactState.DOOMED,
        (ArtifactState.PUBLISHED, ArtifactEvent.ERASE): ArtifactState.DOOMED,
        (ArtifactState.DOOMED, ArtifactEvent.ERASE): ArtifactState.DOOMED,
        (ArtifactState.DOOMED, ArtifactEvent.DELETE): None,
    }
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file as stored. Times are milliseconds since 1970 by the server's clock."""

    id: int
    job_id: str
    lease_epoch: int
    name: str
    size_bytes: int
    sha256: bytes
    blob_key: str
    created_ms: int
    published_ms: int | None

    @property
    def content_type(self) -> str:
        """Its media type, derived from its name only; the content is not examined."""
        kind, encoding = _TYPES.guess_type(f"file:{self.name.rpartition('/')[2]}")
        return kind if kind is not None and encoding is None else DEFAULT_CONTENT_TYPE

    @property
    def etag(self) -> str:
        """Its entity tag for HTTP."""
        return f'"{self.sha256.hex()}"'


def stored_name(text: str) -> str:
    """The name in the form in which names are stored, NFC. No file may have it: see ``artifact_name``."""
    return unicodedata.normalize("NFC", text)


def artifact_name(text: str) -> str:
    """The name as it is stored. Raises INVALID_FIELD unless it is a plain relative path."""
    name = stored_name(text)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise _bad_name(f"must have at most {MAX_NAME_BYTES} bytes in UTF-8")
    if "\\" in name:
        raise _bad_name("must not have a backslash")
    check_shown(name, "name")
    parts = name.split("/")
    if len(parts) > MAX_PARTS:
        raise _bad_name(f"must have at most {MAX_PARTS} parts")
    for part in parts:
        if not part.strip() or part in (".", ".."):
            raise _bad_name("must be a relative path without empty parts, . and ..")
        if len(part.encode()) > MAX_PART_BYTES:
            raise _bad_name(f"must have at most {MAX_PART_BYTES} bytes in each part")
    return name


def _bad_name(text: str) -> DomainError:
    return invalid_field("name", text)


def check_room(limits: ArtifactLimits, size_bytes: int, count: int, total_bytes: int) -> None:
    """Raises ARTIFACT_TOO_LARGE if the file and the job's ``count`` other files exceed the limits."""
    if size_bytes > limits.file_bytes:
        raise _too_large(f"the file has {size_bytes} bytes; at most {limits.file_bytes} are kept of one")
    if count >= limits.count:
        raise _too_large(f"the job has left {count} files, the most that are kept; pack them into one")
    if total_bytes + size_bytes > limits.job_bytes:
        raise _too_large(
            f"the job has left {total_bytes} bytes, and {size_bytes} more are over the {limits.job_bytes} "
            "that are kept"
        )


def _too_large(text: str) -> DomainError:
    return DomainError(Reason.ARTIFACT_TOO_LARGE, text)


@dataclass(frozen=True, slots=True)
class Part:
    """A byte range: offset and length."""

    first: int
    count: int


def asked_part(text: str, size_bytes: int) -> Part | None:
    """The part that the header ``Range`` asks for; None means the whole file.

    As HTTP allows, anything except a single range of bytes is ignored. Raises RANGE_NOT_SATISFIABLE.
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes - 1
    else:
        start, end = int(first), min(int(last) if last else size_bytes - 1, size_bytes - 1)
        if last and int(last) < int(first):
            return None
    if start >= size_bytes or (not first and not int(last)):
        raise DomainError(
            Reason.RANGE_NOT_SATISFIABLE,
            f"Range: the file has {size_bytes} bytes; ask for some of them",
            size_bytes=size_bytes,
        )
    return Part(start, end - start + 1)
