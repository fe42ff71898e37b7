"""Batches: many requests of one renter in a file, which run as ordinary jobs below interactive work. Pure.

A batch is checked line by line before anything is spent; a wrong line fails the batch as a whole. Then its
lines become jobs, a bounded number at a time, until all have ended or something stops it: its window ends,
its renter cancels it, or its budget is used up. What is done by then counts and is paid for; each other line
is reported as not done, with the reason.

    validating ──start──► in_progress ──finalize──► finalizing ──complete──► completed
        │ fail                 │ cancel                 ├──expire──► expired
        ▼                      ▼                        │
      failed               cancelling ◄────cancel───────┘
                               └──end_cancel──► cancelled
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.money import micros, whole_halala
from server.domain.transitions import Transitions

PRIORITY = -1
"""Of the jobs of batches: lower than a renter can ask for, and the mark by which they are known."""
WINDOW_MS = 24 * 3600 * 1000
WINDOW = "24h"
MAX_LINES = 50_000
MAX_FILE_BYTES = 200_000_000
MAX_ADDED_BYTES = 2 * MAX_FILE_BYTES
"""Of all the lines of a batch as the gateway has read them, which may be a little longer than in the file."""
MAX_OPEN = 20
"""Batches of one renter that have not ended."""
JOBS_AT_ONCE = 64
"""Lines of one batch that are jobs which have not ended."""
LOST_ATTEMPTS = 2
"""A line whose run was lost with its daemon this often is not tried again: it may be what ends them."""
CHECK_STALLS_MS = 60 * 1000
"""A check that makes no progress for so long has lost whoever did it; another one may take it over."""
CHECK_LOST_MS = 60 * CHECK_STALLS_MS
"""A check that nobody takes over for so long fails its batch."""
KEPT_MS = 30 * 24 * 3600 * 1000
"""How long a batch that has ended can be read."""
MAX_KEPT = 1000
"""Batches of one renter that have ended and can be read; of more, the oldest go earlier."""
MAX_ERRORS = 100
"""Faults of lines that a failed batch names."""
BUDGET = "max_cost_halala"
"""The key of a batch's metadata that says the most that it may cost."""


