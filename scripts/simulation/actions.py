"""The actions of a schedule: what can happen in the simulated market, and all of it by name.

An action is a name and numbers; `act` carries it out, or returns False if it cannot happen now. The same seed
and actions always give the same states, and leaving out one action does not change the meaning of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from scripts.simulation.checks import check_end
from scripts.simulation.inline import Side
from scripts.simulation.machines import ProcessDied
from scripts.simulation.violations import ViolationError
from scripts.simulation.world import KEEPALIVE_MS, OPERATOR, RENTERS, World
from server.domain.errors import DomainError, Reason
from tests.support.journals import is_empty

Action = tuple[str | int, ...]

TICK_MS = 2_000
# The errors that a renter may get; any other error is a fault of the server.
REFUSALS = {
    Reason.INSUFFICIENT_BALANCE,
    Reason.PROVIDER_UNAVAILABLE,
    Reason.MODEL_NOT_SERVED,
    Reason.JOB_TYPE_NOT_SERVED,
    Reason.JOB_ALREADY_FINAL,
    Reason.STORE_UNAVAILABLE,
}


def act(world: World, action: Action) -> bool:
    """Carries out one action and checks the invariants; False if it cannot happen now."""
    name, *rest = action
    before = world.now_ms
    try:
        if not _ACTIONS[str(name)](world, *rest):
            return False
    except ViolationError:
        raise
    except Exception as error:
        raise ViolationError("no part of the programs fails", repr(error)) from error
    world.record(action, before)
    return True


def end(world: World) -> None:
    """Ends all faults, lets every job end, and checks the result."""
    _mend(world)
    for _ in range(1_000):
        _calm(world)
        if _is_over(world):
            break
        busy = any(machine.attempts for machine in world.machines)
        act(world, ("advance", 3_000 if busy else 9_000))
        act(world, ("sweep", -1))
    check_end(world.snapshot, world)


def _mend(world: World) -> None:
    world.database.is_down, world.database.dies = False, None
    world.server_frozen_until_ms = None
    if world.services is None:
        world.start_server()
    for wire in world.wires:
        if wire.dead_since_ms is not None:
            wire.dead_since_ms = world.now_ms - KEEPALIVE_MS
    for machine in world.machines:
        disk = machine.disk
        disk.is_full = disk.fails_to_sync = disk.fails_to_sync_folder = False
        disk.dies_in = None
        machine.frozen_until_ms = None
    for number in range(len(world.requests)):
        act(world, ("submit", number, -1))
    _revive(world)


def _revive(world: World) -> None:
    """Starts a daemon for every provider that has none: the one that was started last."""
    for first in range(0, len(world.machines), 2):
        pair = world.machines[first : first + 2]
        if all(machine.session is None for machine in pair):
            newest = max(pair, key=lambda machine: machine.started_ms)
            act(world, ("start", newest.number))


def _calm(world: World) -> None:
    """Carries out actions until only the passing of time can change anything."""
    moved = True
    while moved:
        moved = False
        while world.tasks:
            moved |= act(world, ("task", 0, -1))
        for machine in list(world.machines):
            moved |= act(world, ("journal", machine.number))
            moved |= act(world, ("engine", machine.number))
            moved |= act(world, ("connect", machine.number))
        for wire in list(world.wires):
            moved |= act(world, ("up", wire.number, -1))
            moved |= act(world, ("down", wire.number))
    _revive(world)


def _is_over(world: World) -> bool:
    jobs = world.snapshot.jobs
    idle = all(
        machine.session is None or (not machine.attempts and is_empty(machine.disk))
        for machine in world.machines
    )
    return idle and all(job.job_id in world.final for job in jobs) and len(jobs) == len(world.submitted)


# --- the actions ---


def _advance(world: World, ms: int) -> bool:
    """Time passes, and every process that is awake notices it."""
    until = world.now_ms + ms
    while world.now_ms < until:
        world.now_ms = min(until, world.now_ms + TICK_MS)
        world.wake()
        world.time_out_streams()
        for machine in world.machines:
            machine.tick()
    return True


def _jump(world: World, ms: int) -> bool:
    """Time passes while the whole world is stopped, so every process notices it late."""
    world.now_ms += ms
    for machine in world.machines:
        machine.is_late = True
    return world.fault("clock jumped")


def _up(world: World, number: int, stops: int) -> bool:
    wire = world.wire(number)
    if wire is None or not world.can_take(wire):
        return False
    world.take(wire, wire.up.popleft(), stops)
    return True


def _up_twice(world: World, number: int, stops: int) -> bool:
    wire = world.wire(number)
    if wire is None or not world.can_take(wire) or wire.up[0] is None:
        return False
    world.fault("message doubled")
    world.take(wire, wire.up[0], stops)
    return True


def _down(world: World, number: int) -> bool:
    wire = world.wire(number)
    if wire is None or not wire.down or not wire.machine.is_awake:
        return False
    wire.machine.receive(wire.down.popleft())
    return True


def _down_twice(world: World, number: int) -> bool:
    wire = world.wire(number)
    if wire is None or not wire.down or not wire.machine.is_awake or wire.down[0] is None:
        return False
    world.fault("message doubled")
    wire.machine.receive(wire.down[0])
    return True


def _task(world: World, at: int, stops: int) -> bool:
    if not world.tasks or not world.is_serving:
        return False
    world.go_on(world.tasks[at % len(world.tasks)], stops)
    return True


def _sweep(world: World, stops: int) -> bool:
    if not world.is_serving:
        return False
    assert world.services is not None
    world.spawn(_duties(world), stops, partial(world.background_ended, "a sweep"))
    return True


async def _duties(world: World) -> None:
    """Runs each duty of the market's loop once. A failure is a violation unless the database was down."""
    for error in await world.loops[0].tick():
        world.background_ended("a duty", error)


