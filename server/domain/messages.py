"""The messages of a session, as the server's half of the protocol receives and sends them.

This module owns only the vocabulary: server.domain.sessions decides when a message is allowed, and
server.rpc.sessions converts it from and to protobuf. These messages have checked types and hide secrets
in ``repr``, unlike those of protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from server.domain.gpus import GpuReport
from server.domain.hindrances import SelfTest
from server.domain.jobs import JobType
from server.domain.leases import HEARTBEAT_SECONDS, Channel, Disposition, FinishReport, LeaseRef, Offer
from server.domain.placement import Model
from server.domain.preparations import PreparationStep
from server.domain.terms import NO_SETTINGS, Settings

PROTOCOL_VERSION = 1


# Sent by the daemon.


@dataclass(frozen=True, slots=True)
class Hello:
    boot_id: str
    daemon_version: str
    protocol_version: int
    report: GpuReport
    models: tuple[Model, ...]
    job_types: frozenset[JobType]
    slots: int
    held: tuple[LeaseRef, ...] = ()
    unacknowledged: tuple[LeaseRef, ...] = ()
    run_ms: tuple[int, ...] = ()
    """How long the runs of ``unacknowledged`` took, in the same order; empty if the daemon does not say."""
    runs_plain_processes: bool = False
    """Whether it runs jobs other than inference as plain processes, with no isolation from its machine."""
    takes_inputs: bool = False
    """Whether it gives runs their inputs."""
    self_tests: tuple[SelfTest, ...] = ()
    image_patterns: tuple[str, ...] | None = None
    """Of the images that its owner allows; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    sequence: int
    report: GpuReport | None
    held: tuple[LeaseRef, ...] = ()


@dataclass(frozen=True, slots=True)
class OfferReply:
    lease: LeaseRef
    accepted: bool
    refusal: str = ""
    started: bool = False
    """Whether the run has started already, so that no Started follows."""


@dataclass(frozen=True, slots=True)
class Started:
    lease: LeaseRef


@dataclass(frozen=True, slots=True)
class Preparing:
    lease: LeaseRef
    step: PreparationStep | None
    """None for one of a newer daemon."""
    done_bytes: int
    total_bytes: int
    """0: not known."""


@dataclass(frozen=True, slots=True)
class Chunk:
    lease: LeaseRef
    stream: Channel
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    report: FinishReport


@dataclass(frozen=True, slots=True)
class Capacity:
    slots: int
    models: tuple[Model, ...]
    job_types: frozenset[JobType] | None = None
    """None: unchanged since the last report."""
    self_tests: tuple[SelfTest, ...] | None = None
    """None: unchanged since the last report."""
    image_patterns: tuple[str, ...] | None = None
    """None: unchanged since the last report."""


@dataclass(frozen=True, slots=True)
class Drain:
    pass


@dataclass(frozen=True, slots=True)
class Goodbye:
    message: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message about a lease that this server cannot read, such as one of a newer daemon."""

    lease: LeaseRef
    detail: str


DaemonMessage: TypeAlias = (
    Hello
    | Heartbeat
    | OfferReply
    | Preparing
    | Started
    | Chunk
    | Finished
    | Capacity
    | Drain
    | Goodbye
    | Unreadable
)


def lease_of(message: DaemonMessage) -> LeaseRef | None:
    """The lease that a message is about; None for a message about the session."""
    match message:
        case OfferReply() | Preparing() | Started() | Chunk() | Unreadable():
            return message.lease
        case Finished(report):
            return report.lease
    return None


# Sent by the server.


@dataclass(frozen=True, slots=True)
class Welcome:
    session_epoch: int
    provider_id: int
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    settings: Settings = NO_SETTINGS
    newest_daemon: str = ""
    update_available: bool = False


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    sequence: int


@dataclass(frozen=True, slots=True)
class JobOffer:
    offer: Offer


@dataclass(frozen=True, slots=True)
class CancelRun:
    lease: LeaseRef
    keep_files: bool = False


class LeaseAction(StrEnum):
    KEEP = "keep"
    STOP_AND_DISCARD = "stop_and_discard"
    RESEND = "resend"


@dataclass(frozen=True, slots=True)
class LeaseDirective:
    lease: LeaseRef
    action: LeaseAction
    output_through_seq: int = 0
    log_through_seq: int = 0


@dataclass(frozen=True, slots=True)
class ResultAck:
    lease: LeaseRef
    disposition: Disposition


@dataclass(frozen=True, slots=True)
class OutputAck:
    lease: LeaseRef
    output_through_seq: int
    log_through_seq: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    after_seconds: float
    jitter_seconds: float


@dataclass(frozen=True, slots=True)
class Superseded:
    by_session_epoch: int


@dataclass(frozen=True, slots=True)
class SettingsUpdate:
    settings: Settings


ServerMessage: TypeAlias = (
    Welcome
    | HeartbeatAck
    | JobOffer
    | CancelRun
    | LeaseDirective
    | ResultAck
    | OutputAck
    | Reconnect
    | Superseded
    | SettingsUpdate
)
