"""Providers' machines: the daemon's real session and journal, an engine that follows a plan, and a disk.

This module carries out the session's effects, as `daemon/app.py` does, but without tasks and threads: the
journal is written when the scheduler decides, and the end of the process may interrupt a write.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.journal.journal import Journal
from daemon.protocol import effects as fx
from daemon.protocol import events as ev
from daemon.protocol.events import LeaseKey, Result, failed, lease_key, succeeded
from daemon.protocol.records import Channel, History
from daemon.protocol.session import DaemonSession, Introduction
from scripts.simulation.inline import Task
from scripts.simulation.violations import ViolationError
from server.domain.lanes import Lanes
from server.services.sessions import Session
from tests.support.memory_disk import MemoryDisk

MODEL = "test/model"
# How often a daemon that starts has a loaded model, and how often an older version.
WARM_MODELS = 0.7
OLD_DAEMONS = 0.2
# How many jobs are chats to the daemon, whose runs no other process of it continues.
CHATS = 0.5
SEGMENT_BYTES = 2_000
"""Small, so that the journals of short runs have several segments and are made smaller."""


class ProcessDied(BaseException):
    """The daemon's process died during an operation of its disk."""


class Disk(MemoryDisk):
    """A disk that can end its process after a number of operations."""

    dies_in: int | None = None

    def append(self, name: str, data: bytes) -> None:
        self._step()
        super().append(name, data)

    def sync(self, name: str) -> None:
        self._step()
        super().sync(name)

    def sync_folder(self) -> None:
        self._step()
        super().sync_folder()

    def truncate(self, name: str, size: int) -> None:
        self._step()
        super().truncate(name, size)

    def replace(self, name: str, data: bytes) -> None:
        if self.dies_in == 0:
            # What a kill leaves before the new content has its name.
            super().append(name + ".new", data[: len(data) // 2])
        self._step()
        super().replace(name, data)

    def delete(self, name: str) -> None:
        self._step()
        super().delete(name)

    def _step(self) -> None:
        if self.dies_in is None:
            return
        self.dies_in -= 1
        if self.dies_in < 0:
            self.dies_in = None
            raise ProcessDied


@dataclass
class Taken:
    """A message that the server has taken from a stream."""

    message: sessions_pb2.DaemonMessage
    job_id: str | None
    reports: set[tuple[str, int]] = field(default_factory=set)
    """The attempts whose result or run time is in it."""
    task: Task | None = None
    """What handles it."""


@dataclass
class Wire:
    """One stream: two ordered queues of messages; None is the end. A dead stream carries nothing."""

    number: int
    machine: Machine
    hello_by_ms: int
    up: deque[sessions_pb2.DaemonMessage | None] = field(default_factory=deque)
    down: deque[sessions_pb2.ServerMessage | None] = field(default_factory=deque)
    session: Session | None = None
    tasks: list[Task] = field(default_factory=list)
    """The server's tasks that handle its messages."""
    lanes: Lanes[Taken] = field(default_factory=Lanes)
    is_open_up: bool = True
    """The daemon has not left it."""
    is_open_down: bool = True
    """The server has not ended it."""
    dead_since_ms: int | None = None

    @property
    def jobs(self) -> set[str]:
        """The jobs with a message that is being handled."""
        return {task.job_id for task in self.tasks if task.job_id is not None}

    @property
    def is_alone(self) -> bool:
        """Whether a message about its session is being handled."""
        return any(task.job_id is None for task in self.tasks)

    def forget_session(self) -> None:
        """The server's side of it is over."""
        self.session, self.tasks, self.lanes = None, [], Lanes()

    def put_up(self, message: sessions_pb2.DaemonMessage | None) -> None:
        """Queues a message of the daemon."""
        if self.dead_since_ms is None and self.is_open_down:
            self.up.append(message)

    def put_down(self, message: sessions_pb2.ServerMessage | None) -> None:
        """Queues a message of the server."""
        if self.dead_since_ms is None and self.is_open_up:
            self.down.append(message)


class Plan:
    """What one attempt of a job does, chosen by the seed: when it starts, writes and ends, and how."""

    def __init__(self, rng: Random, limit_ms: int) -> None:
        self.prepare_ms = rng.choice([0, 50, 2_000])
        longest = min(limit_ms, rng.choice([500, 5_000, 30_000, 90_000]))
        if rng.random() < 0.1:
            longest = 2 * limit_ms
        size = rng.choice([40, 40, 400, 3_000])
        pieces = [
            bytes(rng.choices(b"abcdefgh \n", k=rng.randint(1, size))) for _ in range(rng.randint(0, 6))
        ]
        self.text = b"".join(pieces)
        self.run_ms = rng.randint(0, longest)
        if not pieces and not self.prepare_ms:
            self.run_ms = 0  # it ends in the moment in which it starts
        self.writes = []
        through = 0
        for piece, at in zip(pieces, sorted(rng.randint(0, self.run_ms) for _ in pieces), strict=True):
            through += len(piece)
            self.writes.append((at, through))
        self.succeeds = rng.random() < 0.9
        self.keeps_rest = rng.random() < 0.5
        """Whether its last piece waits for its end, as what a batch gathers."""


class Attempt:
    """One run in an engine. Times are in ms by the world's clock."""

    def __init__(self, offer: sessions_pb2.JobOffer, plan: Plan, now_ms: int) -> None:
        self.lease = offer.lease
        self.plan = plan
        self.begun_ms = now_ms
        self.started_ms: int | None = None
        self.ended_ms: int | None = None
        self.written = 0
        self.is_adopted = False

    @property
    def is_running(self) -> bool:
        """Whether it has started and not ended."""
        return self.started_ms is not None and self.ended_ms is None

    def due_ms(self) -> int:
        """When its next event is due: its start, its next write or its end."""
        if self.started_ms is None:
            return self.begun_ms + self.plan.prepare_ms
        at = next((at for at, through in self.plan.writes if through > self.written), self.plan.run_ms)
        return self.started_ms + (self.plan.run_ms if self.is_at_rest else at)

    @property
    def is_at_rest(self) -> bool:
        """Whether the last piece is all that it has yet to write, and waits for its end."""
        left = [through for _, through in self.plan.writes if through > self.written]
        return self.plan.keeps_rest and len(left) == 1

    def take_rest(self, now_ms: int) -> bytes:
        """The last piece, if it waits for the end of the run and was written by now."""
        if (
            self.started_ms is None
            or not self.is_at_rest
            or self.plan.writes[-1][0] > now_ms - self.started_ms
        ):
            return b""
        return self.next_piece()

    def next_piece(self) -> bytes:
        """The next piece of its output; empty at its end."""
        through = next((t for _, t in self.plan.writes if t > self.written), self.written)
        piece, self.written = self.plan.text[self.written : through], through
        return piece

    def run_ms(self, now_ms: int) -> int:
        """How long it has actually run."""
        if self.started_ms is None:
            return 0
        return (now_ms if self.ended_ms is None else self.ended_ms) - self.started_ms


@dataclass
class Reported:
    """What a daemon has reported about a lease, and must still know after a restart."""

    started: bool = False
    finished: bool = False
    through: int = 0


class Surroundings(Protocol):
    """What a machine uses of the world."""

    seed: str
    rng: Random
    versions: Random
    now_ms: int

    def is_greeting(self, provider_id: int) -> bool:
        """Whether the server is handling a message of a provider."""
        ...

    def open_wire(self, machine: Machine) -> Wire:
        """Opens a stream to the server."""
        ...

    def hang_up(self, wire: Wire) -> None:
        """Leaves a stream."""
        ...

    def attempt(self, offer: sessions_pb2.JobOffer) -> Attempt:
        """Begins a run."""
        ...


class Machine:
    """A provider's machine: its disk remains, while daemons start and end on it."""

    def __init__(self, world: Surroundings, number: int, provider_id: int, slots: int) -> None:
        self.slots = slots
        self.number = number
        self.provider_id = provider_id
        self.disk = Disk()
        self.session: DaemonSession | None = None
        self.wire: Wire | None = None
        self.attempts: dict[LeaseKey, Attempt] = {}
        self.survivors: dict[LeaseKey, Attempt] = {}
        self.waiting: list[fx.Persist | fx.Forget] = []
        self.written: list[tuple[fx.Persist, OSError | None]] = []
        self.connect_at_ms = 0
        self.started_ms = -1
        self.frozen_until_ms: int | None = None
        self.is_late = False
        """Time has passed since its process last looked at its clock."""
        self.is_rivalled = False
        """Another daemon with the same key has sent Hello; these runs end when this daemon is superseded."""
        self.streams = 0
        self.is_misknown = False
        """The last Hello that the server received came late, by a stream that the daemon has left."""
        self._world = world
        self._reported: dict[LeaseKey, Reported] = {}
        self._unkept: set[LeaseKey] = set()
        self._starts = 0
        self._is_old = False
        """Its process has an older version, which sends no merged messages."""
        self._ending: Attempt | None = None
        self._journal = Journal(self.disk, SEGMENT_BYTES)

    @property
    def is_awake(self) -> bool:
        """Whether its process lives and is not frozen."""
        return self.session is not None and self.frozen_until_ms is None

    @property
    def boot_id(self) -> str:
        """The boot id of its current process, or of the last one."""
        return f"{self.number}/{self._starts}"

    # --- the process ---

    def start(self) -> None:
        """Starts a process, which recovers the journal of an earlier one."""
        self._starts += 1
        self.started_ms = self._world.now_ms
        # The server may be handling the Hello of the other daemon.
        self.is_rivalled = self._world.is_greeting(self.provider_id)
        self.is_misknown = self.is_late = False
        self.frozen_until_ms = None
        self._is_old = self._world.versions.random() < OLD_DAEMONS
        is_warm = self._world.versions.random() < WARM_MODELS
        model = sessions_pb2.ServedModel(name=MODEL, warm=is_warm)
        self.session = DaemonSession(
            Introduction(self.boot_id, "1"),
            Random(f"{self._world.seed}/{self.boot_id}"),
            ev.Capacity(self.slots, [model], [jobs_pb2.JOB_TYPE_LLM_INFERENCE]),
            rest=self._take_rest,
        )
        self._journal = Journal(self.disk, SEGMENT_BYTES)
        self.connect_at_ms = self._world.now_ms
        try:
            self._recover()
        except ProcessDied:
            self.die(lose_unsynced=False)

    def die(self, *, lose_unsynced: bool, survive: bool = False) -> None:
        """Ends the process at once. With `survive`, its runs continue, as containers do."""
        if lose_unsynced:
            self.disk.crash(self._world.rng)
        for key, attempt in self.attempts.items():
            if survive and not self._is_chat(attempt.lease.job_id):
                self.survivors[key] = attempt
            else:
                attempt.ended_ms = self._world.now_ms
        self.session = None
        self.attempts = {}
        self.waiting, self.written = [], []
        self.disk.dies_in = None
        if self.wire is not None:
            self._world.hang_up(self.wire)

    def _recover(self) -> None:
        assert self.session is not None
        histories = self._journal.recover()
        self._check_memory({lease_key(history.offer.lease): history for history in histories})
        if self.disk.fails_to_sync:
            # What an earlier process wrote and did not sync is reported without being durable.
            for history in histories:
                self._cannot_keep(lease_key(history.offer.lease))
        for history in histories:
            key = lease_key(history.offer.lease)
            attempt = self.survivors.pop(key, None)
            adopted = attempt is not None and history.finished is None and history.started
            if attempt is not None and adopted:
                attempt.is_adopted = True
                attempt.written = history.written_bytes
                self.attempts[key] = attempt
            elif attempt is not None:
                attempt.ended_ms = self._world.now_ms
            self._handle(ev.Recovered(history, adopted))
        for orphan in self.survivors.values():
            orphan.ended_ms = self._world.now_ms
        self.survivors = {}
        self.write_journal()
        self.tell_written()

    def _check_memory(self, histories: dict[LeaseKey, History]) -> None:
        """A restarted daemon must know everything that it reported about its leases."""
        for key, reported in self._reported.items():
            history = histories.get(key)
            through = reported.through
            if history is not None and self._is_chat(key[0]):
                # Its text is saved with its result: one that had not ended is given back, without its text.
                through = history.finished.last_output_seq if history.finished is not None else 0
            knows = history is not None and (
                history.channels[Channel.OUTPUT].last >= through
                and (history.started or not reported.started)
                and (history.finished is not None or not reported.finished)
            )
            if not knows:
                detail = f"{self.number}: {key[:2]} {reported}"
                raise ViolationError("a daemon remembers what it told", detail)

    # --- events ---

    @property
    def now(self) -> float:
        """Its monotonic clock, in seconds."""
        return self._world.now_ms / 1000

    def tick(self) -> None:
        """The process handles a tick of its clock."""
        if self.session is not None and self.is_awake:
            self._handle(ev.Tick())

    def connect(self) -> None:
        """The process opens a stream."""
        if self.session is not None:
            self.wire = self._world.open_wire(self)
            self._handle(ev.Connected())

    def receive(self, message: sessions_pb2.ServerMessage | None) -> None:
        """The process reads a message, or the end of the stream."""
        if self.session is None:
            return
        if message is not None:
            if self._is_old and message.HasField("welcome"):
                message.welcome.ClearField("takes_merged_messages")
            if message.HasField("job_offer") and self._is_chat(message.job_offer.lease.job_id):
                message.job_offer.chat_request = b"{}"
            self._handle(ev.Received(message))
            return
        if self.wire is not None:
            self._world.hang_up(self.wire)
        self._handle(ev.Disconnected())

    def drain(self) -> None:
        """The owner asks the daemon to drain."""
        if self.session is not None:
            self._handle(ev.DrainRequested())

    def write_journal(self) -> None:
        """Carries out the waiting writes, as the journal's thread does. Raises ProcessDied."""
        batch, self.waiting = self.waiting, []
        errors = self._journal.write(batch)
        self.written += [
            (entry, error)
            for entry, error in zip(batch, errors, strict=True)
            if isinstance(entry, fx.Persist)
        ]

    def tell_written(self) -> None:
        """Reports the results of the journal's thread to the session."""
        done, self.written = self.written, []
        for entry, error in done:
            if self.session is None:
                return
            if error is not None:
                # The daemon releases a lease whose record was not written, and reports that without a record.
                self._cannot_keep(lease_key(entry.lease))
            if error is None:
                self._handle(ev.Persisted(entry.number))
            else:
                self._handle(ev.NotPersisted(entry.number, str(error)))

    def _is_chat(self, job_id: str) -> bool:
        return Random(f"{self._world.seed}/{job_id}").random() < CHATS

    def _cannot_keep(self, key: LeaseKey) -> None:
        """The disk failed for this lease, so the daemon may forget what it reported about it."""
        self._reported.pop(key, None)
        self._unkept.add(key)

    def next_event(self) -> Attempt | None:
        """The attempt with the earliest due event; None if no event is due."""
        due = [a for a in self.attempts.values() if a.due_ms() <= self._world.now_ms]
        return min(due, key=Attempt.due_ms) if due else None

    def engine_step(self) -> None:
        """An engine does the next step of one attempt: it starts, writes or ends."""
        attempt = self.next_event()
        if attempt is None or self.session is None:
            return
        if attempt.started_ms is None:
            attempt.started_ms = self._world.now_ms
            if attempt.plan.run_ms == 0 and not attempt.plan.text:
                self._finish(attempt, [ev.AttemptStarted(attempt.lease)])
            else:
                self._handle(ev.AttemptStarted(attempt.lease))
        elif attempt.written < len(attempt.plan.text) and not attempt.is_at_rest:
            if self.session.has_room(attempt.lease):
                self._handle(ev.AttemptWrote(attempt.lease, Channel.OUTPUT, attempt.next_piece()))
        else:
            self._finish(attempt)

    def _finish(self, attempt: Attempt, before: Sequence[ev.Event] = ()) -> None:
        del self.attempts[lease_key(attempt.lease)]
        attempt.ended_ms = self._world.now_ms
        self._ending = attempt
        self._handle(ev.AttemptFinished(attempt.lease, self._result(attempt)), before)
        self._ending = None

    def _take_rest(self, lease: sessions_pb2.Lease) -> list[tuple[Channel, bytes]]:
        key = lease_key(lease)
        is_ending = self._ending is not None and lease_key(self._ending.lease) == key
        attempt = self._ending if is_ending else self.attempts.get(key)
        return [(Channel.OUTPUT, attempt.take_rest(self._world.now_ms))] if attempt is not None else []

    def _result(self, attempt: Attempt) -> Result:
        if attempt.plan.succeeds:
            return succeeded(jobs_pb2.Usage(completion_tokens=len(attempt.plan.text)))
        return failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "the simulated engine broke down")

    # --- the effects ---

    def _handle(self, event: ev.Event, before: Sequence[ev.Event] = ()) -> None:
        if self.session is not None:
            self.apply(self.session.handle(event, self.now, before))

    def apply(self, effects: list[fx.Effect]) -> None:
        """Carries out the effects of the session."""
        self.is_late = False
        for effect in effects:
            self._do(effect)

    def _do(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(message):
                self._note(message)
                if self.wire is not None:
                    self.wire.put_up(message)
            case fx.StartAttempt(offer):
                self._begin(offer)
            case fx.StopAttempt(lease):
                if attempt := self.attempts.pop(lease_key(lease), None):
                    attempt.ended_ms = self._world.now_ms
            case fx.Persist() | fx.Forget():
                if isinstance(effect, fx.Forget):
                    self._reported.pop(lease_key(effect.lease), None)
                self.waiting.append(effect)
            case fx.ReconnectAfter(seconds):
                self.connect_at_ms = self._world.now_ms + round(seconds * 1000)
                if self.wire is not None:
                    self._world.hang_up(self.wire)
            case fx.EndSession(reason):
                if reason is fx.EndReason.SUPERSEDED and not self.is_rivalled:
                    raise ViolationError("no daemon is superseded by itself", f"machine {self.number}")
                self._end()

    def _note(self, message: sessions_pb2.DaemonMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind not in ("offer_reply", "job_started", "output_chunk", "job_finished"):
            return
        body = getattr(message, kind)
        key = lease_key(body.lease)
        if key in self._unkept or (kind == "offer_reply" and not body.accepted):
            return
        reported = self._reported.setdefault(key, Reported())
        reported.started |= kind == "job_started" or (kind == "offer_reply" and body.started)
        reported.finished |= kind == "job_finished"
        if kind == "output_chunk":
            reported.through = max(reported.through, body.seq)
        elif kind == "job_finished" and body.last_output:
            reported.through = max(reported.through, body.last_output_seq)

    def _begin(self, offer: sessions_pb2.JobOffer) -> None:
        attempt = self._world.attempt(offer)
        self.attempts[lease_key(offer.lease)] = attempt

    def _end(self) -> None:
        with contextlib.suppress(ProcessDied):
            self.write_journal()
        self.die(lose_unsynced=False)
