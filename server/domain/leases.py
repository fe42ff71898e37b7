"""Leases: the time-limited right of one session to run one attempt of a job, and the timers.

``lease_epoch`` is the fencing token: it grows by one with every offer of a job. Every write that a daemon
asks for compares job, epoch, secret, provider, session and state; if no row matches, the lease is stale and
nothing changes. LEASE_TRANSITIONS says in which states each event may happen; the store derives the guards
of its writes from it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from server.domain.jobs import FailureReason, JobType, Logprobs
from server.domain.transitions import Transitions

HEARTBEAT_SECONDS = 10.0
LIVE_SECONDS = 30.0
OFFER_SECONDS = 10.0
# The daemon enforces a job's limit. The server ends the run if the daemon has not done so this much later.
OVERRUN_GRACE_SECONDS = 30.0
# How long a daemon may prepare a job that it accepted: long enough to pull a large image.
PREPARE_SECONDS = 900.0
MAX_ATTEMPTS = 5
MAX_CHUNK_BYTES = 64 * 1024
# The default limit of an output, and the room beyond it for the line that says that it was truncated.
MAX_OUTPUT_BYTES = 2 * 1024 * 1024
MARKER_BYTES = 256
# The daemon no longer holds a lease that this number of consecutive heartbeats do not list.
MISSED_HEARTBEATS = 2
CHUNK_CREDIT = 64


class LeaseState(StrEnum):
    OFFERED = "offered"
    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"


class LeaseEvent(StrEnum):
    OFFER = "offer"
    ACCEPT = "accept"
    START = "start"
    WRITE = "write"
    """Its run wrote a chunk of output or log."""
    RESUME = "resume"
    """A newer session of the same provider continues it."""
    END = "end"


LEASE_TRANSITIONS: Transitions[LeaseState, LeaseEvent] = Transitions(
    {
        (None, LeaseEvent.OFFER): LeaseState.OFFERED,
        (LeaseState.OFFERED, LeaseEvent.ACCEPT): LeaseState.ACCEPTED,
        (LeaseState.OFFERED, LeaseEvent.END): LeaseState.ENDED,
        (LeaseState.ACCEPTED, LeaseEvent.START): LeaseState.RUNNING,
        (LeaseState.ACCEPTED, LeaseEvent.WRITE): LeaseState.ACCEPTED,
        (LeaseState.ACCEPTED, LeaseEvent.RESUME): LeaseState.ACCEPTED,
        (LeaseState.ACCEPTED, LeaseEvent.END): LeaseState.ENDED,
        (LeaseState.RUNNING, LeaseEvent.WRITE): LeaseState.RUNNING,
        (LeaseState.RUNNING, LeaseEvent.RESUME): LeaseState.RUNNING,
        (LeaseState.RUNNING, LeaseEvent.END): LeaseState.ENDED,
    }
)


class LeaseOutcome(StrEnum):
    """How a lease ended. A refused or expired offer was not an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    REFUSED = "refused"
    EXPIRED = "expired"
    LOST = "lost"
    REVOKED = "revoked"


# The outcomes of runs that ended with a result.
WORKED = frozenset({LeaseOutcome.SUCCEEDED, LeaseOutcome.FAILED, LeaseOutcome.CANCELLED})


class RunOutcome(StrEnum):
    """How a run ended, as its daemon reported it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"


class Channel(StrEnum):
    """Where an attempt writes its text; the chunks of each channel are numbered from 1."""

    OUTPUT = "output"
    LOG = "log"


class Disposition(StrEnum):
    """How the server treated a reported result."""

    ACCEPTED = "accepted"
    ALREADY = "already"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """How messages identify a lease."""

    job_id: str
    lease_epoch: int
    secret: bytes

    def __repr__(self) -> str:
        return f"LeaseRef({self.job_id!r}, {self.lease_epoch})"  # the secret stays out of logs


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as stored. Times are milliseconds since 1970 by the server's clock."""

    job_id: str
    lease_epoch: int
    provider_id: int
    session_epoch: int
    secret_sha256: bytes
    state: LeaseState
    attempt: int
    offered_ms: int
    accepted_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    outcome: LeaseOutcome | None
    failure_reason: FailureReason | None
    detail: str
    run_ms: int | None
    """The run's length: as billed, or, of an open lease, as its daemon reported it so far."""
    image_digest: str
    output_through_seq: int
    log_through_seq: int
    output_limit_bytes: int
    first_output_ms: int | None = None
    """When its first output arrived."""

    @property
    def first_token_ms(self) -> int | None:
        """From the offer to the first output, as the server saw both: loading the model is in it."""
        return None if self.first_output_ms is None else self.first_output_ms - self.offered_ms

    def matches(self, ref: LeaseRef) -> bool:
        """Whether ``ref`` identifies this lease; the secret is compared in constant time."""
        return (
            self.job_id == ref.job_id
            and self.lease_epoch == ref.lease_epoch
            and hmac.compare_digest(self.secret_sha256, secret_digest(ref.secret))
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """A job to run, as offered to one session."""

    lease: LeaseRef
    provider_id: int
    session_epoch: int
    attempt: int
    job_type: JobType
    limit_ms: int
    lost_after_ms: int
    output_limit_bytes: int
    spec: dict[str, Any]
    trace: str = ""
    """The traceparent of the attempt, if its job is traced."""


@dataclass(frozen=True, slots=True)
class FinishReport:
    """The end of a run as the daemon reports it."""

    lease: LeaseRef
    outcome: RunOutcome
    run_ms: int
    last_output_seq: int
    failure_reason: FailureReason | None = None
    failure_message: str = ""
    content_type: str = ""
    usage: dict[str, Any] | None = None
    output_truncated: bool = False
    image_digest: str = ""
    last_output: bytes = field(default=b"", repr=False)
    """The chunk of output numbered ``last_output_seq``, if the report carries it."""
    logprobs: Logprobs = field(default=(), repr=False)


def secret_digest(secret: bytes) -> bytes:
    """The digest of a lease's secret, which is stored instead of the secret."""
    return hashlib.sha256(secret).digest()


def public_number(secret: bytes) -> int:
    """A lease's number in public lists: random, and it reveals nothing about the lease."""
    return int.from_bytes(hashlib.sha256(b"public number of a lease " + secret).digest()[:6])
