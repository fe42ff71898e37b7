"""The server's half of the session protocol: pure, one object per stream.

It receives a daemon's message and returns the effect to carry out. A message that the protocol does not
allow ends the session, or only the lease that the message is about. This module does not know gRPC, the
database or a clock: the service that drives it carries out the effects and reports what the store decided.
The rules:

* Hello comes first and once; nothing else is allowed before Welcome.
* A message about a lease that this session does not hold changes nothing; the reply is to stop and discard
  the lease. Only results are looked up in the store, because they may arrive late by design.
* An offer is accepted before the run starts, and the run starts before its output. Chunks are numbered from
  1 without gaps. An output, and a log, may have as many bytes as the offer says, plus the line that says that
  it was truncated. A message that breaks these rules, or that this server cannot read, ends its lease and
  nothing else: a daemon that
  reconnects repeats its messages, for example to a database that was restored from a backup, and its other
  leases must continue.
* Heartbeats list the leases that the daemon holds. It must stop those that it may not hold; a lease that two
  consecutive heartbeats do not list is lost, unless its result was reported.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from server.domain.errors import DomainError, Reason
from server.domain.leases import (
    MARKER_BYTES,
    MAX_CHUNK_BYTES,
    MISSED_HEARTBEATS,
    Channel,
    FinishReport,
    LeaseRef,
    LeaseState,
)
from server.domain.messages import (
    PROTOCOL_VERSION,
    CancelRun,
    Capacity,
    Chunk,
    DaemonMessage,
    Finished,
    Goodbye,
    Heartbeat,
    Hello,
    JobOffer,
    LeaseAction,
    LeaseDirective,
    OfferReply,
    OutputAck,
    Preparing,
    ServerMessage,
    Started,
    Unreadable,
    Welcome,
)

MAX_SLOTS = 1000
# How many times in a row a result may arrive before the output that it names.
MAX_RESENDS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """An effect: record nothing, only send this message."""

    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Breach:
    """An effect: a message about this lease broke the rules. End the lease; the session continues."""

    lease: LeaseRef
    detail: str


# What to do about a message: record it (the effect is the message itself), only reply, or end its lease;
# None means nothing.
Effect: TypeAlias = DaemonMessage | Reply | Breach | None


class _Phase(Enum):
    AWAITING_HELLO = "awaiting hello"
    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


@dataclass(slots=True)
class _Held:
    """A lease that this session holds, and how much of its channels is stored."""

    ref: LeaseRef
    state: LeaseState
    limit_bytes: int
    is_reported: bool = False
    """Its result arrived, or is on its way, and waits for its output: heartbeats need not list it."""
    missed: int = 0
    """How many consecutive heartbeats did not list it."""
    resends: int = 0
    """How many times missing output was requested since a chunk was last stored."""
    through: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))
    stored_bytes: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))

    def ack(self) -> OutputAck:
        return OutputAck(self.ref, self.through[Channel.OUTPUT], self.through[Channel.LOG])


@dataclass(frozen=True, slots=True)
class Kept:
    """A lease that continues after a reconnect, as stored."""

    ref: LeaseRef
    state: LeaseState
    output_through_seq: int
    log_through_seq: int
    output_bytes: int
    log_bytes: int
    output_limit_bytes: int
    resend: bool


class ServerSession:
    """The state of one stream. Call ``receive``, carry out its effect, then report the outcome here."""

    __slots__ = ("_breached", "_held", "_phase")

    def __init__(self) -> None:
        self._phase = _Phase.AWAITING_HELLO
        self._held: dict[tuple[str, int], _Held] = {}
        self._breached: frozenset[LeaseRef] = frozenset()
        """Leases that a breach ended; the daemon may not yet have read that it must stop them."""

    @property
    def awaits_hello(self) -> bool:
        """Whether no message has arrived yet."""
        return self._phase is _Phase.AWAITING_HELLO

    def receive(self, message: DaemonMessage) -> Effect:
        """What to do about a message. Raises PROTOCOL_VIOLATION if the stream must end."""
        if isinstance(message, Hello):
            return self._hello(message)
        if self._phase is not _Phase.OPEN:
            raise violation(f"{type(message).__name__} came while the session was {self._phase.value}")
        match message:
            case OfferReply():
                return self._offer_reply(message)
            case Preparing():
                return self._preparing(message)
            case Started():
                return self._started(message)
            case Chunk():
                return self._chunk(message)
            case Finished():
                return self._finished(message)
            case Unreadable(lease, detail):
                return self._breach(held, detail) if (held := self._find(lease)) else self._unknown(lease)
            case Capacity():
                check_slots(message.slots)
            case Goodbye():
                self._phase = _Phase.ENDED
        return message

    def opened(self, welcome: Welcome, kept: Iterable[Kept]) -> list[ServerMessage]:
        """The store recorded the session: returns Welcome, and a directive for each lease that continues."""
        self._phase = _Phase.OPEN
        out: list[ServerMessage] = [welcome]
        for lease in kept:
            held = _Held(lease.ref, lease.state, lease.output_limit_bytes, is_reported=lease.resend)
            held.through = {Channel.OUTPUT: lease.output_through_seq, Channel.LOG: lease.log_through_seq}
            held.stored_bytes = {Channel.OUTPUT: lease.output_bytes, Channel.LOG: lease.log_bytes}
            self._held[_key(lease.ref)] = held
            action = LeaseAction.RESEND if lease.resend else LeaseAction.KEEP
            out.append(LeaseDirective(lease.ref, action, lease.output_through_seq, lease.log_through_seq))
        return out

    def push(self, message: ServerMessage) -> ServerMessage | None:
        """What to send for a message that the server initiates.

        An offer becomes a held lease; a cancel gets the lease's secret, or None if the lease is not held.
        """
        match message:
            case JobOffer(offer):
                held = _Held(offer.lease, LeaseState.OFFERED, offer.output_limit_bytes)
                self._held[_key(offer.lease)] = held
            case CancelRun(lease, keep_files):
                known = self._held.get(_key(lease))
                return CancelRun(known.ref, keep_files) if known is not None else None
        return message

    def advanced(self, lease: LeaseRef, state: LeaseState) -> None:
        """The store recorded that the lease is now accepted or running."""
        if held := self._find(lease):
            held.state = state

    def stored(self, chunk: Chunk) -> OutputAck | None:
        """The store has the chunk: returns the acknowledgement to send."""
        held = self._find(chunk.lease)
        if held is None:
            return None
        held.through[chunk.stream] = chunk.seq
        held.stored_bytes[chunk.stream] += len(chunk.data)
        held.resends = 0
        return held.ack()

    def may_resend(self, lease: LeaseRef) -> bool:
        """Whether to request missing output again; False after MAX_RESENDS requests without a new chunk."""
        held = self._find(lease)
        if held is None:
            return True
        held.resends += 1
        return held.resends <= MAX_RESENDS

    def reconcile(self, beat: Heartbeat) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """The listed leases that the daemon may not hold, and the held ones that it has stopped listing."""
        if not self._held and not beat.held:
            return [], []
        unknown = [ref for ref in beat.held if self._find(ref) is None]
        listed = {_key(ref) for ref in beat.held}
        for key, held in self._held.items():
            is_expected = held.state is not LeaseState.OFFERED and not held.is_reported
            held.missed = held.missed + 1 if is_expected and key not in listed else 0
        missing = [held.ref for held in self._held.values() if held.missed >= MISSED_HEARTBEATS]
        return unknown, missing

    def is_at_work(self) -> bool:
        """Whether the daemon has accepted a lease that has not ended."""
        return any(held.state is not LeaseState.OFFERED for held in self._held.values())

    def dropped(self, lease: LeaseRef) -> None:
        """The lease ended, or does not belong to this session: forgets it."""
        if self._find(lease) is not None:
            del self._held[_key(lease)]

    def _find(self, ref: LeaseRef) -> _Held | None:
        held = self._held.get(_key(ref))
        return held if held is not None and hmac.compare_digest(held.ref.secret, ref.secret) else None

    def _hello(self, hello: Hello) -> Hello:
        if self._phase is not _Phase.AWAITING_HELLO:
            raise violation("a second Hello on one stream")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise violation(f"protocol version {hello.protocol_version} is not supported; update the daemon")
        check_slots(hello.slots)
        self._phase = _Phase.OPENING
        return hello

    def _offer_reply(self, reply: OfferReply) -> Effect:
        held = self._find(reply.lease)
        if held is None:
            return self._unknown(reply.lease)
        if reply.accepted and reply.started and held.state is LeaseState.ACCEPTED:
            return Started(reply.lease)
        return reply if held.state is LeaseState.OFFERED else None  # a repeated reply changes nothing

    def _preparing(self, preparing: Preparing) -> Effect:
        """It only informs, so what comes too late or too early changes nothing."""
        held = self._find(preparing.lease)
        is_wanted = held is not None and held.state is LeaseState.ACCEPTED and preparing.step is not None
        return preparing if is_wanted else None

    def _started(self, started: Started) -> Effect:
        held = self._find(started.lease)
        if held is None:
            return self._unknown(started.lease)
        if held.state is LeaseState.OFFERED:
            return self._breach(held, "JobStarted came before the offer was accepted")
        return started if held.state is LeaseState.ACCEPTED else None

    def _chunk(self, chunk: Chunk) -> Effect:
        held = self._find(chunk.lease)
        if held is None:
            return self._unknown(chunk.lease)
        if fault := _fault(chunk, held):
            return self._breach(held, fault)
        return chunk if chunk.seq > held.through[chunk.stream] else Reply(held.ack())

    def _finished(self, finished: Finished) -> Effect:
        report = finished.report
        held = self._find(report.lease)
        if fault := _fault_of(report, held):
            return self._breach(held, fault) if held else self._unknown(report.lease)
        if held is not None:
            held.is_reported = True
        return finished

    def fail(self, lease: LeaseRef) -> Breach | None:
        """This server failed at a message about the lease: ends the lease. None if it is not held."""
        held = self._find(lease)
        return self._breach(held, "the server failed at one of its messages") if held is not None else None

    def _breach(self, held: _Held, detail: str) -> Breach:
        self._breached |= {held.ref}
        return Breach(held.ref, detail)

    def _unknown(self, lease: LeaseRef) -> Reply | None:
        """The reply about a lease that is not held; None after a breach, which was answered already."""
        return None if lease in self._breached else stranger(lease)


def _fault(chunk: Chunk, held: _Held) -> str:
    """Why a chunk of a held lease breaks the rules; empty if it does not."""
    if not 0 < len(chunk.data) <= MAX_CHUNK_BYTES:
        return f"a chunk of {len(chunk.data)} bytes; 1 to {MAX_CHUNK_BYTES} are allowed"
    earliest = LeaseState.RUNNING if chunk.stream is Channel.OUTPUT else LeaseState.ACCEPTED
    if held.state is not LeaseState.RUNNING and held.state is not earliest:
        return f"{chunk.stream} came while the lease was {held.state}"
    through = held.through[chunk.stream]
    if chunk.seq > through + 1 or chunk.seq < 1:
        return f"{chunk.stream} chunk {chunk.seq} came after {through}"
    size = held.stored_bytes[chunk.stream] + len(chunk.data)
    if chunk.seq > through and size > held.limit_bytes + MARKER_BYTES:
        return f"more than {held.limit_bytes} bytes of {chunk.stream}"
    return ""


def _fault_of(report: FinishReport, held: _Held | None) -> str:
    """Why a result breaks the rules; empty if it does not. Whether it has a gap, the store decides."""
    if report.run_ms < 0:
        return f"a run time of {report.run_ms} ms"
    size = len(report.last_output)
    if size > MAX_CHUNK_BYTES or (size and report.last_output_seq < 1):
        return f"a last chunk of {size} bytes with the number {report.last_output_seq}"
    if not size or held is None:
        return ""
    if held.state is not LeaseState.RUNNING:
        return f"output came while the lease was {held.state}"
    if held.stored_bytes[Channel.OUTPUT] + size > held.limit_bytes + MARKER_BYTES:
        is_new = report.last_output_seq > held.through[Channel.OUTPUT]
        return f"more than {held.limit_bytes} bytes of output" if is_new else ""
    return ""


def stranger(lease: LeaseRef) -> Reply:
    """The reply about a lease that the daemon may not hold."""
    return Reply(LeaseDirective(lease, LeaseAction.STOP_AND_DISCARD))


def violation(message: str) -> DomainError:
    """The error that ends a stream whose daemon broke the protocol."""
    return DomainError(Reason.PROTOCOL_VIOLATION, message)


def check_slots(slots: int) -> None:
    """Raises PROTOCOL_VIOLATION unless ``slots`` is a possible capacity."""
    if not 0 <= slots <= MAX_SLOTS:
        raise violation(f"{slots} slots; 0 to {MAX_SLOTS} are allowed")


def _key(ref: LeaseRef) -> tuple[str, int]:
    return ref.job_id, ref.lease_epoch