def _submit(world: World, number: int, stops: int) -> bool:
    if not world.is_serving or number in world.submitted or number >= len(world.requests):
        return False
    world.spawn(_submitting(world, number), stops, _answered)
    return True


async def _submitting(world: World, number: int) -> None:
    assert world.services is not None
    job = await world.services.jobs.submit(number % RENTERS + 1, world.requests[number])
    world.submitted[number] = job.job_id


def _cancel(world: World, number: int, stops: int) -> bool:
    job = world.snapshot.jobs[number] if number < len(world.snapshot.jobs) else None
    if job is None or not world.is_serving or job.job_id in world.final:
        return False
    assert world.services is not None
    world.spawn(world.services.jobs.cancel(OPERATOR, job.job_id), stops, _answered)
    return world.fault("job cancelled")


def _journal(world: World, number: int) -> bool:
    return _write_journal(world, number) and (_tell_written(world, number) or True)


def _write_journal(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake or not (machine.waiting or machine.written):
        return False
    if machine.disk.is_full and machine.waiting:
        world.fault("journal's disk full")
    try:
        machine.write_journal()
    except ProcessDied:
        world.fault("daemon killed in a journal write")
        # Without a loss of power the next process finds what was not synced, and must not trust it.
        machine.die(lose_unsynced=world.rng.random() < 0.5)
    return True


def _tell_written(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake or not machine.written:
        return False
    machine.tell_written()
    return True


def _engine(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake or machine.next_event() is None:
        return False
    machine.engine_step()
    return True


def _connect(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    is_due = machine.wire is None and world.now_ms >= machine.connect_at_ms
    if not machine.is_awake or not is_due:
        return False
    machine.connect()
    return True


# --- the faults ---


def _cut(world: World, number: int, by_daemon: int, loses: int) -> bool:
    """The transport breaks: one side notices it now, the other after reading the messages under way."""
    wire = world.wire(number)
    if wire is None or not wire.is_open_up or not wire.is_open_down:
        return False
    lost = len(wire.up) + len(wire.down)
    if loses:
        wire.up.clear()
        wire.down.clear()
        world.faults["message lost with a cut"] += lost
    if by_daemon and wire.machine.is_awake:
        wire.machine.receive(None)
        return world.fault("stream cut at the daemon")
    world.end_by_server(wire)
    return world.fault("stream cut at the server")


def _black_hole(world: World, number: int) -> bool:
    wire = world.wire(number)
    if wire is None or wire.dead_since_ms is not None:
        return False
    wire.dead_since_ms = world.now_ms
    world.faults["message lost with a cut"] += len(wire.up) + len(wire.down)
    wire.up.clear()
    wire.down.clear()
    return world.fault("stream became a black hole")


def _kill(world: World, number: int, loses: int, survive: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if machine.session is None:
        return False
    machine.die(lose_unsynced=bool(loses), survive=bool(survive) and not loses)
    return world.fault("machine lost its power" if loses else "daemon killed")


def _kill_writing(world: World, number: int, operations: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake:
        return False
    machine.disk.dies_in = operations
    return True


def _start(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if machine.session is not None:
        return False
    rival = world.machines[machine.number ^ 1]
    machine.start()
    return world.fault("second daemon with one key") if rival.session is not None else True


def _freeze(world: World, number: int, ms: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake:
        return False
    machine.frozen_until_ms = world.now_ms + ms
    machine.is_late = True
    return world.fault("daemon frozen")


def _drain(world: World, number: int) -> bool:
    machine = world.machines[number % len(world.machines)]
    if not machine.is_awake:
        return False
    machine.drain()
    return world.fault("daemon drained")


def _fill(world: World, number: int, is_full: int) -> bool:
    disk = world.machines[number % len(world.machines)].disk
    if disk.is_full == bool(is_full):
        return False
    disk.is_full = bool(is_full)
    return True


def _break_sync(world: World, number: int, is_broken: int) -> bool:
    disk = world.machines[number % len(world.machines)].disk
    if disk.fails_to_sync == bool(is_broken):
        return False
    disk.fails_to_sync = disk.fails_to_sync_folder = bool(is_broken)
    return world.fault("journal's disk failed to sync") if is_broken else True


def _crash(world: World, when: int) -> bool:
    """The server dies: now (0), or before (1) or after (2) its next commit."""
    if world.services is None:
        return False
    if when:
        world.database.dies = Side.BEFORE if when == 1 else Side.AFTER
        return True
    world.kill_server()
    return world.fault("server killed between commits")


def _restart(world: World) -> bool:
    if world.services is not None or world.database.is_down:
        return False
    world.start_server()
    return True


def _freeze_server(world: World, ms: int) -> bool:
    if not world.is_serving:
        return False
    world.server_frozen_until_ms = world.now_ms + ms
    return world.fault("server frozen")


def _database(world: World, is_down: int) -> bool:
    if world.database.is_down == bool(is_down):
        return False
    world.database.is_down = bool(is_down)
    return world.fault("database down") if is_down else True


def _answered(error: Exception | None) -> None:
    if error is not None and not (isinstance(error, DomainError) and error.reason in REFUSALS):
        raise ViolationError("no part of the programs fails", repr(error)) from error


_ACTIONS: dict[str, Callable[..., bool]] = {
    "advance": _advance,
    "jump": _jump,
    "up": _up,
    "up-twice": _up_twice,
    "down": _down,
    "down-twice": _down_twice,
    "task": _task,
    "sweep": _sweep,
    "submit": _submit,
    "cancel": _cancel,
    "journal": _journal,
    "write-journal": _write_journal,
    "tell-written": _tell_written,
    "engine": _engine,
    "connect": _connect,
    "cut": _cut,
    "black-hole": _black_hole,
    "kill": _kill,
    "kill-writing": _kill_writing,
    "start": _start,
    "freeze": _freeze,
    "drain": _drain,
    "fill-disk": _fill,
    "break-sync": _break_sync,
    "crash": _crash,
    "restart": _restart,
    "freeze-server": _freeze_server,
    "database-down": _database,
}
