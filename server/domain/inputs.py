"""Inputs: bytes that a renter uploads, in pieces that can be resumed, and that its jobs read. Pure.

An input belongs to one renter. Its bytes arrive in order; where an upload broke off, it goes on. An input
that is ready never changes. This module does not know where the bytes are stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from server.domain.artifacts import artifact_name
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.transitions import Transitions

MAX_PIECES = 20_000
"""Most pieces of one input, so that nobody fills the database with single bytes."""
MAX_PIECE_BYTES = 8 << 20
UNFINISHED_MS = 24 * 3600 * 1000
"""How long an upload is kept that gets no more bytes."""


class FetchError(Exception):
    """An address could not be read; the text is for whoever named it, without details of our network."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How many inputs a renter may have, how large one may be, and for how long they are kept."""

    file_bytes: int = 8 << 30
    """At most this many bytes in one input."""
    count: int = 1000
    """At most this many inputs of one renter."""
    days: int = 30
    """How many days an input is kept after its last use."""

    @property
    def keep_ms(self) -> int:
        """``days`` in milliseconds."""
        return self.days * 24 * 3600 * 1000


class Purpose(StrEnum):
    """What an upload is for. Only those for jobs are listed to the renter and stored once by content."""

    JOB = "job"
    """A job reads it at `/input`."""
    BATCH = "batch"
    """A file of a batch, which `/v1/files` lists."""


class InputState(StrEnum):
    """The state of an input, from its announcement to its deletion."""

    UPLOADING = "uploading"
    """Its bytes may arrive."""
    READY = "ready"
    """All its bytes are stored and checked."""
    DOOMED = "doomed"
    """Its bytes are to be deleted first, then its rows."""


class InputEvent(StrEnum):
    """What happens to an input."""

    ANNOUNCE = "announce"
    """Its renter is about to send it."""
    FINISH = "finish"
    """All its bytes are stored and have the announced digest."""
    REFUSE = "refuse"
    """What arrived is not what was announced, or is stored already."""
    EXPIRE = "expire"
    """The time for which it is kept has passed."""
    DELETE = "delete"
    """Its renter deleted it, or the account."""
    REMOVE = "remove"
    """Its bytes are deleted."""


INPUT_TRANSITIONS: Transitions[InputState, InputEvent] = Transitions(
    {
        (None, InputEvent.ANNOUNCE): InputState.UPLOADING,
        (InputState.UPLOADING, InputEvent.FINISH): InputState.READY,
        (InputState.UPLOADING, InputEvent.REFUSE): InputState.DOOMED,
        (InputState.UPLOADING, InputEvent.EXPIRE): InputState.DOOMED,
        (InputState.UPLOADING, InputEvent.DELETE): InputState.DOOMED,
        (InputState.READY, InputEvent.EXPIRE): InputState.DOOMED,
        (InputState.READY, InputEvent.DELETE): InputState.DOOMED,
        (InputState.DOOMED, InputEvent.REMOVE): None,
    }
)


@dataclass(frozen=True, slots=True)
class Input:
    """An input as stored. Times are milliseconds since 1970 by the server's clock."""

    id: int
    input_id: str
    renter_id: int
    purpose: Purpose
    name: str
    size_bytes: int
    """The announced size; once it is ready, its size."""
    received_bytes: int
    sha256: bytes
    """The announced digest, empty if none was; once it is ready, its digest."""
    state: InputState
    created_ms: int
    url: str
    """Where the market fetches it; empty: its renter sends it."""
    problem: str
    """Why it could not be fetched."""
    used_ms: int
    """When bytes arrived, or a job named it, for the last time."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be read."""
        return self.state is InputState.READY


def check_size(limits: InputLimits, size_bytes: int) -> None:
    """Raises INPUT_TOO_LARGE."""
    if size_bytes > limits.file_bytes:
        raise DomainError(
            Reason.INPUT_TOO_LARGE,
            f"size_bytes: the input has {size_bytes} bytes; at most {limits.file_bytes} are kept of one; "
            "split it into several",
            field="size_bytes",
        )


def check_count(limits: InputLimits, count: int) -> None:
    """Raises TOO_MANY_INPUTS if a renter with ``count`` inputs may have no more."""
    if count >= limits.count:
        raise DomainError(
            Reason.TOO_MANY_INPUTS,
            f"this account has {count} inputs, the most that are kept; delete some, or pack files into a tar",
        )


