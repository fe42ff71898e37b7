"""The simulated market: one server, a database that outlives it, machines, streams and a virtual clock.

An action is a name and numbers; `World.act` carries it out, or returns False if it cannot happen now. The
same seed and actions always give the same states, and leaving out one action does not change the meaning of
the others.

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

from scripts.simulation.checks import Job, Snapshot, check_end, check_rows, check_runs
from scripts.simulation.inline import InlineDatabase, ServerDied, Side, Task, finish
from scripts.simulation.machines import MODEL, Attempt, Machine, Plan, ProcessDied, Wire
from scripts.simulation.violations import ViolationError
from server.config import Config
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobRequest, JobType
from server.domain.leases import MAX_OUTPUT_BYTES
from server.domain.ledger import Proof
from server.domain.limits import OFF
from server.domain.messages import DaemonMessage
from server.loops import server_loops
from server.rpc.events import body_text
from server.rpc.sessions import HELLO_TIMEOUT_SECONDS, from_wire, to_wire
from server.services.keys import ADMIN, Caller
from server.store import sessions
from server.wiring import Services

Action = tuple[str | int, ...]

EPOCH_MS = 1_800_000_000_000
TICK_MS = 2_000
# When the transport's keepalive gives up a silent peer: 30 s until the ping, and 10 s for the answer.
KEEPALIVE_MS = 40_000
OPERATOR = Caller(ADMIN)
PROVIDERS = 3
RENTERS = 2
# The errors that a renter may get; any other error is a fault of the server.
REFUSALS = {
    Reason.INSUFFICIENT_BALANCE,
    Reason.PROVIDER_UNAVAILABLE,
    Reason.MODEL_NOT_SERVED,
    Reason.JOB_TYPE_NOT_SERVED,
    Reason.JOB_ALREADY_FINAL,
    Reason.STORE_UNAVAILABLE,
}
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
        self.requests = [_request(setup, number) for number in range(setup.randint(1, 5))]
        self.balances = [setup.choice([300, 1_000, 5_000]) for _ in range(RENTERS)]
        # Two machines for each provider; the second is for a daemon that is started by mistake.
        self.machines = [Machine(self, n, n // 2 + 1) for n in range(2 * setup.randint(1, PROVIDERS))]
        self.wires: list[Wire] = []
        self.tasks: list[Task] = []
        self.submitted: dict[int, str] = {}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.final: dict[str, Job] = {}
        self.reported: set[tuple[str, int]] = set()
        """The attempts whose result the server has received."""
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
            finish(self.services.renters.top_up(renter_id, amount))
        for machine in self.machines[::2]:
            machine.start()
        self._check()

    def act(self, action: Action) -> bool:
        """Carries out one action and checks the invariants; False if it cannot happen now."""
        name, *rest = action
        before = self.now_ms
        try:
            if not _ACTIONS[str(name)](self, *rest):
                return False
        except ViolationError:
            raise
        except Exception as error:
            raise ViolationError("no part of the programs fails", repr(error)) from error
        self.steps += 1
        self._digest.update(repr(action).encode())
        if self.log is not None:
            self.log(f"{(before - EPOCH_MS) / 1000:9.3f} s  {' '.join(map(str, action))}")
        self._check()
        return True

    def fault(self, kind: str) -> bool:
        """Counts a fault and returns True, as the action of a fault does."""
        self.faults[kind] += 1
        return True

    def end(self) -> None:
        """Ends all faults, lets every job end, and checks the result."""
        self._mend()
        for _ in range(1_000):
            self._calm()
            if self._is_over():
                break
            busy = any(machine.attempts for machine in self.machines)
            self.act(("advance", 3_000 if busy else 9_000))
            self.act(("sweep", -1))
        check_end(self.snapshot, self)

    def close(self) -> None:
        """Ends all coroutines of the server."""
        for task in self.tasks:
            task.kill()

    def _mend(self) -> None:
        self.database.is_down, self.database.dies = False, None
        self.server_frozen_until_ms = None
        if self.services is None:
            self.start_server()
        for wire in self.wires:
            if wire.dead_since_ms is not None:
                wire.dead_since_ms = self.now_ms - KEEPALIVE_MS
        for machine in self.machines:
            machine.disk.is_full, machine.disk.fails_to_sync, machine.disk.dies_in = False, False, None
            machine.frozen_until_ms = None
        for number in range(len(self.requests)):
            self.act(("submit", number, -1))
        self._revive()

    def _revive(self) -> None:
        """Starts a daemon for every provider that has none: the one that was started last."""
        for first in range(0, len(self.machines), 2):
            pair = self.machines[first : first + 2]
            if all(machine.session is None for machine in pair):
                newest = max(pair, key=lambda machine: machine.started_ms)
                self.act(("start", newest.number))

    def _calm(self) -> None:
        """Carries out actions until only the passing of time can change anything."""
        moved = True
        while moved:
            moved = False
            while self.tasks:
                moved |= self.act(("task", 0, -1))
            for machine in list(self.machines):
                moved |= self.act(("journal", machine.number))
                moved |= self.act(("engine", machine.number))
                moved |= self.act(("connect", machine.number))
            for wire in list(self.wires):
                moved |= self.act(("up", wire.number, -1))
                moved |= self.act(("down", wire.number))
        self._revive()

    def _is_over(self) -> bool:
        jobs = self.snapshot.jobs
        idle = all(
            machine.session is None or (not machine.attempts and not machine.disk.names())
            for machine in self.machines
        )
        return idle and all(job.job_id in self.final for job in jobs) and len(jobs) == len(self.submitted)

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
        return finish(self.services.dashboard.prove_ledger())

    # --- the server ---

    def start_server(self) -> None:
        """Starts a server process, whose only knowledge is the database."""
        self.database.commit(sessions.end_all)
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
        # What it received and did not store is lost; a daemon that comes back reports it again.
        self.reported.clear()
        for wire in list(self.wires):
            wire.session = wire.task = None
            self._close_down(wire)

    def _write_outboxes(self) -> None:
        for wire in list(self.wires):
            session = wire.session
            while session is not None and wire.is_open_down and not session.outbox.empty():
                message = session.outbox.get_nowait()
                if message is None:
                    self.end_by_server(wire)
                else:
                    wire.put_down(to_wire(message))

    def end_by_server(self, wire: Wire, stops: int = -1) -> None:
        """Ends the server's side of a stream, for any cause."""
        if not wire.is_open_down:
            return
        session, task = wire.session, wire.task
        wire.session = wire.task = None
        self._close_down(wire)
        if session is not None:
            assert self.services is not None
            self.services.sessions.forget(session)
        if task is not None and task in self.tasks:
            self.tasks.remove(task)
            try:
                task.abandon()
            except ServerDied as death:
                self._killed(death)
                return
        if session is not None:
            self.spawn(session.end(), stops, partial(self._background_ended, "a session's end"))

    def _background_ended(self, what: str, error: Exception | None) -> None:
        if error is None or (isinstance(error, DomainError) and error.reason is Reason.STORE_UNAVAILABLE):
            return
        raise ViolationError("no part of the programs fails", f"{what}: {error!r}") from error

    def _handled(self, wire: Wire, error: Exception | None) -> None:
        wire.task = None
        if error is None:
            return
        if not isinstance(error, DomainError) or not self._may_end(error):
            raise ViolationError("no part of the programs fails", repr(error)) from error
        self.end_by_server(wire)

    def _may_end(self, error: DomainError) -> bool:
        # A message that was delivered twice may be a Hello, which is allowed only once.
        return error.reason in STREAM_ENDS or self.faults["message doubled"] > 0

    def _answered(self, error: Exception | None) -> None:
        if error is not None and not (isinstance(error, DomainError) and error.reason in REFUSALS):
            raise ViolationError("no part of the programs fails", repr(error)) from error

    @property
    def _is_serving(self) -> bool:
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

    def _wire(self, number: int) -> Wire | None:
        return next((wire for wire in self.wires if wire.number == number), None)

    def is_greeting(self, provider_id: int) -> bool:
        """Whether the server is handling a message of a provider."""
        return any(wire.task is not None and wire.machine.provider_id == provider_id for wire in self.wires)

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

    # --- the actions ---

    def _advance(self, ms: int) -> bool:
        """Time passes, and every process that is awake notices it."""
        until = self.now_ms + ms
        while self.now_ms < until:
            self.now_ms = min(until, self.now_ms + TICK_MS)
            self._wake()
            self._time_out_streams()
            for machine in self.machines:
                machine.tick()
        return True

    def _wake(self) -> None:
        for machine in self.machines:
            if machine.frozen_until_ms is not None and machine.frozen_until_ms <= self.now_ms:
                machine.frozen_until_ms = None
        if self.server_frozen_until_ms is not None and self.server_frozen_until_ms <= self.now_ms:
            self.server_frozen_until_ms = None

    def _time_out_streams(self) -> None:
        for wire in list(self.wires):
            if wire.dead_since_ms is not None and self.now_ms - wire.dead_since_ms >= KEEPALIVE_MS:
                if self._is_serving:
                    self.end_by_server(wire)
            elif self._is_serving and wire.session is not None and self.now_ms >= wire.hello_by_ms:
                wire.session.expect_hello()
        self._write_outboxes()

    def _jump(self, ms: int) -> bool:
        """Time passes while the whole world is stopped, so every process notices it late."""
        self.now_ms += ms
        for machine in self.machines:
            machine.is_late = True
        return self.fault("clock jumped")

    def _up(self, number: int, stops: int) -> bool:
        wire = self._wire(number)
        if wire is None or not self._can_take(wire):
            return False
        self._take(wire, wire.up.popleft(), stops)
        return True

    def _up_twice(self, number: int, stops: int) -> bool:
        wire = self._wire(number)
        if wire is None or not self._can_take(wire) or wire.up[0] is None:
            return False
        self.fault("message doubled")
        self._take(wire, wire.up[0], stops)
        return True

    def _can_take(self, wire: Wire) -> bool:
        return bool(wire.up) and wire.is_open_down and self._is_serving and wire.task is None

    def _take(self, wire: Wire, message: sessions_pb2.DaemonMessage | None, stops: int) -> None:
        assert self.services is not None
        if message is None:
            self.end_by_server(wire, stops)
            return
        if wire.session is None:
            # The providers registered first, so their key ids equal their own ids.
            wire.session = self.services.sessions.new(wire.machine.provider_id, wire.machine.provider_id)
        self._heard(wire, message)
        work = self._handle(wire, from_wire(message))
        task = self.spawn(work, stops, partial(self._handled, wire))
        wire.task = task if task in self.tasks else None

    async def _handle(self, wire: Wire, message: DaemonMessage) -> None:
        assert wire.session is not None
        await wire.session.handle(message)

    def _heard(self, wire: Wire, message: sessions_pb2.DaemonMessage) -> None:
        """Notes what the server receives, for the checks."""
        machine = wire.machine
        match message.WhichOneof("kind"):
            case "hello":
                self.renewed_ms[machine.provider_id] = self.now_ms
                # A late Hello, by a stream that the daemon has left, does not list its newest runs.
                machine.is_misknown = machine.wire is not wire
                self._greeted(machine, message.hello.boot_id)
                self.reported.update((x.job_id, x.lease_epoch) for x in message.hello.unacknowledged_results)
            case "heartbeat":
                self.renewed_ms[machine.provider_id] = self.now_ms
            case "job_finished":
                lease = message.job_finished.lease
                self.reported.add((lease.job_id, lease.lease_epoch))

    def _greeted(self, machine: Machine, boot_id: str) -> None:
        """A Hello supersedes all other processes of its provider, even if its own process has died."""
        for other in self.machines:
            if other.provider_id == machine.provider_id and other.boot_id != boot_id:
                other.is_rivalled = True

    def _down(self, number: int) -> bool:
        wire = self._wire(number)
        if wire is None or not wire.down or not wire.machine.is_awake:
            return False
        wire.machine.receive(wire.down.popleft())
        return True

    def _down_twice(self, number: int) -> bool:
        wire = self._wire(number)
        if wire is None or not wire.down or not wire.machine.is_awake or wire.down[0] is None:
            return False
        self.fault("message doubled")
        wire.machine.receive(wire.down[0])
        return True

    def _task(self, at: int, stops: int) -> bool:
        if not self.tasks or not self._is_serving:
            return False
        self.go_on(self.tasks[at % len(self.tasks)], stops)
        return True

    def _sweep(self, stops: int) -> bool:
        if not self._is_serving:
            return False
        assert self.services is not None
        self.spawn(self._duties(), stops, partial(self._background_ended, "a sweep"))
        return True

    async def _duties(self) -> None:
        """Runs each duty of the market's loop once. A failure is a violation unless the database was down."""
        for error in await self.loops[0].tick():
            self._background_ended("a duty", error)

    def _submit(self, number: int, stops: int) -> bool:
        if not self._is_serving or number in self.submitted or number >= len(self.requests):
            return False
        self.spawn(self._submitting(number), stops, self._answered)
        return True

    async def _submitting(self, number: int) -> None:
        assert self.services is not None
        job = await self.services.jobs.submit(number % RENTERS + 1, self.requests[number])
        self.submitted[number] = job.job_id

    def _cancel(self, number: int, stops: int) -> bool:
        job = self.snapshot.jobs[number] if number < len(self.snapshot.jobs) else None
        if job is None or not self._is_serving or job.job_id in self.final:
            return False
        assert self.services is not None
        self.spawn(self.services.jobs.cancel(OPERATOR, job.job_id), stops, self._answered)
        return self.fault("job cancelled")

    def _journal(self, number: int) -> bool:
        return self._write_journal(number) and (self._tell_written(number) or True)

    def _write_journal(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake or not (machine.waiting or machine.written):
            return False
        if machine.disk.is_full and machine.waiting:
            self.fault("journal's disk full")
        try:
            machine.write_journal()
        except ProcessDied:
            self.fault("daemon killed in a journal write")
            machine.die(lose_unsynced=True)
        return True

    def _tell_written(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake or not machine.written:
            return False
        machine.tell_written()
        return True

    def _engine(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake or machine.next_event() is None:
            return False
        machine.engine_step()
        return True

    def _connect(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        is_due = machine.wire is None and self.now_ms >= machine.connect_at_ms
        if not machine.is_awake or not is_due:
            return False
        machine.connect()
        return True

    # --- the faults ---

    def _cut(self, number: int, by_daemon: int, loses: int) -> bool:
        """The transport breaks: one side notices it now, the other after reading the messages under way."""
        wire = self._wire(number)
        if wire is None or not wire.is_open_up or not wire.is_open_down:
            return False
        lost = len(wire.up) + len(wire.down)
        if loses:
            wire.up.clear()
            wire.down.clear()
            self.faults["message lost with a cut"] += lost
        if by_daemon and wire.machine.is_awake:
            wire.machine.receive(None)
            return self.fault("stream cut at the daemon")
        self.end_by_server(wire)
        return self.fault("stream cut at the server")

    def _black_hole(self, number: int) -> bool:
        wire = self._wire(number)
        if wire is None or wire.dead_since_ms is not None:
            return False
        wire.dead_since_ms = self.now_ms
        self.faults["message lost with a cut"] += len(wire.up) + len(wire.down)
        wire.up.clear()
        wire.down.clear()
        return self.fault("stream became a black hole")

    def _kill(self, number: int, loses: int, survive: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if machine.session is None:
            return False
        machine.die(lose_unsynced=bool(loses), survive=bool(survive) and not loses)
        return self.fault("machine lost its power" if loses else "daemon killed")

    def _kill_writing(self, number: int, operations: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake:
            return False
        machine.disk.dies_in = operations
        return True

    def _start(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if machine.session is not None:
            return False
        rival = self.machines[machine.number ^ 1]
        machine.start()
        return self.fault("second daemon with one key") if rival.session is not None else True

    def _freeze(self, number: int, ms: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake:
            return False
        machine.frozen_until_ms = self.now_ms + ms
        machine.is_late = True
        return self.fault("daemon frozen")

    def _drain(self, number: int) -> bool:
        machine = self.machines[number % len(self.machines)]
        if not machine.is_awake:
            return False
        machine.drain()
        return self.fault("daemon drained")

    def _fill(self, number: int, is_full: int) -> bool:
        disk = self.machines[number % len(self.machines)].disk
        if disk.is_full == bool(is_full):
            return False
        disk.is_full = bool(is_full)
        return True

    def _break_sync(self, number: int, is_broken: int) -> bool:
        disk = self.machines[number % len(self.machines)].disk
        if disk.fails_to_sync == bool(is_broken):
            return False
        disk.fails_to_sync = bool(is_broken)
        return self.fault("journal's disk failed to sync") if is_broken else True

    def _crash(self, when: int) -> bool:
        """The server dies: now (0), or before (1) or after (2) its next commit."""
        if self.services is None:
            return False
        if when:
            self.database.dies = Side.BEFORE if when == 1 else Side.AFTER
            return True
        self.kill_server()
        return self.fault("server killed between commits")

    def _restart(self) -> bool:
        if self.services is not None or self.database.is_down:
            return False
        self.start_server()
        return True

    def _freeze_server(self, ms: int) -> bool:
        if not self._is_serving:
            return False
        self.server_frozen_until_ms = self.now_ms + ms
        return self.fault("server frozen")

    def _database(self, is_down: int) -> bool:
        if self.database.is_down == bool(is_down):
            return False
        self.database.is_down = bool(is_down)
        return self.fault("database down") if is_down else True


_ACTIONS: dict[str, Callable[..., bool]] = {
    "advance": World._advance,
    "jump": World._jump,
    "up": World._up,
    "up-twice": World._up_twice,
    "down": World._down,
    "down-twice": World._down_twice,
    "task": World._task,
    "sweep": World._sweep,
    "submit": World._submit,
    "cancel": World._cancel,
    "journal": World._journal,
    "write-journal": World._write_journal,
    "tell-written": World._tell_written,
    "engine": World._engine,
    "connect": World._connect,
    "cut": World._cut,
    "black-hole": World._black_hole,
    "kill": World._kill,
    "kill-writing": World._kill_writing,
    "start": World._start,
    "freeze": World._freeze,
    "drain": World._drain,
    "fill-disk": World._fill,
    "break-sync": World._break_sync,
    "crash": World._crash,
    "restart": World._restart,
    "freeze-server": World._freeze_server,
    "database-down": World._database,
}


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
    return Config("", "", None, True, None, "INFO", max_output_bytes=output_limit, limits=OFF)


def template(database: InlineDatabase) -> None:
    """Registers the accounts of providers and renters, which all schedules share."""
    services = Services(database, World(database, "template"), config(), body_text)
    for n in range(1, PROVIDERS + 1):
        email = f"p{n}@example.com"
        finish(
            services.providers.register(
                name=f"p{n}", email=email, email_key=email, gpu_model="", os="", phone=""
            )
        )
    for n in range(1, RENTERS + 1):
        email = f"r{n}@example.com"
        finish(
            services.renters.register(name=f"r{n}", email=email, email_key=email, organization="", phone="")
        )
