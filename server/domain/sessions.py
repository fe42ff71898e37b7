"""The server's half of the session protocol: pure, one object per stream.

It takes a daemon's message and says what to do about it, and refuses what the protocol does not
allow at that point: for the whole session, or for the one lease that the message is about. It knows no
gRPC, no database and no clock: the service that drives it carries out the effects and tells it what the
store decided. The rules:

* Hello comes first and once; nothing else is allowed before Welcome.
* A message about a lease that this session does not hold changes nothing: the daemon is told to
  stop and discard. Only a result is still looked up, because results may arrive late by design.
* accepted before started, started before output; chunks count from 1 without a gap. An output is at
  most as large as the offer said, and the line that says that it was cut; a log may be as large.
  A message that breaks this ends its lease and nothing else: a daemon that comes back tells the same
  again, for example to a database that was restored from a backup, and its other leases must go on.
* Heartbeats list what the daemon holds: what it may not hold it must stop, and what two in a row leave
  out is lost. A lease whose result was told is waited for.
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
    ServerMessage,
    Started,
    Welcome,
)

MAX_SLOTS = 1000
# How often in a row a result may come without the output that it names.
MAX_RESENDS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """An effect: nothing to record, just say this."""

    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Breach:
    """An effect: a message about this lease broke the rules. End the lease; the session goes on."""

    lease: LeaseRef
    detail: str


# What to do about a message: record it (the message itself is the order), just reply, or end its lease;
# None is nothing.
Effect: TypeAlias = DaemonMessage | Reply | Breach | None


class _Phase(Enum):
    AWAITING_HELLO = "awaiting hello"
    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


@dataclass(slots=True)
class _Held:
    """A lease that this session holds, and how far its streams are stored."""

    ref: LeaseRef
    state: LeaseState
    limit_bytes: int
    is_told: bool = False
    """Its result has come, or is under way, and waits for its output: heartbeats need not list it."""
    missed: int = 0
    """How many heartbeats in a row have not listed it."""
    resends: int = 0
    """How often the daemon was asked for missing output since any of it was stored."""
    through: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))
    stored_bytes: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))

    def ack(self) -> OutputAck:
        return OutputAck(self.ref, self.through[Channel.OUTPUT], self.through[Channel.LOG])


@dataclass(frozen=True, slots=True)
class Kept:
    """A lease that stands across a reconnect, as the store has it."""

    ref: LeaseRef
    state: LeaseState
    output_through_seq: int
    log_through_seq: int
    output_bytes: int
    log_bytes: int
    output_limit_bytes: int
    resend: bool


class ServerSession:
    """One stream's state. ``receive`` first, then carry out what it returned, then tell it the outcome."""

    __slots__ = ("_breached", "_held", "_phase")

    def __init__(self) -> None:
        self._phase = _Phase.AWAITING_HELLO
        self._held: dict[tuple[str, int], _Held] = {}
        self._breached: frozenset[LeaseRef] = frozenset()
        """Leases that a breach ended: the daemon may not have read yet that it must stop them."""

    @property
    def awaits_hello(self) -> bool:
        """Whether nothing has arrived yet."""
        return self._phase is _Phase.AWAITING_HELLO

    def receive(self, message: DaemonMessage) -> Effect:
        """What to do about a message. Raises DomainError(PROTOCOL_VIOLATION): end the stream."""
        if isinstance(message, Hello):
            return self._hello(message)
        if self._phase is not _Phase.OPEN:
            raise violation(f"{type(message).__name__} came while the session was {self._phase.value}")
        match message:
            case OfferReply():
                return self._offer_reply(message)
            case Started():
                return self._started(message)
            case Chunk():
                return self._chunk(message)
            case Finished():
                return self._finished(message)
            case Capacity():
                check_slots(message.slots)
            case Goodbye():
                self._phase = _Phase.ENDED
        return message

    def opened(self, welcome: Welcome, kept: Iterable[Kept]) -> list[ServerMessage]:
        """The store has recorded the session: what to answer, and which leases go on."""
        self._phase = _Phase.OPEN
        out: list[ServerMessage] = [welcome]
        for lease in kept:
            held = _Held(lease.ref, lease.state, lease.output_limit_bytes, is_told=lease.resend)
            held.through = {Channel.OUTPUT: lease.output_through_seq, Channel.LOG: lease.log_through_seq}
            held.stored_bytes = {Channel.OUTPUT: lease.output_bytes, Channel.LOG: lease.log_bytes}
            self._held[_key(lease.ref)] = held
            action = LeaseAction.RESEND if lease.resend else LeaseAction.KEEP
            out.append(LeaseDirective(lease.ref, action, lease.output_through_seq, lease.log_through_seq))
        return out

    def push(self, message: ServerMessage) -> ServerMessage | None:
        """What to send when the server begins: an offer becomes a held lease, a cancel gets its secret."""
        match message:
            case JobOffer(offer):
                held = _Held(offer.lease, LeaseState.OFFERED, offer.output_limit_bytes)
                self._held[_key(offer.lease)] = held
            case CancelRun(lease):
                known = self._held.get(_key(lease))
                return CancelRun(known.ref) if known is not None else None
        return message

    def advanced(self, lease: LeaseRef, state: LeaseState) -> None:
        """The store recorded that the lease is accepted or running now."""
        if held := self._find(lease):
            held.state = state

    def stored(self, chunk: Chunk) -> OutputAck | None:
        """The store has the chunk: the acknowledgement to send."""
        held = self._find(chunk.lease)
        if held is None:
            return None
        held.through[chunk.stream] = chunk.seq
        held.stored_bytes[chunk.stream] += len(chunk.data)
        held.resends = 0
        return held.ack()

    def may_resend(self, lease: LeaseRef) -> bool:
        """Whether to ask for missing output again: not when that was asked often and nothing came."""
        held = self._find(lease)
        if held is None:
            return True
        held.resends += 1
        return held.resends <= MAX_RESENDS

    def reconcile(self, beat: Heartbeat) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """What the daemon lists and may not hold, and what it should hold and has not listed for long."""
        if not self._held and not beat.held:
            return [], []
        unknown = [ref for ref in beat.held if self._find(ref) is None]
        listed = {_key(ref) for ref in beat.held}
        for key, held in self._held.items():
            is_expected = held.state is not LeaseState.OFFERED and not held.is_told
            held.missed = held.missed + 1 if is_expected and key not in listed else 0
        missing = [held.ref for held in self._held.values() if held.missed >= MISSED_HEARTBEATS]
        return unknown, missing

    def is_at_work(self) -> bool:
        """Whether the daemon has accepted a lease that has not ended."""
        return any(held.state is not LeaseState.OFFERED for held in self._held.values())

    def dropped(self, lease: LeaseRef) -> None:
        """The lease ended, or the store says that it is not ours: forget it."""
        if self._find(lease) is not None:
            del self._held[_key(lease)]

    def _find(self, ref: LeaseRef) -> _Held | None:
        held = self._held.get(_key(ref))
        return held if held is not None and hmac.compare_digest(held.ref.secret, ref.secret) else None

    def _hello(self, hello: Hello) -> Hello:
        if self._phase is not _Phase.AWAITING_HELLO:
            raise violation("a second Hello on one stream")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise violation(
                f"protocol version {hello.protocol_version} is not spoken here; update the daemon"
            )
        check_slots(hello.slots)
        self._phase = _Phase.OPENING
        return hello

    def _offer_reply(self, reply: OfferReply) -> Effect:
        held = self._find(reply.lease)
        if held is None:
            return self._unknown(reply.lease)
        return reply if held.state is LeaseState.OFFERED else None  # a repeated reply says nothing new

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
        held, run_ms = self._find(finished.report.lease), finished.report.run_ms
        if run_ms < 0:
            detail = f"a run time of {run_ms} ms"
            return self._breach(held, detail) if held else self._unknown(finished.report.lease)
        if held is not None:
            held.is_told = True
        return finished

    def _breach(self, held: _Held, detail: str) -> Breach:
        self._breached |= {held.ref}
        return Breach(held.ref, detail)

    def _unknown(self, lease: LeaseRef) -> Reply | None:
        """What to answer about a lease that is not held; what followed a breach was answered with it."""
        return None if lease in self._breached else stranger(lease)


def _fault(chunk: Chunk, held: _Held) -> str:
    """Why a chunk of a held lease breaks the rules; empty when it does not."""
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


def stranger(lease: LeaseRef) -> Reply:
    """What a daemon is told about a lease that it may not hold."""
    return Reply(LeaseDirective(lease, LeaseAction.STOP_AND_DISCARD))


def violation(message: str) -> DomainError:
    """The error that ends a stream whose daemon broke the protocol."""
    return DomainError(Reason.PROTOCOL_VIOLATION, message)


def check_slots(slots: int) -> None:
    """Refuses a capacity that no machine has."""
    if not 0 <= slots <= MAX_SLOTS:
        raise violation(f"{slots} slots; 0 to {MAX_SLOTS} are allowed")


def _key(ref: LeaseRef) -> tuple[str, int]:
    return ref.job_id, ref.lease_epoch
