"""Owns what can happen to the session: on its stream, on this machine, and as time passes.

`DaemonSession.handle` takes each event. This module must not know what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dcp.v1 import gpus_pb2, honesty_pb2, jobs_pb2, sessions_pb2

from daemon.protocol.records import Channel, History

LeaseKey = tuple[str, int, bytes]


def lease_key(lease: sessions_pb2.Lease) -> LeaseKey:
    """The whole lease as a key: if any part differs, it is another lease."""
    return lease.job_id, lease.lease_epoch, lease.lease_secret


@dataclass(frozen=True)
class Result:
    """How an attempt ended."""

    outcome: sessions_pb2.RunOutcome.ValueType
    failure_reason: jobs_pb2.FailureReason.ValueType = jobs_pb2.FAILURE_REASON_UNSPECIFIED
    failure_message: str = ""
    usage: jobs_pb2.Usage = field(default_factory=jobs_pb2.Usage)
    content_type: str = ""
    """The media type of the output; empty: text."""
    image_digest: str = ""
    """The digest of the image that ran; empty: no image ran."""
    logprobs: tuple[sessions_pb2.TokenLogprob, ...] = ()
    """How likely the first tokens of an answer were; empty: not known."""


def succeeded(
    usage: jobs_pb2.Usage, content_type: str = "", logprobs: tuple[sessions_pb2.TokenLogprob, ...] = ()
) -> Result:
    """The result of an attempt that did its work."""
    return Result(
        sessions_pb2.RUN_OUTCOME_SUCCEEDED, usage=usage, content_type=content_type, logprobs=logprobs
    )


def failed(reason: jobs_pb2.FailureReason.ValueType, message: str) -> Result:
    """The result of an attempt that could not do its work; `message` is for the renter to read."""
    return Result(sessions_pb2.RUN_OUTCOME_FAILED, reason, message)


def released(reason: jobs_pb2.FailureReason.ValueType, message: str) -> Result:
    """The result of an attempt that is given back for another provider to run."""
    return Result(sessions_pb2.RUN_OUTCOME_RELEASED, reason, message)


# --- the stream ---


@dataclass(frozen=True)
class Connected:
    """A stream to the server is open."""


@dataclass(frozen=True)
class Disconnected:
    """The stream ended, or could not be opened."""

    is_key_refused: bool = False
    """The server does not know the key."""


@dataclass(frozen=True)
class Received:
    """The server sent a message."""

    message: sessions_pb2.ServerMessage


# --- time and the owner ---


@dataclass(frozen=True)
class Tick:
    """Time has passed. It is due a few times a second, with or without a stream."""


@dataclass(frozen=True)
class DrainRequested:
    """The owner stops the daemon: finish the runs for up to 30 s, take no more, then say goodbye."""


# --- the journal ---


@dataclass(frozen=True)
class Recovered:
    """The journal holds an attempt of an earlier process. It happens before the first stream.

    An attempt that neither ended nor runs any more is given back.
    """

    history: History
    adopted: bool
    """A runner still runs it, and its events will follow."""


@dataclass(frozen=True)
class Persisted:
    """The records of the Persist effect with this number are durable."""

    number: int


@dataclass(frozen=True)
class NotPersisted:
    """The records of the Persist effect with this number could not be made durable."""

    number: int
    error: str
    """For a person."""


# --- the machine ---


@dataclass(frozen=True)
class GpusSampled:
    """The GPUs were read; the next heartbeat carries the reading."""

    status: gpus_pb2.GpuStatus


@dataclass(frozen=True)
class GpusFailed:
    """The GPUs under these runs failed: the runs are given back."""

    leases: Sequence[sessions_pb2.Lease]


@dataclass(frozen=True)
class GpusTaken:
    """The machine's owner uses the GPUs under these runs: the runs are given back."""

    leases: Sequence[sessions_pb2.Lease]


@dataclass(frozen=True)
class Capacity:
    """What the daemon can take from now on."""

    slots: int
    models: Sequence[sessions_pb2.ServedModel]
    job_types: Sequence[jobs_pb2.JobType.ValueType]
    self_tests: honesty_pb2.SelfTestReport | None = None
    images: sessions_pb2.AllowedImages | None = None


# --- attempts ---


@dataclass(frozen=True)
class AttemptPreparing:
    """A part of what the run needs before its start is there."""

    lease: sessions_pb2.Lease
    step: jobs_pb2.PreparationStep.ValueType
    done_bytes: int
    total_bytes: int
    """0: not known."""


@dataclass(frozen=True)
class AttemptStarted:
    """The run itself has begun: its meter starts."""

    lease: sessions_pb2.Lease


@dataclass(frozen=True)
class AttemptWrote:
    """The run wrote output or log. Whatever exceeds the limit is dropped."""

    lease: sessions_pb2.Lease
    channel: Channel
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class AttemptWorked:
    """The run's work is done: its meter stops, while its files are uploaded."""

    lease: sessions_pb2.Lease


@dataclass(frozen=True)
class AttemptFinished:
    """The run has ended by itself."""

    lease: sessions_pb2.Lease
    result: Result


StreamEvent = Connected | Disconnected | Received
AttemptEvent = AttemptPreparing | AttemptStarted | AttemptWrote | AttemptWorked | AttemptFinished
Event = (
    StreamEvent
    | Tick
    | DrainRequested
    | Recovered
    | Persisted
    | NotPersisted
    | GpusSampled
    | GpusFailed
    | GpusTaken
    | Capacity
    | AttemptEvent
)
