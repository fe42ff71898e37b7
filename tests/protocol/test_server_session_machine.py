"""The server's side of a session under any order of events: the daemon's messages, the store's answers,
the server's own messages, and new streams that keep some of the leases.

The model records the store's state of each lease. The half must not request anything that the store would
refuse, and must let nothing through for a lease that the session does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.domain.errors import DomainError, Reason
from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.domain.leases import (
    MARKER_BYTES,
    MISSED_HEARTBEATS,
    Channel,
    FinishReport,
    LeaseRef,
    LeaseState,
    Offer,
    RunOutcome,
)
from server.domain.messages import (
    CancelRun,
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
    Started,
    Welcome,
)
from server.domain.sessions import Breach, Effect, Kept, Reply, ServerSession

LIMIT_BYTES = 40
JOBS = [0, 1]
HELLO = Hello("boot", "1", 1, GpuReport(), (), frozenset({JobType.LLM_INFERENCE}), 2)


@dataclass
class Stored:
    """The store's state of a lease."""

    ref: LeaseRef
    state: LeaseState = LeaseState.OFFERED
    through: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))
    size: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))
    is_reported: bool = False
    missed: int = 0


class ServerHalf(RuleBasedStateMachine):
    """The consecutive streams of a provider."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = dict.fromkeys(JOBS, 0)
        self.held: dict[int, Stored] = {}
        self.breached: set[LeaseRef] = set()
        """Leases that a breach ended on this stream: later messages about them are not answered."""
        self.is_open = False

    # --- streams ---

    @initialize()
    def first_stream(self) -> None:
        self.open({})

    @rule(lost=st.sampled_from([None, None, None, *JOBS]))
    def stream_breaks_and_another_comes(self, lost: int | None) -> None:
        """The daemon lists its leases, or no longer holds some of them; an offer is never kept."""
        self.open({n: s for n, s in self.held.items() if n != lost and s.state is not LeaseState.OFFERED})

    def open(self, kept: dict[int, Stored]) -> None:
        self.half = ServerSession()
        self.refused(Heartbeat(1, None))
        assert self.half.receive(HELLO) is HELLO
        self.held, self.is_open = kept, True
        self.breached = set()
        for stored in kept.values():
            stored.missed = 0
        out, log = Channel.OUTPUT, Channel.LOG
        answers = self.half.opened(
            Welcome(1, 1),
            [
                Kept(
                    s.ref,
                    s.state,
                    s.through[out],
                    s.through[log],
                    s.size[out],
                    s.size[log],
                    LIMIT_BYTES,
                    s.is_reported,
                )
                for s in kept.values()
            ],
        )
        assert isinstance(answers[0], Welcome)
        assert answers[1:] == [
            LeaseDirective(
                s.ref,
                LeaseAction.RESEND if s.is_reported else LeaseAction.KEEP,
                s.through[Channel.OUTPUT],
                s.through[Channel.LOG],
            )
            for s in kept.values()
        ]

    @precondition(lambda self: self.is_open and not self.held)
    @rule()
    def says_goodbye(self) -> None:
        assert self.half.receive(Goodbye()) == Goodbye()
        self.refused(Heartbeat(1, None))
        self.is_open = False

    # --- offers ---

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS))
    def job_is_offered(self, number: int) -> None:
        """The store grants one lease of a job at a time, each with a new epoch."""
        if number in self.held:
            return
        self.epochs[number] += 1
        ref = LeaseRef(f"job-{number}", self.epochs[number], bytes([number]) * 16)
        offer = JobOffer(Offer(ref, 1, 1, 1, JobType.LLM_INFERENCE, 1000, 1000, LIMIT_BYTES, {}))
        assert self.half.push(offer) is offer
        self.held[number] = Stored(ref)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS), accepted=st.booleans(), started=st.booleans())
    def offer_is_answered(self, number: int, accepted: bool, started: bool = False) -> None:
        reply = OfferReply(self.ref(number), accepted, started=started)
        effect = self.half.receive(reply)
        if (stored := self.held.get(number)) is None:
            self.is_stranger(effect, reply.lease)
        elif stored.state is LeaseState.ACCEPTED and accepted and started:
            assert effect == Started(reply.lease), "an acceptance may be repeated with the start"
            self.move(number, LeaseState.RUNNING)
        elif stored.state is not LeaseState.OFFERED:
            assert effect is None, "a repeated answer was processed again"
        else:
            assert effect is reply
            state = LeaseState.RUNNING if started else LeaseState.ACCEPTED
            self.move(number, state if accepted else None)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS))
    def run_starts(self, number: int) -> None:
        started = Started(self.ref(number))
        stored = self.held.get(number)
        if stored is not None and stored.state is LeaseState.OFFERED:
            self.breaks(number, started)
            return
        effect = self.half.receive(started)
        if stored is None:
            self.is_stranger(effect, started.lease)
        elif stored.state is LeaseState.RUNNING:
            assert effect is None
        else:
            assert effect is started
            self.move(number, LeaseState.RUNNING)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS))
    def run_is_under_way(self, number: int) -> None:
        self.job_is_offered(number)
        self.offer_is_answered(number, True)
        self.run_starts(number)

    # --- its output and its end ---

    @precondition(lambda self: self.is_open)
    @rule(
        number=st.sampled_from(JOBS),
        stream=st.sampled_from(Channel),
        ahead=st.integers(-2, 2),
        size=st.integers(0, 30),
        is_new=st.booleans(),
    )
    def chunk_comes(self, number: int, stream: Channel, ahead: int, size: int, is_new: bool) -> None:
        """Mostly the next chunk. The total must fit into the output limit plus the truncation marker."""
        if is_new:
            self.run_is_under_way(number)
        stored = self.held.get(number)
        seq = (stored.through[stream] if stored else 0) + (1 if is_new else ahead)
        chunk = Chunk(self.ref(number), stream, seq, b"x" * size * (10 if is_new else 1))
        if stored is None:
            self.is_stranger(self.half.receive(chunk), chunk.lease)
        elif not (chunk.data and self.may_write(stored, stream) and 1 <= seq <= stored.through[stream] + 1):
            self.breaks(number, chunk)
        elif seq <= stored.through[stream]:
            assert self.half.receive(chunk) == Reply(self.ack(stored)), (
                "a repeated chunk is only acknowledged"
            )
        elif stored.size[stream] + len(chunk.data) > LIMIT_BYTES + MARKER_BYTES:
            self.breaks(number, chunk)
        else:
            assert self.half.receive(chunk) is chunk
            stored.through[stream] = seq
            stored.size[stream] += len(chunk.data)
            assert self.half.stored(chunk) == self.ack(stored)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS), is_complete=st.booleans())
    def result_comes(self, number: int, is_complete: bool) -> None:
        """A result is always looked up, because it may arrive late. With missing output, the lease stays."""
        finished = Finished(FinishReport(self.ref(number), RunOutcome.SUCCEEDED, 5, 0))
        assert self.half.receive(finished) is finished
        if number in self.held:
            self.held[number].is_reported = True
            if is_complete:
                self.move(number, None)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS), ahead=st.integers(-2, 3), size=st.integers(1, 400))
    def result_comes_with_output(self, number: int, ahead: int, size: int) -> None:
        """The store decides about a gap; a chunk that breaks the rules ends the lease."""
        stored = self.held.get(number)
        through = stored.through[Channel.OUTPUT] if stored else 0
        report = FinishReport(
            self.ref(number), RunOutcome.SUCCEEDED, 5, through + ahead, last_output=b"x" * size
        )
        finished = Finished(report)
        is_numbered = through + ahead >= 1
        if stored is None:
            effect = self.half.receive(finished)
            if is_numbered:
                assert effect is finished
            else:
                self.is_stranger(effect, report.lease)
            return
        total = stored.size[Channel.OUTPUT] + size
        is_too_much = ahead >= 1 and total > LIMIT_BYTES + MARKER_BYTES
        if not is_numbered or stored.state is not LeaseState.RUNNING or is_too_much:
            self.breaks(number, finished)
            return
        assert self.half.receive(finished) is finished
        stored.is_reported = True
        if ahead <= 1:
            self.move(number, None)

    # --- the rest ---

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS))
    def names_a_lease_with_another_secret(self, number: int) -> None:
        ref = self.ref(number)
        forged = LeaseRef(ref.job_id, ref.lease_epoch, b"?" * 16)
        for message in (OfferReply(forged, True), Started(forged), Chunk(forged, Channel.OUTPUT, 1, b"x")):
            self.is_stranger(self.half.receive(message), forged)
        assert self.half.reconcile(Heartbeat(1, None, (*self.refs(), forged))) == ([forged], [])
        for stored in self.held.values():
            stored.missed = 0

    @precondition(lambda self: self.is_open)
    @rule(listed=st.sets(st.sampled_from(JOBS)))
    def heartbeat_lists(self, listed: set[int]) -> None:
        """The daemon must stop leases that it may not hold. A lease that two heartbeats in a row omit is
        lost, unless its end was reported."""
        beat = Heartbeat(1, None, tuple(self.ref(number) for number in sorted(listed)))
        assert self.half.receive(beat) is beat
        missing = []
        for number, stored in self.held.items():
            is_expected = stored.state is not LeaseState.OFFERED and not stored.is_reported
            stored.missed = stored.missed + 1 if is_expected and number not in listed else 0
            if stored.missed >= MISSED_HEARTBEATS:
                missing.append(stored.ref)
        strangers = [self.ref(number) for number in sorted(listed) if number not in self.held]
        assert self.half.reconcile(beat) == (strangers, missing)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS))
    def job_is_cancelled(self, number: int) -> None:
        """CancelRun carries the lease's secret, and is not sent for a lease that the daemon does not hold."""
        ref = self.ref(number)
        sent = self.half.push(CancelRun(LeaseRef(ref.job_id, ref.lease_epoch, b"")))
        assert sent == (CancelRun(ref) if number in self.held else None)

    @precondition(lambda self: self.is_open)
    @rule(number=st.sampled_from(JOBS), is_reported=st.booleans())
    def lease_ends_at_the_store(self, number: int, is_reported: bool) -> None:
        if number in self.held and self.held[number].is_reported == is_reported:
            self.move(number, None)

    @rule()
    def says_hello_again(self) -> None:
        self.refused(HELLO)

    @invariant()
    def never_holds_two_leases_of_one_job(self) -> None:
        assert len({stored.ref.job_id for stored in self.held.values()}) == len(self.held)

    # --- helpers ---

    def ref(self, number: int) -> LeaseRef:
        """The job's lease, or its last one."""
        stored = self.held.get(number)
        return stored.ref if stored else LeaseRef(f"job-{number}", self.epochs[number], bytes([number]) * 16)

    def refs(self) -> list[LeaseRef]:
        return [stored.ref for stored in self.held.values()]

    def ack(self, stored: Stored) -> OutputAck:
        return OutputAck(stored.ref, stored.through[Channel.OUTPUT], stored.through[Channel.LOG])

    def may_write(self, stored: Stored, stream: Channel) -> bool:
        """The log may be written from the preparation on, output only while the job runs."""
        may = {LeaseState.RUNNING} if stream is Channel.OUTPUT else {LeaseState.RUNNING, LeaseState.ACCEPTED}
        return stored.state in may

    def move(self, number: int, state: LeaseState | None) -> None:
        """Records that the store did what was requested; None: the lease has ended."""
        if state is None:
            self.half.dropped(self.held.pop(number).ref)
        else:
            self.held[number].state = state
            self.half.advanced(self.held[number].ref, state)

    def refused(self, message: DaemonMessage) -> None:
        try:
            effect = self.half.receive(message)
        except DomainError as error:
            assert error.reason is Reason.PROTOCOL_VIOLATION  # noqa: PT017
        else:
            raise AssertionError(f"{message} was taken: {effect}")

    def breaks(self, number: int, message: DaemonMessage) -> None:
        """The lease is over, and only the lease."""
        effect = self.half.receive(message)
        assert isinstance(effect, Breach)
        assert effect.lease == self.ref(number)
        self.breached.add(effect.lease)
        self.move(number, None)

    def is_stranger(self, effect: Effect, ref: LeaseRef) -> None:
        directive = Reply(LeaseDirective(ref, LeaseAction.STOP_AND_DISCARD))
        assert effect == (None if ref in self.breached else directive)


TestServerHalf = ServerHalf.TestCase
TestServerHalf.settings = settings(max_examples=150, stateful_step_count=60)
