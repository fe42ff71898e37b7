"""Owns what the session asks its surroundings to do. It must not know who does it."""

from dataclasses import dataclass
from enum import Enum

from dcp.v1 import sessions_pb2

from daemon.protocol.records import Record


class EndReason(Enum):
    """Why a daemon's session is over for good."""

    DRAINED = "drained"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Send:
    """Put the message on the stream."""

    message: sessions_pb2.DaemonMessage


@dataclass(frozen=True)
class Opened:
    """The server has welcomed the daemon."""

    provider_id: int
    session_epoch: int


@dataclass(frozen=True)
class StartAttempt:
    """Run the offered job."""

    offer: sessions_pb2.JobOffer


@dataclass(frozen=True)
class StopAttempt:
    """End the attempt; `discard`: its result is not wanted."""

    lease: sessions_pb2.Lease
    discard: bool


@dataclass(frozen=True)
class EndAttempt:
    """Ask the attempt to end, and let it hand over the files that it has written."""

    lease: sessions_pb2.Lease


@dataclass(frozen=True)
class Persist:
    """Save the records after all earlier ones of the lease, and make durable what will be reported.

    Then hand in `Persisted(number)`.

    Where that cannot be done, hand in `NotPersisted(number)`, and none of the records may be found
    again. The session sends nothing before it knows.
    """

    number: int
    lease: sessions_pb2.Lease
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Forget:
    """The server is done with the lease: its records are not needed.

    After a loss of power they may be found again; the server recognizes what is then reported again.
    """

    lease: sessions_pb2.Lease


@dataclass(frozen=True)
class ReconnectAfter:
    """Close the stream, if there is one, and connect again after a delay."""

    seconds: float


@dataclass(frozen=True)
class EndSession:
    """Close the stream and do not come back."""

    reason: EndReason


Effect = (
    Send | Opened | StartAttempt | StopAttempt | EndAttempt | Persist | Forget | ReconnectAfter | EndSession
)
