"""The daemon's session against a small strict server, connected by a network that fails.

The network loses, repeats and delays messages, and breaks; the server follows the rules of the proto.
Nevertheless each job starts once, its output arrives complete and in order, and its result unchanged.
"""

from __future__ import annotations

from random import Random
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.protocol import events as ev
from daemon.protocol.effects import EndSession, Persist, ReconnectAfter, Send, StartAttempt
from daemon.protocol.events import Result, succeeded
from daemon.protocol.records import Channel
from daemon.protocol.session import DaemonSession, Introduction, LinkState
from tests.daemon.fake_server import offer, seconds

KEEP = sessions_pb2.LEASE_ACTION_KEEP
STOP = sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
WORDS = [bytes([65 + number]) * 3 for number in range(12)]
RESULT: Result = succeeded(jobs_pb2.Usage(completion_tokens=12))


class StrictServer:
    """A server with one job: offers it until accepted, and stores each chunk once and in order."""

    def __init__(self, *, merges: bool) -> None:
        self.merges = merges
        self.lease_epoch = 0 if merges else 1
        self.stored: list[bytes] = []
        self.result: sessions_pb2.JobFinished | None = None
        self.accepted = False
        self.started = False
        self.epoch = 0

    def answer(self, sent: sessions_pb2.DaemonMessage) -> list[dict[str, Any]]:
        message = sessions_pb2.DaemonMessage()
        message.CopyFrom(sent)
        kind = message.WhichOneof("kind") or ""
        body = getattr(message, kind)
        if hasattr(body, "lease") and body.lease.lease_epoch != self.lease_epoch:
            stop = sessions_pb2.LeaseDirective(lease=body.lease, action=STOP)
            return [{"lease_directive": stop}]
        handler = getattr(self, f"on_{kind}", None)
        answers: list[dict[str, Any]] = handler(getattr(message, kind)) if handler else []
        return answers

    def offers(self) -> list[dict[str, Any]]:
        return [] if self.accepted else [{"job_offer": offer(epoch=self.lease_epoch, limit=86400)}]

    def on_hello(self, hello: sessions_pb2.Hello) -> list[dict[str, Any]]:
        self.epoch += 1
        # Without merged messages every accepted run is said to be so at once, so one lease suffices.
        self.lease_epoch += self.merges and not self.accepted
        welcome = sessions_pb2.Welcome(
            session_epoch=self.epoch,
            heartbeat_interval=seconds(10),
            lost_after=seconds(9999),
            chunk_credit=3,
            takes_merged_messages=self.merges,
        )
        directives = [
            {
                "lease_directive": sessions_pb2.LeaseDirective(
                    lease=held,
                    action=KEEP if held.lease_epoch == self.lease_epoch else STOP,
                    output_through_seq=len(self.stored),
                )
            }
            for held in hello.held_leases
        ]
        return [{"welcome": welcome}, *directives]

    def on_heartbeat(self, beat: sessions_pb2.SessionHeartbeat) -> list[dict[str, Any]]:
        return [{"heartbeat_ack": sessions_pb2.HeartbeatAck(sequence=beat.sequence)}, *self.offers()]

    def on_offer_reply(self, reply: sessions_pb2.OfferReply) -> list[dict[str, Any]]:
        assert reply.accepted
        self.accepted = True
        assert not reply.started or self.merges
        self.started = self.started or reply.started
        return []

    def on_job_started(self, started: sessions_pb2.JobStarted) -> list[dict[str, Any]]:
        self.started = True
        return []

    def on_output_chunk(self, chunk: sessions_pb2.OutputChunk) -> list[dict[str, Any]]:
        # On a network that loses messages a gap is not the daemon's fault: the chunk is not stored,
        # nor is the output of a run that has not started yet.
        if self.started and chunk.seq == len(self.stored) + 1:
            self.stored.append(chunk.data)
        ack = sessions_pb2.OutputAck(lease=chunk.lease, output_through_seq=len(self.stored))
        return [{"output_ack": ack}]

    def on_job_finished(self, finished: sessions_pb2.JobFinished) -> list[dict[str, Any]]:
        assert not finished.last_output or self.merges
        if self.started and finished.last_output and finished.last_output_seq == len(self.stored) + 1:
            self.stored.append(finished.last_output)
        finished.ClearField("last_output")
        if not self.started or finished.last_output_seq > len(self.stored):
            return []
        if self.result is not None:
            assert self.result == finished
        self.result = finished
        ack = sessions_pb2.ResultAck(
            lease=finished.lease, disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
        )
        return [{"result_ack": ack}]