class BatchState(StrEnum):
    """Where a batch is."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class BatchEvent(StrEnum):
    """What happens to a batch."""

    CREATE = "create"
    FAIL = "fail"
    START = "start"
    CANCEL = "cancel"
    FINALIZE = "finalize"
    COMPLETE = "complete"
    EXPIRE = "expire"
    END_CANCEL = "end_cancel"


class LineState(StrEnum):
    """Where a line of a batch is."""

    WAITING = "waiting"
    SUBMITTED = "submitted"
    DONE = "done"
    FAILED = "failed"


class LineEvent(StrEnum):
    """What happens to a line."""

    ADD = "add"
    SUBMIT = "submit"
    COMPLETE = "complete"
    FAIL = "fail"


BATCH_TRANSITIONS: Transitions[BatchState, BatchEvent] = Transitions(
    {
        (None, BatchEvent.CREATE): BatchState.VALIDATING,
        (BatchState.VALIDATING, BatchEvent.FAIL): BatchState.FAILED,
        (BatchState.VALIDATING, BatchEvent.START): BatchState.IN_PROGRESS,
        (BatchState.VALIDATING, BatchEvent.CANCEL): BatchState.CANCELLING,
        (BatchState.IN_PROGRESS, BatchEvent.CANCEL): BatchState.CANCELLING,
        (BatchState.IN_PROGRESS, BatchEvent.FINALIZE): BatchState.FINALIZING,
        (BatchState.FINALIZING, BatchEvent.COMPLETE): BatchState.COMPLETED,
        (BatchState.FINALIZING, BatchEvent.EXPIRE): BatchState.EXPIRED,
        (BatchState.FINALIZING, BatchEvent.CANCEL): BatchState.CANCELLING,
        (BatchState.CANCELLING, BatchEvent.END_CANCEL): BatchState.CANCELLED,
    }
)
LINE_TRANSITIONS: Transitions[LineState, LineEvent] = Transitions(
    {
        (None, LineEvent.ADD): LineState.WAITING,
        (LineState.WAITING, LineEvent.SUBMIT): LineState.SUBMITTED,
        (LineState.WAITING, LineEvent.FAIL): LineState.FAILED,
        (LineState.SUBMITTED, LineEvent.COMPLETE): LineState.DONE,
        (LineState.SUBMITTED, LineEvent.FAIL): LineState.FAILED,
    }
)
OPEN = frozenset(
    {BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.FINALIZING, BatchState.CANCELLING}
)
RUNNING = OPEN - {BatchState.VALIDATING}
"""The states in which a batch has lines that may be jobs."""


class Stop(StrEnum):
    """Why the rest of a batch is not done; the code of each line of it in the error file."""

    EXPIRED = "batch_expired"
    CANCELLED = "batch_cancelled"
    BUDGET = "budget_reached"
    BALANCE = "insufficient_balance"
    ACCOUNT = "account_closed"


STOP_TEXTS: Mapping[Stop, str] = {
    Stop.EXPIRED: "The batch's window of 24 hours ended before this line was done.",
    Stop.CANCELLED: "The batch was cancelled before this line was done.",
    Stop.BUDGET: "The budget of the batch or of its key was used up before this line was done.",
    Stop.BALANCE: "The wallet was used up before this line was done; top it up and send the line again.",
    Stop.ACCOUNT: "The account or its key can submit no jobs any more, so this line was not done.",
}
STOPS: Mapping[Reason, Stop] = {
    Reason.BUDGET_REACHED: Stop.BUDGET,
    Reason.INSUFFICIENT_BALANCE: Stop.BALANCE,
    Reason.RENTER_SUSPENDED: Stop.ACCOUNT,
    Reason.RENTER_DELETED: Stop.ACCOUNT,
    Reason.EMAIL_NOT_VERIFIED: Stop.ACCOUNT,
}
"""Refusals of a line that concern all lines after it, too."""
LATER = frozenset(
    {
        Reason.RATE_LIMITED,
        Reason.OVERLOADED,
        Reason.STORE_UNAVAILABLE,
        Reason.RENTER_STORAGE_FULL,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.MODEL_NOT_SERVED,
    }
)
"""Refusals that may have gone when the line is tried again."""


class Kind(StrEnum):
    """What a line asks for."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a batch's file; without a line, with the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a batch as the gateway has read it."""

    number: int
    """From 1, as people count."""
    custom_id: str
    kind: Kind
    model: str
    request: bytes
    """In the form in which the server takes chats or texts to embed."""
    max_tokens: int | None
    cache_key: str
    form: bytes
    """What the gateway needs to write the answer in its dialect's form."""

    @property
    def size_bytes(self) -> int:
        """What it takes to keep it."""
        texts = self.custom_id, self.model, self.cache_key
        return len(self.request) + len(self.form) + sum(len(text.encode()) for text in texts)


@dataclass(frozen=True, slots=True)
class Announced:
    """What a renter asks for when it creates a batch."""

    endpoint: str
    file_id: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as stored. Times are milliseconds since 1970 by the server's clock."""

    id: int
    batch_id: str
    renter_id: int
    key_id: int | None
    endpoint: str
    input_id: str
    state: BatchState
    stop: Stop | None
    """Why no further line of it becomes a job."""
    faults: tuple[Fault, ...]
    metadata: dict[str, str]
    max_cost_micros: int | None
    lines: int
    """How many it has."""
    completed: int
    failed: int
    charged_micros: int
    output_bytes: int
    added_bytes: int
    """Of the lines that were added."""
    times: dict[str, int]
    """When it reached each of its states."""
    created_ms: int
    touched_ms: int
    expires_ms: int

    @property
    def left(self) -> int:
        """How many lines have not ended."""
        return self.lines - self.completed - self.failed

    @property
    def takes_jobs(self) -> bool:
        """Whether a further line of it may become a job."""
        return self.state is BatchState.IN_PROGRESS and self.stop is None

    def is_due(self, now_ms: int) -> bool:
        """Whether its window has ended."""
        return now_ms >= self.expires_ms