def check_piece(found: Input, first_byte: int, size_bytes: int, pieces: int) -> None:
    """Raises INPUT_NOT_WAITING, INPUT_OFFSET_WRONG, INPUT_TOO_LARGE unless the input waits for this piece."""
    if found.state is not InputState.UPLOADING:
        raise DomainError(
            Reason.INPUT_NOT_WAITING,
            f"input {found.input_id} is {found.state.value} and takes no more bytes",
            received_bytes=found.received_bytes,
        )
    if first_byte != found.received_bytes:
        raise wrong_offset(found)
    if first_byte + size_bytes > found.size_bytes:
        raise DomainError(
            Reason.INPUT_TOO_LARGE,
            f"more than the announced {found.size_bytes} bytes arrived; announce the input with its size",
            received_bytes=found.received_bytes,
        )
    if pieces >= MAX_PIECES:
        raise DomainError(
            Reason.INPUT_TOO_LARGE,
            f"the input arrived in {pieces} pieces, the most of one; delete it and send larger pieces",
        )


def wrong_offset(found: Input) -> DomainError:
    """The error for a piece that does not follow what has arrived."""
    return DomainError(
        Reason.INPUT_OFFSET_WRONG,
        f"{found.received_bytes} bytes of this input have arrived; send those from there on",
        received_bytes=found.received_bytes,
    )


def damaged(text: str) -> DomainError:
    """The error for an input whose bytes are not the announced ones."""
    return DomainError(Reason.INPUT_DAMAGED, f"{text}; nothing was kept, announce and send it again")


def not_found(input_id: str) -> DomainError:
    """The error for an input that the renter does not have."""
    return DomainError(
        Reason.INPUT_NOT_FOUND,
        f"input_id: this account has no input {input_id!r}; list them, they are kept for a limited time",
        field="input_id",
    )


RESUME = "resume"
"""The folder below `/input` with the files of the job that another resumes from."""
_ARTIFACT = re.compile(r"artifact://([^/]{1,100})/(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AskedInput:
    """An input of a job, as its submit names it: by an id or by an artifact's address."""

    input_id: str
    artifact: str
    path: str
    unpack: bool


def artifact_of(address: str) -> tuple[str, str]:
    """The job and the name in an artifact's address. Raises INVALID_FIELD."""
    found = _ARTIFACT.fullmatch(address)
    if found is None:
        raise invalid_field(
            "inputs.artifact", "must be artifact://JOB_ID/NAME, with a file of a job of yours"
        )
    return found[1], found[2]


def input_path(asked: AskedInput, name: str) -> str:
    """Where an input lies below `/input`; empty for one that is unpacked there. Raises INVALID_FIELD."""
    if asked.unpack and not asked.path:
        return ""
    try:
        return artifact_name(asked.path or name.rpartition("/")[2])
    except DomainError as error:
        raise invalid_field("inputs.path", error.message.removeprefix("name: ")) from None


def check_places(files: Sequence[str], folders: Sequence[str]) -> None:
    """Raises INVALID_FIELD if two files of a job would lie at one place, or one inside of another."""
    taken = set(files)
    if len(taken) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise invalid_field("inputs.path", f"two inputs would lie at {twice!r}; give one another path")
    for path in (*files, *folders):
        parts = path.split("/")
        for depth in range(1, len(parts) + (path in folders)):
            if (above := "/".join(parts[:depth])) in taken and above:
                raise invalid_field("inputs.path", f"{above!r} is a file, so nothing can lie below it")


@dataclass(frozen=True, slots=True)
class GivenInput:
    """An input of a job as its spec has it: an input of its renter, or a file of another job."""

    path: str
    size_bytes: int
    sha256: str
    """In hexadecimal."""
    unpack: bool
    input_id: str = ""
    job_id: str = ""
    name: str = ""


def given(spec: Mapping[str, Any]) -> list[GivenInput]:
    """The inputs of a job's spec."""
    return [GivenInput(**plain) for plain in spec.get("inputs", ())]


def with_inputs(spec: dict[str, Any], inputs: Sequence[GivenInput]) -> dict[str, Any]:
    """The spec with these inputs."""
    return spec | {"inputs": [asdict(one) for one in inputs]} if inputs else spec
