"""Artifacts: the files that a run leaves, their names, their limits, and the parts that readers ask for.

A name comes from a stranger's machine and goes into addresses, lists and folders of other people: it
is a plain relative path or it is refused. It is compared in Unicode's composed form, so that no two
names look the same; case stays, as the machines that runs happen on tell it apart.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.transitions import Transitions

MAX_NAME_BYTES = 512
MAX_PART_BYTES = 255
MAX_PARTS = 16
SHA256_BYTES = 32
# An upload is cut when no byte arrives for IDLE_SECONDS, or after UPLOAD_SECONDS altogether.
IDLE_SECONDS = 60.0
UPLOAD_SECONDS = 6 * 3600.0
# While its files arrive, a run beyond its limit is not ended for this time, and not charged for it.
UPLOAD_GRACE_SECONDS = 3600.0
DEFAULT_CONTENT_TYPE = "application/octet-stream"

# Marks that turn the order of a text around, so that it reads as another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
# The standard library's own table: what the machine knows besides would differ from server to server.
_TYPES = mimetypes.MimeTypes()
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """How much is kept of a job, and how long."""

    file_bytes: int = 1 << 30
    """The most bytes of one file."""
    job_bytes: int = 4 << 30
    """The most bytes of all files of a job."""
    count: int = 100
    """The most files of a job."""
    days: int = 30
    """How long they are kept after the job's end."""

    @property
    def keep_ms(self) -> int:
        """The same in milliseconds."""
        return self.days * 24 * 3600 * 1000


class ArtifactState(StrEnum):
    """Where a file is in its life."""

    UPLOADING = "uploading"
    """Its bytes may arrive."""
    READY = "ready"
    """It is stored; its job has not ended."""
    PUBLISHED = "published"
    """Its attempt ended the job: it can be downloaded."""
    DOOMED = "doomed"
    """Its bytes are to be deleted, then its row."""


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
    """It was kept as long as files are kept."""
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
        """Its media type, by its name only: the content is not examined."""
        kind, encoding = _TYPES.guess_type(f"file:{self.name.rpartition('/')[2]}")
        return kind if kind is not None and encoding is None else DEFAULT_CONTENT_TYPE

    @property
    def etag(self) -> str:
        """Its version, as HTTP writes it."""
        return f'"{self.sha256.hex()}"'


def artifact_name(text: str) -> str:
    """The name as it is kept: composed. Raises INVALID_FIELD."""
    name = unicodedata.normalize("NFC", text)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise _bad_name(f"must have at most {MAX_NAME_BYTES} bytes in UTF-8")
    if "\\" in name:
        raise _bad_name("must not have a backslash")
    if any(unicodedata.category(one) in _UNPRINTABLE or one in _TURNING for one in name):
        raise _bad_name("must not have control characters")
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
    """Refuses a file that is too much beside ``count`` others. Raises ARTIFACT_TOO_LARGE."""
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
    """The part that the header ``Range`` asks for; None where the whole file is to come.

    Anything but a single range of bytes is ignored, as HTTP says. Raises RANGE_NOT_SATISFIABLE.
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
