"""The server's side of the session protocol, without a network: what it allows and what ends a stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.errors import DomainError, Reason
from server.domain.gpus import GpuReport
from server.domain.jobs import JobType
from server.domain.leases import (
    MARKER_BYTES,
    MAX_CHUNK_BYTES,
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
    Capacity,
    Chunk,
    DaemonMessage,
    Drain,
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
    Superseded,
    Welcome,
)
from server.domain.sessions import MAX_RESENDS, MAX_SLOTS, Breach, Kept, Reply, ServerSession

LEASE = LeaseRef("job-1", 1, b"s" * 16)
OTHER = LeaseRef("job-9", 1, b"o" * 16)
LIMIT_BYTES = 3 * MAX_CHUNK_BYTES
HELLO = Hello("boot", "0.1.0", 1, GpuReport(), (), frozenset(JobType), 1)
WELCOME = Welcome(1, 42)
OUT, LOG = Channel.OUTPUT, Channel.LOG


def offer(lease: LeaseRef = LEASE) -> JobOffer:
    return JobOffer(Offer(lease, 42, 1, 1, JobType.BENCHMARK, 60_000, 300_000, LIMIT_BYTES, {}))


def kept(output_seq: int = 0, log_seq: int = 0, *, resend: bool = False) -> Kept:
    through = (output_seq, log_seq)
    return Kept(LEASE, LeaseState.RUNNING, *through, 10 * output_seq, 10 * log_seq, LIMIT_BYTES, resend)


def chunk(seq: int, data: bytes = b"x", stream: Channel = OUT, lease: LeaseRef = LEASE) -> Chunk:
    return Chunk(lease, stream, seq, data)


def report(lease: LeaseRef = LEASE, run_ms: int = 1) -> Finished:
    return Finished(FinishReport(lease, RunOutcome.SUCCEEDED, run_ms, 0))


ACCEPT = OfferReply(LEASE, accepted=True)


def opened() -> ServerSession:
    session = ServerSession()
    session.receive(HELLO)
    session.opened(WELCOME, [])
    return session


def session_with_lease(state: LeaseState) -> ServerSession:
    """A session with one lease in this state."""
    session = opened()
    session.push(offer())
    if state is not LeaseState.OFFERED:
        session.advanced(LEASE, state)
    return session


def assert_violation(session: ServerSession, message: DaemonMessage) -> None:
    with pytest.raises(DomainError) as caught:
        session.receive(message)
    assert caught.value.reason is Reason.PROTOCOL_VIOLATION


def assert_breach(session: ServerSession, message: DaemonMessage) -> None:
    """The message ends this lease and no other."""
    session.push(offer(OTHER))
    session.advanced(OTHER, LeaseState.RUNNING)
    effect = session.receive(message)
    assert isinstance(effect, Breach)
    assert effect.lease == LEASE
    session.dropped(LEASE)
    assert session.receive(chunk(1, lease=OTHER)) == chunk(1, lease=OTHER)


NOT_HELLO: list[DaemonMessage] = [
    Heartbeat(1, None),
    ACCEPT,
    Started(LEASE),
    chunk(1),
    report(),
    Capacity(1, ()),
    Drain(),
    Goodbye(),
]


@pytest.mark.parametrize("message", NOT_HELLO, ids=lambda m: type(m).__name__)
def test_message_before_hello_is_a_violation(message: DaemonMessage) -> None:
    assert_violation(ServerSession(), message)


@pytest.mark.parametrize("message", NOT_HELLO, ids=lambda m: type(m).__name__)
def test_message_between_hello_and_welcome_is_a_violation(message: DaemonMessage) -> None:
    session = ServerSession()
    assert session.receive(HELLO) is HELLO
    assert_violation(session, message)


@pytest.mark.parametrize("message", [HELLO, *NOT_HELLO], ids=lambda m: type(m).__name__)
def test_message_after_goodbye_is_a_violation(message: DaemonMessage) -> None:
    session = opened()
    session.receive(Goodbye())
    assert_violation(session, message)


def test_second_hello_is_a_violation() -> None:
    assert_violation(opened(), HELLO)


@pytest.mark.parametrize("version", [0, 2, -1])
def test_other_version_of_the_protocol_is_a_violation(version: int) -> None:
    assert_violation(ServerSession(), replace(HELLO, protocol_version=version))


@pytest.mark.parametrize("slots", [-1, MAX_SLOTS + 1])
def test_impossible_number_of_slots_is_a_violation(slots: int) -> None:
    assert_violation(ServerSession(), replace(HELLO, slots=slots))
    assert_violation(opened(), Capacity(slots, ()))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LeaseState.OFFERED, Started(LEASE)),
        (LeaseState.OFFERED, chunk(1)),
        (LeaseState.OFFERED, chunk(1, stream=LOG)),
        (LeaseState.ACCEPTED, chunk(1)),
        (LeaseState.RUNNING, chunk(2)),
        (LeaseState.RUNNING, chunk(0)),
        (LeaseState.RUNNING, chunk(-1)),
        (LeaseState.RUNNING, chunk(2, stream=LOG)),
        (LeaseState.RUNNING, chunk(1, b"")),
        (LeaseState.RUNNING, chunk(1, b"x" * (MAX_CHUNK_BYTES + 1))),
        (LeaseState.RUNNING, report(run_ms=-1)),
    ],
)
def test_message_in_the_wrong_order_or_too_large_is_a_breach(
    state: LeaseState, message: DaemonMessage
) -> None:
    assert_breach(session_with_lease(state), message)


def test_messages_about_a_lease_after_its_breach_are_not_answered() -> None:
    """The daemon sent them before it could read the directive to stop."""
    session = session_with_lease(LeaseState.RUNNING)
    assert isinstance(session.receive(chunk(2)), Breach)
    session.dropped(LEASE)
    assert [session.receive(late) for late in (chunk(3), chunk(4, stream=LOG), Started(LEASE))] == [None] * 3
    assert session.reconcile(beat(LEASE)) == ([LEASE], [])


def test_missing_output_is_requested_again_while_some_of_it_arrives() -> None:
    session = session_with_lease(LeaseState.RUNNING)
    asked = [session.may_resend(LEASE) for _ in range(MAX_RESENDS + 1)]
    assert asked == [True] * MAX_RESENDS + [False]
    session.stored(chunk(1))
    assert session.may_resend(LEASE)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LeaseState.OFFERED, ACCEPT),
        (LeaseState.OFFERED, OfferReply(LEASE, accepted=False)),
        (LeaseState.ACCEPTED, Started(LEASE)),
        (LeaseState.ACCEPTED, chunk(1, stream=LOG)),
        (LeaseState.RUNNING, chunk(1)),
        (LeaseState.RUNNING, chunk(1, b"x" * MAX_CHUNK_BYTES)),
        (LeaseState.OFFERED, report()),
        (LeaseState.ACCEPTED, report()),
        (LeaseState.RUNNING, report()),
    ],
)
def test_message_in_order_is_recorded(state: LeaseState, message: DaemonMessage) -> None:
    assert session_with_lease(state).receive(message) is message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LeaseState.ACCEPTED, ACCEPT),
        (LeaseState.RUNNING, ACCEPT),
        (LeaseState.RUNNING, Started(LEASE)),
    ],
)
def test_repeated_message_is_not_recorded_again(state: LeaseState, message: DaemonMessage) -> None:
    assert session_with_lease(state).receive(message) is None


STRANGE = [
    LeaseRef("job-2", 1, LEASE.secret),
    replace(LEASE, lease_epoch=2),
    replace(LEASE, secret=b"x" * 16),
    replace(LEASE, secret=b""),
]


@pytest.mark.parametrize("lease", STRANGE)
@pytest.mark.parametrize("kind", ["reply", "started", "output", "log"])
def test_message_about_an_unknown_lease_gets_stop_and_discard(lease: LeaseRef, kind: str) -> None:
    message: DaemonMessage = {
        "reply": OfferReply(lease, accepted=True),
        "started": Started(lease),
        "output": chunk(1, lease=lease),
        "log": chunk(1, stream=LOG, lease=lease),
    }[kind]  # type: ignore[assignment]
    expected = Reply(LeaseDirective(lease, LeaseAction.STOP_AND_DISCARD))
    assert session_with_lease(LeaseState.RUNNING).receive(message) == expected


def test_result_of_an_unknown_lease_is_looked_up_in_the_store() -> None:
    message = report(STRANGE[0])
    assert opened().receive(message) is message


def test_duplicate_chunk_is_acknowledged_again() -> None:
    session = session_with_lease(LeaseState.RUNNING)
    for seq in (1, 2, 3):
        sent = chunk(seq)
        assert session.receive(sent) is sent
        assert session.stored(sent) == OutputAck(LEASE, seq, 0)
    for seq in (1, 2, 3):
        assert session.receive(chunk(seq)) == Reply(OutputAck(LEASE, 3, 0))


def test_output_and_log_are_numbered_separately() -> None:
    session = session_with_lease(LeaseState.RUNNING)
    assert session.stored(chunk(1)) == OutputAck(LEASE, 1, 0)
    assert session.stored(chunk(1, stream=LOG)) == OutputAck(LEASE, 1, 1)
    assert session.stored(chunk(2, stream=LOG)) == OutputAck(LEASE, 1, 2)


@pytest.mark.parametrize("stream", Channel)
def test_stream_larger_than_allowed_is_a_breach(stream: Channel) -> None:
    """The limit is the offer's plus the line that marks truncated output."""
    session = session_with_lease(LeaseState.RUNNING)
    sizes = [*[MAX_CHUNK_BYTES] * (LIMIT_BYTES // MAX_CHUNK_BYTES), MARKER_BYTES]
    for seq, size in enumerate(sizes, 1):
        sent = chunk(seq, b"x" * size, stream)
        assert session.receive(sent) is sent
        session.stored(sent)
    assert_breach(session, chunk(len(sizes) + 1, b"x", stream))


def test_size_limit_includes_what_was_stored_before_a_reconnect() -> None:
    session = ServerSession()
    session.receive(replace(HELLO, held=(LEASE,)))
    session.opened(WELCOME, [replace(kept(3), output_bytes=LIMIT_BYTES)])
    fits = chunk(4, b"x" * MARKER_BYTES)
    assert session.receive(fits) is fits
    assert_breach(session, chunk(4, b"x" * (MARKER_BYTES + 1)))


def test_dropped_lease_is_unknown() -> None:
    session = session_with_lease(LeaseState.RUNNING)
    session.dropped(LEASE)
    assert isinstance(session.receive(chunk(1)), Reply)
    assert session.stored(chunk(1)) is None


def test_kept_lease_continues_at_its_last_chunk() -> None:
    session = ServerSession()
    session.receive(replace(HELLO, held=(LEASE,)))
    messages = session.opened(WELCOME, [kept(3, 2)])
    assert messages == [WELCOME, LeaseDirective(LEASE, LeaseAction.KEEP, 3, 2)]
    assert session.receive(chunk(3)) == Reply(OutputAck(LEASE, 3, 2))
    assert session.receive(chunk(4)) == chunk(4)
    assert_breach(session, chunk(6))


def test_kept_lease_with_an_unacknowledged_result_gets_resend() -> None:
    session = ServerSession()
    session.receive(replace(HELLO, unacknowledged=(LEASE,)))
    messages = session.opened(WELCOME, [kept(3, 0, resend=True)])
    assert messages[1] == LeaseDirective(LEASE, LeaseAction.RESEND, 3, 0)


def test_cancel_carries_the_secret_that_the_daemon_knows() -> None:
    bare = CancelRun(replace(LEASE, secret=b""))
    assert session_with_lease(LeaseState.RUNNING).push(bare) == CancelRun(LEASE)
    assert opened().push(bare) is None


# Leases that heartbeats list.


def beat(*held: LeaseRef) -> Heartbeat:
    return Heartbeat(1, None, held)


@pytest.mark.parametrize("lease", STRANGE)
def test_listed_lease_that_the_session_does_not_hold_is_returned(lease: LeaseRef) -> None:
    assert session_with_lease(LeaseState.RUNNING).reconcile(beat(LEASE, lease)) == ([lease], [])
    assert opened().reconcile(beat(lease)) == ([lease], [])


@pytest.mark.parametrize("state", [LeaseState.ACCEPTED, LeaseState.RUNNING])
def test_lease_left_out_of_consecutive_heartbeats_is_missing(state: LeaseState) -> None:
    session = session_with_lease(state)
    for _ in range(2):
        for _ in range(MISSED_HEARTBEATS - 1):
            assert session.reconcile(beat()) == ([], [])
        assert session.reconcile(beat(LEASE)) == ([], [])
    for _ in range(MISSED_HEARTBEATS - 1):
        session.reconcile(beat())
    assert session.reconcile(beat()) == ([], [LEASE])


def test_offered_lease_is_not_missing_before_its_acceptance() -> None:
    session = session_with_lease(LeaseState.OFFERED)
    for _ in range(MISSED_HEARTBEATS):
        assert session.reconcile(beat()) == ([], [])
    session.advanced(LEASE, LeaseState.ACCEPTED)
    assert session.reconcile(beat()) == ([], [])


def test_lease_with_a_reported_result_need_not_be_listed() -> None:
    reported = session_with_lease(LeaseState.RUNNING)
    reported.receive(report())
    resending = ServerSession()
    resending.receive(replace(HELLO, unacknowledged=(LEASE,)))
    resending.opened(WELCOME, [kept(resend=True)])
    for session in (reported, resending):
        for _ in range(2 * MISSED_HEARTBEATS):
            assert session.reconcile(beat()) == ([], [])


def test_secret_is_not_in_the_text_of_a_lease() -> None:
    assert "ssss" not in repr(LEASE)
    assert "ssss" not in repr(chunk(1))


# Any sequence of messages.

LEASES = [LEASE, LeaseRef("job-2", 1, b"t" * 16), LeaseRef("job-3", 7, b"u" * 16)]
ANY_LEASE = st.sampled_from([*LEASES, *STRANGE])
ANY_MESSAGE: st.SearchStrategy[DaemonMessage] = st.one_of(
    st.just(HELLO),
    st.builds(Heartbeat, st.integers(), st.none()),
    st.builds(OfferReply, ANY_LEASE, st.booleans()),
    st.builds(Started, ANY_LEASE),
    st.builds(
        Chunk,
        ANY_LEASE,
        st.sampled_from(Channel),
        st.integers(-1, 6),
        st.sampled_from([b"", b"x", b"x" * MAX_CHUNK_BYTES, b"x" * (MAX_CHUNK_BYTES + 1)]),
    ),
    st.builds(report, ANY_LEASE, st.integers(-1, 2)),
    st.builds(Capacity, st.integers(-1, 2), st.just(())),
    st.just(Drain()),
    st.just(Goodbye()),
)
ANY_PUSH = st.one_of(
    st.builds(offer, st.sampled_from(LEASES)), st.builds(CancelRun, ANY_LEASE), st.just(Superseded(2))
)
BOTH_STREAMS = (OUT, LOG)


@dataclass
class Driver:
    """Applies the session's effects as the service does, with a store that accepts everything."""

    session: ServerSession = field(default_factory=ServerSession)
    acked: dict[tuple[LeaseRef, Channel], int] = field(default_factory=dict)

    def receive(self, message: DaemonMessage) -> None:
        match self.session.receive(message):
            case Hello():
                self.session.opened(WELCOME, [])
            case OfferReply(lease, True):
                self.session.advanced(lease, LeaseState.ACCEPTED)
            case OfferReply(lease):
                self.session.dropped(lease)
            case Started(lease):
                self.session.advanced(lease, LeaseState.RUNNING)
            case Chunk() as stored:
                ack = self.session.stored(stored)
                assert ack is not None
                self.check_contiguous(stored, ack)
            case Finished(done):
                self.session.dropped(done.lease)
            case Breach(lease):
                self.session.dropped(lease)

    def check_contiguous(self, chunk_: Chunk, ack: OutputAck) -> None:
        through = (ack.output_through_seq, ack.log_through_seq)
        before = self.acked.get((chunk_.lease, chunk_.stream), 0)
        assert through[BOTH_STREAMS.index(chunk_.stream)] == chunk_.seq
        assert chunk_.seq == before + 1
        self.acked[chunk_.lease, chunk_.stream] = chunk_.seq


@settings(max_examples=300)
@given(st.lists(st.one_of(ANY_MESSAGE, ANY_MESSAGE, ANY_PUSH), max_size=40), st.booleans())
def test_any_sequence_is_accepted_or_a_violation(sequence: list[object], greet: bool) -> None:
    driver = Driver()
    if greet:
        driver.receive(HELLO)
        for lease in LEASES:
            driver.session.push(offer(lease))
            driver.session.advanced(lease, LeaseState.RUNNING)
    for message in sequence:
        if isinstance(message, JobOffer):
            # The store creates a lease once, so the same lease cannot be pushed twice.
            if not greet:
                driver.session.push(message)
                driver.acked = {key: n for key, n in driver.acked.items() if key[0] != message.offer.lease}
            continue
        if isinstance(message, CancelRun | Superseded):
            driver.session.push(message)
            continue
        try:
            driver.receive(message)  # type: ignore[arg-type]
        except DomainError as error:
            assert error.reason is Reason.PROTOCOL_VIOLATION  # noqa: PT017
