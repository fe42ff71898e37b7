"""The simulated market: one server, a database that outlives it, machines, streams and a virtual clock.

Messages of one stream arrive in order, as gRPC guarantees; there is no order between two streams. Messages
may still arrive from a stream that the daemon has left.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from typing import Any

from dcp.v1 import sessions_pb2

from scripts.simulation.checks import Job, Snapshot, check_rows, check_runs
from scripts.simulation.inline import InlineDatabase, ServerDied, Task, finish
from scripts.simulation.machines import MODEL, Attempt, Machine, Plan, Taken, Wire
from scripts.simulation.violations import ViolationError
from server.config import Config
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobRequest, JobType
from server.domain.leases import MAX_OUTPUT_BYTES
from server.domain.limits import OFF
from server.domain.messages import DaemonMessage
from server.domain.money import micros
from server.domain.proof import Proof
from server.loops import server_loops
from server.rpc.events import body_text
from server.rpc.sessions import HELLO_TIMEOUT_SECONDS, from_wire, to_wire
from server.services.keys import ADMIN, Caller
from server.store import sessions
from server.wiring import Services

EPOCH_MS = 1_800_000_000_000
# When the transport's keepalive gives up a silent peer: 30 s until the ping, and 10 s for the answer.
KEEPALIVE_MS = 40_000
OPERATOR = Caller(ADMIN)
PROVIDERS = 3
RENTERS = 2
# How often a server or a daemon that starts has an older version.
OLD_PEERS = 0.2
# Why the server may end the stream of a daemon that follows the protocol.
STREAM_ENDS = {Reason.STORE_UNAVAILABLE, Reason.SESSION_SUPERSEDED, Reason.OVERLOADED}


class World:
    """The complete state of one schedule."""

    def __init__(self, database: InlineDatabase, seed: str) -> None:
        self.seed = seed
        self.now_ms = EPOCH_MS
        self.database = database
        self.rng = Random(f"{seed}/disks")
        setup = Random(f"{seed}/setup")
        self.output_limit = setup.choice([1_500, 100_000])
        self.requests = [_request(setup, number) for number in range(setup.randint(1, 8))]
        self.balances = [setup.choice([300, 1_000, 5_000]) for _ in range(RENTERS)]
        self.versions = Random(f"{seed}/versions")
        slots = self.versions.choice([1, 2, 4])
        self._is_server_old = False
        """The server's process has an older version, which does not know merged messages."""
        # Two machines for each provider; the second is for a daemon that is started by mistake.
        count = 2 * setup.randint(1, PROVIDERS)
        self.machines = [Machine(self, n, n // 2 + 1, slots) for n in range(count)]
        self.wires: list[Wire] = []
        self.tasks: list[Task] = []
        self.submitted: dict[int, str] = {}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.final: dict[str, Job] = {}
        self.reported: set[tuple[str, int]] = set()
        """The attempts whose run time, as the daemon reported it, the server has stored."""
        self.renewed_ms: dict[int, int] = {}
        """When the server last received a heartbeat or a Hello of each provider."""
        self.faults: Counter[str] = Counter()
        self.steps = 0
        self.services: Services | None = None
        self.server_frozen_until_ms: int | None = None
        self.snapshot = Snapshot(database.raw)
        self._digest = hashlib.blake2b(digest_size=16)
        self._changes = -1
        self.log: Callable[[str], None] | None = None

    # --- the clock of both programs ---

    def now(self) -> float:
        """Seconds since 1970."""
        return self.now_ms / 1000

    # --- what happened ---

    @property
    def digest(self) -> str:
        """The digest of all actions and states so far."""
        return self._digest.hexdigest()

    def begin(self) -> None:
        """Starts the server, fills the wallets, and starts the first daemon of each provider."""
        self.start_server()
        assert self.services is not None
        for renter_id, amount in enumerate(self.balances, 1):
            finish(self.services.renters.top_up(renter_id, micros(amount)))
        for machine in self.machines[::2]:
            machine.start()
        self._check()

    def record(self, action: tuple[str | int, ...], began_ms: int) -> None:
        """Adds an action that took place to the digest and the log, and checks the invariants."""
        self.steps += 1
        self._digest.update(repr(action).encode())
        if self.log is not None:
            self.log(f"{(began_ms - EPOCH_MS) / 1000:9.3f} s  {' '.join(map(str, action))}")
        self._check()

    def fault(self, kind: str) -> bool:
        """Counts a fault and returns True, as the action of a fault does."""
        self.faults[kind] += 1
        return True

    def close(self) -> None:
        """Ends all coroutines of the server."""
        for task in self.tasks:
            task.kill()

    def _check(self) -> None:
        if self.database.raw.total_changes != self._changes:
            self._changes = self.database.raw.total_changes
            self.snapshot = Snapshot(self.database.raw)
            self._digest.update(self.snapshot.key().encode())
            check_rows(self.snapshot, self)
        check_runs(self)

    # --- for the checks ---

    def was_accepted(self, attempt: Attempt) -> bool:
        """Whether the server has recorded that the daemon accepted this lease."""
        lease = attempt.lease
        return any(
            row.job_id == lease.job_id and row.lease_epoch == lease.lease_epoch and row.accepted_ms
            for row in self.snapshot.leases
        )

    def output(self, job_id: str) -> bytes:
        """The job's output, as its renter reads it."""
        assert self.services is not None
        return finish(self.services.jobs.output(OPERATOR, job_id)).data

    def prove(self) -> Proof:
        """The operator's proof of the ledger."""
        assert self.services is not None
        return finish(self.services.proofs.prove())

    # --- the server ---

    def start_server(self) -> None:
        """Starts a server process, whose only knowledge is the database."""
        self.database.commit(sessions.end_all)
        self._is_server_old = self.versions.random() < OLD_PEERS
        if self._is_server_old:
            self.fault("server of an older version started")
        self.services = Services(self.database, self, config(self.output_limit), body_text)
        self.loops = server_loops(self.services)

    def spawn(
        self, work: Coroutine[Any, Any, Any], stops: int, on_end: Callable[[Exception | None], None]
    ) -> Task:
        """Runs a coroutine of the server to its end, or past `stops` stops; -1 means to its end."""
        task = Task(work, on_end)
        self.tasks.append(task)
        self.go_on(task, stops)
        return task

    def go_on(self, task: Task, stops: int) -> None:
        """Continues a coroutine of the server, as `spawn` does."""
        try:
            if task.go_on(stops if stops >= 0 else None) and task in self.tasks:
                self.tasks.remove(task)
        except ServerDied as death:
            self._killed(death)
        self._write_outboxes()

    def _killed(self, death: ServerDied) -> None:
        self.fault(f"server killed {death.side.value} a commit")
        self.kill_server()

    def kill_server(self) -> None:
        """Ends the server's process; its memory is lost."""
        self.database.dies = None
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.kill()
        self.services = None
        self.server_frozen_until_ms = None
        for wire in list(self.wires):
            wire.forget_session()
            self._close_down(wire)

    def _write_outboxes(self) -> None:
        for wire in list(self.wires):
            session = wire.session
            while session is not None and wire.is_open_down and not session.outbox.empty():
                message = session.outbox.get_nowait()
                if message is None:
                    self.end_by_server(wire)
                else:
                    wire.put_down(self._sent(to_wire(message)))

    def _sent(self, message: sessions_pb2.ServerMessage) -> sessions_pb2.ServerMessage:
        if self._is_server_old and message.HasField("welcome"):
            message.welcome.ClearField("takes_merged_messages")
        return message

    def _received(self, message: sessions_pb2.DaemonMessage) -> sessions_pb2.DaemonMessage:
        """A message as the server reads it: an older one does not know all fields."""
        if self._is_server_old:
            known = sessions_pb2.DaemonMessage()
            known.CopyFrom(message)
            if known.HasField("offer_reply"):
                known.offer_reply.ClearField("started")
            if known.HasField("job_finished"):
                known.job_finished.ClearField("last_output")
            return known
        if message.offer_reply.started:
            self.faults["start merged with its acceptance"] += 1
        if message.job_finished.last_output:
            self.faults["output merged with its result"] += 1
        return message

    def end_by_server(self, wire: Wire, stops: int = -1) -> None:
        """Ends the server's side of a stream, for any cause."""
        if not wire.is_open_down:
            return
        session, tasks = wire.session, wire.tasks
        wire.forget_session()
        self._close_down(wire)
        if session is not None:
            assert self.services is not None
            self.services.streams.forget(session)
        for task in tasks:
            if task not in self.tasks:
                continue
            self.tasks.remove(task)
            try:
                task.abandon()
            except ServerDied as death:
                self._killed(death)
                return
        if session is not None:
            self.spawn(session.end(), stops, partial(self.background_ended, "a session's end"))

    def background_ended(self, what: str, error: Exception | None) -> None:
        """Raises if work of the server failed, unless the database was down."""
        if error is None or (isinstance(error, DomainError) and error.reason is Reason.STORE_UNAVAILABLE):
            return
        raise ViolationError("no part of the programs fails", f"{what}: {error!r}") from error

    def _handled(self, wire: Wire, taken: Taken, error: Exception | None) -> None:
        assert taken.task is not None
        wire.tasks.remove(taken.task)
        if error is None:
            self.reported |= taken.reports
            if taken.job_id is not None:
                wire.lanes.done(taken.job_id)
                # The next message of the job stops before its commit, so that others can overtake it.
                self._start_lanes(wire, stops=0)
            return
        if not isinstance(error, DomainError) or not self._may_end(error):
            raise ViolationError("no part of the programs fails", repr(error)) from error
        self.end_by_server(wire)

    def _may_end(self, error: DomainError) -> bool:
        # A message that was delivered twice may be a Hello, which is allowed only once.
        return error.reason in STREAM_ENDS or self.faults["message doubled"] > 0

    @property
    def is_serving(self) -> bool:
        """Whether the server runs and is not frozen."""
        return self.services is not None and self.server_frozen_until_ms is None

    # --- the streams ---

    def open_wire(self, machine: Machine) -> Wire:
        """Opens a stream for a daemon; if there is no server, the stream ends at once."""
        machine.streams += 1
        hello_by_ms = self.now_ms + round(HELLO_TIMEOUT_SECONDS * 1000)
        wire = Wire(machine.number * 1_000 + machine.streams, machine, hello_by_ms)
        self.wires.append(wire)
        if self.services is None:
            self._close_down(wire)
        return wire

    def hang_up(self, wire: Wire) -> None:
        """The daemon leaves a stream: its messages may still arrive, and unread messages to it are lost."""
        if wire.machine.wire is wire:
            wire.machine.wire = None
        wire.put_up(None)
        wire.is_open_up = False
        wire.down.clear()
        self._sweep_wires()

    def _close_down(self, wire: Wire) -> None:
        wire.put_down(None)
        wire.is_open_down = False
        wire.up.clear()
        self._sweep_wires()

    def _sweep_wires(self) -> None:
        self.wires = [wire for wire in self.wires if wire.is_open_up or wire.is_open_down]

    def wire(self, number: int) -> Wire | None:
        """The stream with this number, while one of its sides is open."""
        return next((wire for wire in self.wires if wire.number == number), None)

    def is_greeting(self, provider_id: int) -> bool:
        """Whether the server is handling a message of a provider."""
        return any(wire.tasks and wire.machine.provider_id == provider_id for wire in self.wires)

    def can_take(self, wire: Wire) -> bool:
        """Whether the server can take the next message of this stream now.

        One about the session, or the end, waits until those before it were handled.
        """
        if not wire.up or not wire.is_open_down or not self.is_serving:
            return False
        message = wire.up[0]
        if message is None or _job_of(message) is None:
            return not wire.tasks
        return not wire.lanes.is_full and not wire.is_alone

    def is_shared(self, wire: Wire) -> bool:
        """Whether messages about different jobs wait in the stream, or are being handled."""
        waiting = [_job_of(message) for message in wire.up if message is not None]
        jobs = {job_id for job_id in waiting if job_id is not None} | wire.jobs
        return len(jobs) > 1

    def take(self, wire: Wire, message: sessions_pb2.DaemonMessage | None, stops: int) -> None:
        """The server handles a message, or the end, of a stream."""
        assert self.services is not None
        if message is None:
            self.end_by_server(wire, stops)
            return
        if wire.session is None:
            # The providers registered first, so their key ids equal their own ids.
            wire.session = self.services.streams.new(wire.machine.provider_id, wire.machine.provider_id)
        taken = Taken(self._received(message), _job_of(message))
        self._heard(wire, taken)
        if taken.job_id is None:
            self._start(wire, taken, stops)
        else:
            wire.lanes.put(taken.job_id, taken)
            self._start_lanes(wire, stops)

    def _start_lanes(self, wire: Wire, stops: int) -> None:
        lanes = wire.lanes
        for _, taken in lanes.start():
            if wire.tasks:
                self.faults["messages of a stream side by side"] += 1
            self._start(wire, taken, stops)
            if wire.lanes is not lanes:
                return  # the stream ended, or the server died

    def _start(self, wire: Wire, taken: Taken, stops: int) -> None:
        work = self._handle(wire, from_wire(taken.message))
        taken.task = task = Task(work, partial(self._handled, wire, taken))
        task.job_id = taken.job_id
        self.tasks.append(task)
        wire.tasks.append(task)
        self.go_on(task, stops)

    async def _handle(self, wire: Wire, message: DaemonMessage) -> None:
        assert wire.session is not None
        await wire.session.handle(message)

    def _heard(self, wire: Wire, taken: Taken) -> None:
        """Notes what the server receives, for the checks."""
        machine, message = wire.machine, taken.message
        match message.WhichOneof("kind"):
            case "hello":
                self.renewed_ms[machine.provider_id] = self.now_ms
                # A late Hello, by a stream that the daemon has left, does not list its newest runs.
                machine.is_misknown = machine.wire is not wire
                self._greeted(machine, message.hello.boot_id)
                ended = message.hello.unacknowledged_results
                taken.reports = {(lease.job_id, lease.lease_epoch) for lease in ended}
            case "heartbeat":
                self.renewed_ms[machine.provider_id] = self.now_ms
            case "job_finished":
                lease = message.job_finished.lease
                taken.reports = {(lease.job_id, lease.lease_epoch)}

    def _greeted(self, machine: Machine, boot_id: str) -> None:
        """A Hello supersedes all other processes of its provider, even if its own process has died."""
        for other in self.machines:
            if other.provider_id == machine.provider_id and other.boot_id != boot_id:
                other.is_rivalled = True

    def wake(self) -> None:
        """Ends the freezes whose time is over."""
        for machine in self.machines:
            if machine.frozen_until_ms is not None and machine.frozen_until_ms <= self.now_ms:
                machine.frozen_until_ms = None
        if self.server_frozen_until_ms is not None and self.server_frozen_until_ms <= self.now_ms:
            self.server_frozen_until_ms = None

    def time_out_streams(self) -> None:
        """Ends the streams whose peer is silent, or whose Hello is late."""
        for wire in list(self.wires):
            if wire.dead_since_ms is not None and self.now_ms - wire.dead_since_ms >= KEEPALIVE_MS:
                if self.is_serving:
                    self.end_by_server(wire)
            elif self.is_serving and wire.session is not None and self.now_ms >= wire.hello_by_ms:
                wire.session.expect_hello()
        self._write_outboxes()

    # --- the engines ---

    def attempt(self, offer: sessions_pb2.JobOffer) -> Attempt:
        """Begins a run of a daemon."""
        key = offer.lease.job_id, offer.lease.lease_epoch
        if key in self.attempts:
            raise ViolationError("one lease is run once", f"{key}")
        number = offer.params.prompt
        plan = Plan(Random(f"{self.seed}/{number}/{key[1]}"), offer.run_limit.ToMilliseconds())
        self.attempts[key] = Attempt(offer, plan, self.now_ms)
        return self.attempts[key]


def _job_of(message: sessions_pb2.DaemonMessage) -> str | None:
    body = getattr(message, message.WhichOneof("kind") or "", None)
    return body.lease.job_id if body is not None and "lease" in body.DESCRIPTOR.fields_by_name else None


def _request(rng: Random, number: int) -> JobRequest:
    duration_ms = rng.choice([10_000, 60_000, 180_000])
    return JobRequest(
        JobType.LLM_INFERENCE,
        duration_ms,
        provider_id=rng.choice([None, None, 1]),
        model=MODEL,
        spec={"params": {"model": MODEL, "prompt": str(number)}},
        priority=rng.randint(1, 3),
        max_cost_halala=rng.choice([None, None, 7, 60]),
        start_within_ms=rng.choice([20_000, 120_000, 600_000]),
        lost_after_ms=rng.choice([30_000, 60_000, 120_000, 300_000]),
        idempotency_key=f"request {number}",
    )


def config(output_limit: int = MAX_OUTPUT_BYTES) -> Config:
    """A server's settings: no rate limits, and renters may credit themselves."""
    return Config(
        "", "", None, True, None, "INFO", max_output_bytes=output_limit, limits=OFF, canary_percent=0
    )


def template(database: InlineDatabase) -> None:
    """Registers the accounts of providers and renters, which all schedules share."""
    services = Services(database, World(database, "template"), config(), body_text)
    for n in range(1, PROVIDERS + 1):
        email = f"p{n}@example.com"
        finish(
            services.registration.provider(
                name=f"p{n}", email=email, mailbox=email, gpu_model="", os="", phone=""
            )
        )
    for n in range(1, RENTERS + 1):
        email = f"r{n}@example.com"
        finish(
            services.registration.renter(name=f"r{n}", email=email, mailbox=email, organization="", phone="")
        )
