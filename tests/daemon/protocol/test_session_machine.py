"""The daemon's side with its real journal, in any order of events: lost, repeated and late messages,
new streams, a slow or full disk, and restarts of the daemon after a power cut.

The server of this test keeps what was reported and checks each message as it arrives.
"""

from __future__ import annotations

from random import Random
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from daemon.journal.journal import Journal
from daemon.protocol import effects as fx
from daemon.protocol import events as ev
from daemon.protocol.events import succeeded
from daemon.protocol.records import Channel
from daemon.protocol.session import DaemonSession, Introduction, LinkState
from tests.daemon.fake_server import lease, offer, seconds
from tests.support.journals import on_disk
from tests.support.memory_disk import MemoryDisk

SLOTS = 2
SEGMENT_BYTES = 1_000
LOST_AFTER = 100.0
NAMES = st.sampled_from(["job-1", "job-2"])


class Reported:
    """What the daemon has reported to the server about one lease."""

    def __init__(self, held: sessions_pb2.Lease) -> None:
        self.lease = held
        self.chunks: dict[int, bytes] = {}
        self.stored = 0
        self.is_accepted = False
        self.is_forlorn = False
        """Its process died before its acceptance was reported: the server takes all about it for stale."""
        self.is_started = False
        self.is_discarded = False
        self.is_acknowledged = False
        self.is_forgotten = False
        """The daemon's disk has durably removed it."""
        self.disk_failed = False
        self.result: sessions_pb2.JobFinished | None = None