class Wire:
    """Connects both sides; `faults` lists what happens to each message in turn."""

    def __init__(self, faults: list[str], seed: int, *, merges: bool) -> None:
        self.faults = list(faults)
        self.server = StrictServer(merges=merges)
        self.rest = b""
        self.session = DaemonSession(
            Introduction("boot", "1"),
            Random(seed),
            ev.Capacity(
                1, [sessions_pb2.ServedModel(name="test/model", warm=True)], [jobs_pb2.JOB_TYPE_LLM_INFERENCE]
            ),
            rest=self.take_rest,
        )
        self.now = 0.0
        self.connect_at = 0.0
        self.starts: list[sessions_pb2.Lease] = []
        self.up: list[sessions_pb2.DaemonMessage] = []
        self.down: list[sessions_pb2.ServerMessage] = []
        self.written = 0

    def take_rest(self, held: sessions_pb2.Lease) -> list[tuple[Channel, bytes]]:
        rest, self.rest = self.rest, b""
        return [(Channel.OUTPUT, rest)]

    def do(self, effects: Any) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self.up += [message] * self.copies()
                case StartAttempt(work):
                    self.starts.append(work.lease)
                    self.written, self.rest = 0, b""
                case Persist(number):
                    self.happen(ev.Persisted(number))
                case ReconnectAfter(delay):
                    self.connect_at = self.now + delay
                    self.up, self.down = [], []
                case EndSession():
                    raise AssertionError("nobody ended the session")

    def happen(self, event: ev.Event) -> None:
        self.do(self.session.handle(event, self.now))

    def copies(self) -> int:
        fault = self.faults.pop() if self.faults else "deliver"
        if fault == "cut":
            self.up, self.down = [], []
            self.happen(ev.Disconnected())
            return 0
        return {"deliver": 1, "drop": 0, "repeat": 2}[fault]

    def step(self) -> None:
        self.now += 1.0
        if self.session.link is LinkState.OFFLINE and self.now >= self.connect_at:
            self.happen(ev.Connected())
        self.exchange()
        self.work()
        self.happen(ev.Tick())

    def exchange(self) -> None:
        up, self.up = self.up, []
        for message in up:
            for answer in self.server.answer(message):
                self.down += [sessions_pb2.ServerMessage(**answer)] * self.copies()
        down, self.down = self.down, []
        for reply in down:
            self.happen(ev.Received(reply))

    def work(self) -> None:
        """Plays the engine: a word per second, then the result."""
        if not self.starts:
            return
        held = self.starts[-1]
        if self.written == 0:
            self.happen(ev.AttemptStarted(held))
        if self.written == len(WORDS) - 1:
            self.rest = WORDS[self.written]
        elif self.written < len(WORDS):
            self.happen(ev.AttemptWrote(held, Channel.OUTPUT, WORDS[self.written]))
        elif self.written == len(WORDS):
            self.happen(ev.AttemptFinished(held, RESULT))
        self.written += 1


@settings(max_examples=400, deadline=None)
@given(
    faults=st.lists(st.sampled_from(["deliver", "deliver", "drop", "repeat", "cut"]), max_size=80),
    seed=st.integers(0, 1000),
    merges=st.booleans(),
)
def test_faults_of_the_network_leave_one_complete_run(faults: list[str], seed: int, merges: bool) -> None:
    wire = Wire(faults, seed, merges=merges)
    for _ in range(5000):
        wire.step()
        if wire.server.result is not None and not wire.faults:
            break
    assert wire.server.result is not None, "the result never arrived"
    accepted = [held for held in wire.starts if held.lease_epoch == wire.server.lease_epoch]
    assert len(accepted) == 1
    assert merges or len(wire.starts) == 1
    assert wire.server.started
    assert b"".join(wire.server.stored) == b"".join(WORDS)
    assert wire.server.result.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
    assert wire.server.result.run_time == seconds(len(WORDS))