def budget_of(metadata: Mapping[str, str]) -> int | None:
    """The most that a batch may cost, in micros; None without a budget. Raises INVALID_FIELD."""
    text = metadata.get(BUDGET)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:13]) <= 10**12 or len(text) > 13:
        raise invalid_field(
            f"metadata.{BUDGET}", "must be a whole number of halala from 1 to 1000000000000, as a text"
        )
    return micros(int(text))


def line_key(batch_id: str, number: int) -> str:
    """The idempotency key of a line's job: a line that is submitted twice has one job."""
    return f"batch:{batch_id}:{number}"


def left_micros(batch: Batch, held_micros: int) -> int | None:
    """What a batch may still hold, given what its open jobs hold; None without a budget."""
    if batch.max_cost_micros is None:
        return None
    return max(0, batch.max_cost_micros - batch.charged_micros - held_micros)


def over_budget(hold_micros: int, left: int) -> DomainError:
    """The refusal of a line whose hold exceeds what is left of its batch's budget."""
    return DomainError(
        Reason.BUDGET_REACHED,
        f"metadata.{BUDGET}: {whole_halala(left)} halala are left for this batch, and a line holds more; "
        "ask for a lower max_tokens, or raise it in a new batch",
        field=f"metadata.{BUDGET}",
        required_halala=-(-hold_micros // micros(1)),
    )


def not_found(batch_id: str) -> DomainError:
    """The error for a batch that the renter does not have."""
    return DomainError(
        Reason.BATCH_NOT_FOUND,
        f"batch_id: this account has no batch {batch_id!r}; list them, {MAX_KEPT} are kept for 30 days",
        field="batch_id",
    )


def file_not_found(file_id: str) -> DomainError:
    """The error for a file that the renter does not have."""
    return DomainError(
        Reason.INPUT_NOT_FOUND,
        f"file_id: this account has no file {file_id!r}; list them, they are kept for a limited time",
        field="file_id",
    )


def is_over(batch: Batch) -> DomainError:
    """The error for a change of a batch that its state does not allow."""
    return DomainError(
        Reason.BATCH_NOT_OPEN,
        f"batch {batch.batch_id} is {batch.state.value}; nothing was changed",
        status=batch.state.value,
    )


class Part(StrEnum):
    """The files that a batch writes."""

    OUTPUT = "output"
    ERRORS = "errors"


# The ids of files: inputs of the purpose `batch`, and what batches write, which is stored nowhere.
_INPUT, _FILE, _BATCH = "input-", "file-", "batch_"


def file_id_of_input(input_id: str) -> str:
    """The id of an uploaded file."""
    return _FILE + input_id.removeprefix(_INPUT)


def file_id_of_part(batch_id: str, part: Part) -> str:
    """The id of a file that a batch writes."""
    return f"{_FILE}{batch_id.removeprefix(_BATCH)}-{part.value}"


def input_of_file(file_id: str) -> str:
    """The input that an uploaded file is."""
    return _INPUT + file_id.removeprefix(_FILE)


def part_of_file(file_id: str) -> tuple[str, Part] | None:
    """The batch that writes a file, and which of its files it is; None for an uploaded one."""
    rest, dash, name = file_id.removeprefix(_FILE).rpartition("-")
    if not dash or name not in set(Part):
        return None
    return _BATCH + rest, Part(name)


def plain_faults(faults: tuple[Fault, ...]) -> list[dict[str, Any]]:
    """Faults as they are stored."""
    return [
        {"code": each.code, "message": each.message, "line": each.line, "param": each.param}
        for each in faults[:MAX_ERRORS]
    ]