class Daemon(RuleBasedStateMachine):
    """A daemon with its disk, its engine and its server."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rng = Random(1)
        self.disk = MemoryDisk()
        self.known: dict[str, Reported] = {}
        self.begun: list[str] = []
        self.at_work: dict[str, bool] = {}
        self.sent_by_server: list[dict[str, Any]] = []
        self.epochs = {"job-1": 0, "job-2": 0}
        self.is_warm = True
        self.rest: dict[str, bytes] = {}
        self.start_process()

    def take_rest(self, held: sessions_pb2.Lease) -> list[tuple[Channel, bytes]]:
        return [(Channel.OUTPUT, self.rest.pop(key(held), b""))]

    def start_process(self) -> None:
        self.journal = Journal(self.disk, SEGMENT_BYTES)
        self.forgotten: list[Reported] = []
        self.waiting: list[fx.Persist | fx.Forget] = []
        self.at_work = {}
        self.session = DaemonSession(
            Introduction("boot", "1"),
            Random(1),
            ev.Capacity(
                SLOTS,
                [sessions_pb2.ServedModel(name="test/model", warm=self.is_warm)],
                [jobs_pb2.JOB_TYPE_LLM_INFERENCE],
            ),
            rest=self.take_rest,
        )
        for history in self.journal.recover():
            known = self.known[key(history.offer.lease)]
            reported_chunk = max(known.chunks, default=0)
            assert history.channels[Channel.OUTPUT].last >= reported_chunk, (
                "a chunk was reported that the disk did not have"
            )
            assert history.started or not known.is_started, "a start was reported that the disk did not have"
            if known.result is not None and not known.disk_failed:
                assert history.finished == known.result, "a result was reported that the disk did not have"
            self.happen(ev.Recovered(history, False))
        found = {key(history.offer.lease) for history in on_disk(self.disk)}
        for name, known in self.known.items():
            owed = known.is_accepted and not (known.is_acknowledged or known.is_discarded)
            assert not owed or name in found, "an offer was accepted that the disk did not have"

    # --- the surroundings ---

    def do(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(message):
                    self.hear(message)
                case fx.StartAttempt(work):
                    assert key(work.lease) not in self.begun, "a lease was run twice"
                    self.begun.append(key(work.lease))
                    self.at_work[key(work.lease)] = False
                    assert len(self.at_work) <= SLOTS
                case fx.StopAttempt(held):
                    self.at_work.pop(key(held), None)
                case fx.Persist() | fx.Forget():
                    self.waiting.append(effect)

    def happen(self, event: ev.Event) -> None:
        self.do(self.session.handle(event, self.now))

    def say(self, **kind: Any) -> None:
        self.sent_by_server.append(kind)
        self.happen(ev.Received(sessions_pb2.ServerMessage(**kind)))

    def hear(self, message: sessions_pb2.DaemonMessage) -> None:
        kind = message.WhichOneof("kind") or ""
        body = getattr(message, kind)
        if kind in ("hello", "heartbeat"):
            unacknowledged = body.unacknowledged_results if kind == "hello" else ()
            for held in [*body.held_leases, *unacknowledged]:
                assert not self.known[key(held)].is_discarded
        if not hasattr(body, "lease"):
            return
        known = self.known[key(body.lease)]
        assert not known.is_discarded, f"{kind} of a lease that was to be discarded"
        getattr(self, f"hear_{kind}")(known, body)

    def hear_offer_reply(self, known: Reported, reply: sessions_pb2.OfferReply) -> None:
        known.is_accepted = known.is_accepted or reply.accepted
        assert not reply.started or self.merges, "this server would lose the start"
        known.is_started = known.is_started or reply.started

    def hear_job_started(self, known: Reported, started: sessions_pb2.JobStarted) -> None:
        assert known.is_accepted or known.is_forlorn
        known.is_started = True

    def hear_output_chunk(self, known: Reported, chunk: sessions_pb2.OutputChunk) -> None:
        assert known.is_started
        assert 1 <= chunk.seq <= max(known.chunks, default=0) + 1, "a gap"
        assert known.chunks.setdefault(chunk.seq, chunk.data) == chunk.data, "a number was used twice"

    def hear_job_finished(self, known: Reported, finished: sessions_pb2.JobFinished) -> None:
        assert known.is_accepted or known.is_forlorn
        if finished.last_output:
            assert self.merges, "this server would lose the last output"
            chunk = sessions_pb2.OutputChunk(seq=finished.last_output_seq, data=finished.last_output)
            self.hear_output_chunk(known, chunk)
            with_output, finished = finished, sessions_pb2.JobFinished()
            finished.CopyFrom(with_output)
            finished.ClearField("last_output")
        assert finished.last_output_seq <= max([known.stored, *known.chunks])
        assert finished.run_time.ToTimedelta().total_seconds() <= 60
        if known.result is not None and not known.disk_failed:
            assert finished == known.result, "a result changed"
        known.result = finished

    # --- the stream ---

    @precondition(lambda self: self.session.link is LinkState.OFFLINE)
    @rule()
    def connect(self) -> None:
        self.happen(ev.Connected())

    @precondition(lambda self: self.session.link is LinkState.GREETING)
    @rule(credit=st.integers(1, 3), merges=st.booleans())
    def welcome(self, credit: int, merges: bool = True) -> None:
        self.merges = merges
        greeting = sessions_pb2.Welcome(
            session_epoch=1,
            heartbeat_interval=seconds(10),
            lost_after=seconds(LOST_AFTER),
            chunk_credit=credit,
            takes_merged_messages=merges,
        )
        self.happen(ev.Received(sessions_pb2.ServerMessage(welcome=greeting)))

    @rule()
    def cut(self) -> None:
        self.happen(ev.Disconnected())

    @precondition(lambda self: self.sent_by_server)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Delivers an earlier message of the server again, or late."""
        kind = data.draw(st.sampled_from(self.sent_by_server))
        self.happen(ev.Received(sessions_pb2.ServerMessage(**kind)))

    # --- the server ---

    @precondition(lambda self: self.session.link is LinkState.OPEN)
    @rule(name=NAMES)
    def offer_job(self, name: str) -> None:
        self.epochs[name] += 1
        held = lease(name, self.epochs[name])
        for known in self.known.values():
            # A newer lease is offered only after the older lease has ended.
            if known.lease.job_id == name and known.is_accepted:
                known.is_discarded = True
        self.known[key(held)] = Reported(held)
        self.say(job_offer=offer(name, self.epochs[name], limit=60))

    @precondition(lambda self: self.session.link is LinkState.OPEN and self.known)
    @rule(data=st.data(), action=st.integers(1, 3))
    def direct(self, data: st.DataObject, action: Any) -> None:
        known = self.pick(data)
        known.stored = data.draw(st.integers(known.stored, max(known.chunks, default=0)))
        if action == sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD:
            known.is_discarded = True
        self.say(
            lease_directive=sessions_pb2.LeaseDirective(
                lease=known.lease, action=action, output_through_seq=known.stored
            )
        )

    @precondition(lambda self: self.session.link is LinkState.OPEN and self.known)
    @rule(data=st.data())
    def acknowledge_output(self, data: st.DataObject) -> None:
        known = self.pick(data)
        known.stored = data.draw(st.integers(known.stored, max(known.chunks, default=0)))
        self.say(output_ack=sessions_pb2.OutputAck(lease=known.lease, output_through_seq=known.stored))

    @precondition(lambda self: self.session.link is LinkState.OPEN and self.known)
    @rule(data=st.data())
    def acknowledge_result(self, data: st.DataObject) -> None:
        known = self.pick(data)
        if known.result is not None:
            known.is_acknowledged = True
            self.say(
                result_ack=sessions_pb2.ResultAck(
                    lease=known.lease, disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED
                )
            )

    @precondition(lambda self: self.session.link is LinkState.OPEN and self.known)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.say(cancel_run=sessions_pb2.CancelRun(lease=self.pick(data).lease))

    def pick(self, data: st.DataObject) -> Reported:
        return self.known[data.draw(st.sampled_from(sorted(self.known)))]

    # --- the machine ---

    @rule(duration=st.sampled_from([0.1, 1.0, 11.0, 40.0, 71.0]))
    def wait(self, duration: float) -> None:
        self.now += duration
        self.happen(ev.Tick())

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), step=st.sampled_from(["write", "write", "gather", "finish"]))
    def work(self, data: st.DataObject, step: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.at_work)))
        held = self.known[name].lease
        if not self.at_work[name]:
            self.at_work[name] = True
            self.happen(ev.AttemptStarted(held))
        elif step == "write":
            text = f"{len(self.sent_by_server)}-{self.now};".encode()
            self.happen(ev.AttemptWrote(held, Channel.OUTPUT, self.rest.pop(name, b"") + text))
        elif step == "gather":
            self.rest[name] = self.rest.get(name, b"") + b"rest;"
        else:
            del self.at_work[name]
            self.happen(ev.AttemptFinished(held, succeeded(jobs_pb2.Usage())))

    @precondition(lambda self: self.waiting)
    @rule()
    def sync(self) -> None:
        """The disk completes the waiting writes."""
        batch, self.waiting = self.waiting, []
        errors = self.write(batch)
        for entry, error in zip(batch, errors, strict=True):
            known = self.known[key(entry.lease)]
            if isinstance(entry, fx.Forget):
                continue
            if error is None:
                self.happen(ev.Persisted(entry.number))
            else:
                known.disk_failed = True
                self.happen(ev.NotPersisted(entry.number, "full"))

    def write(self, batch: list[fx.Persist | fx.Forget]) -> list[OSError | None]:
        """Writes, and notes which leases the disk has durably removed: those before a sync."""
        syncs = self.disk.syncs
        errors = self.journal.write(batch)
        for entry, error in zip(batch, errors, strict=True):
            if isinstance(entry, fx.Forget) and error is None:
                self.forgotten.append(self.known[key(entry.lease)])
        if self.disk.syncs > syncs:
            for known in self.forgotten:
                known.is_forgotten = True
            self.forgotten = []
        return errors

    @rule()
    def fill_or_empty_the_disk(self) -> None:
        self.disk.is_full = not self.disk.is_full

    @rule(is_warm=st.booleans())
    def load_or_unload_the_model(self, is_warm: bool) -> None:
        """The next process finds the model loaded, or not."""
        self.is_warm = is_warm

    @rule(seed=st.integers(0, 100))
    def crash(self, seed: int) -> None:
        """The power fails, whatever is being written."""
        if seed % 2 and self.waiting:
            self.write(self.waiting)
        self.disk.crash(Random(seed))
        found = {key(history.offer.lease) for history in on_disk(self.disk)}
        for name, known in self.known.items():
            known.is_forlorn = known.is_forlorn or not known.is_accepted
            # Leases that the crash kept from being forgotten are reported again, and discarded again. What
            # was not synced may be on the disk all the same.
            known.is_discarded = known.is_discarded and (known.is_forgotten or name not in found)
        self.rest.clear()
        self.sent_by_server.clear()  # they were on a stream that has ended
        self.start_process()

    def teardown(self) -> None:
        """In the end, on a working stream, every accepted lease gets a result."""
        self.disk.is_full = False
        for _ in range(60):
            self.now += 1.0
            if self.session.link is LinkState.OFFLINE:
                self.connect()
            if self.session.link is LinkState.GREETING:
                self.welcome(3)
            for name in list(self.at_work):
                self.happen(ev.AttemptFinished(self.known[name].lease, DONE))
            self.at_work.clear()
            while self.waiting:
                self.sync()
            for known in list(self.known.values()):
                known.stored = max([known.stored, *known.chunks])
                if known.is_accepted and not known.is_discarded and not known.is_acknowledged:
                    self.say(
                        lease_directive=sessions_pb2.LeaseDirective(
                            lease=known.lease,
                            action=sessions_pb2.LEASE_ACTION_KEEP,
                            output_through_seq=known.stored,
                        )
                    )
        for known in self.known.values():
            if known.is_accepted and not known.is_discarded:
                assert known.result is not None, f"nothing came of {known.lease.job_id}"


DONE = succeeded(jobs_pb2.Usage())


def key(held: sessions_pb2.Lease) -> str:
    return f"{held.job_id}/{held.lease_epoch}"


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
