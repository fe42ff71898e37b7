"""One schedule: its actions are chosen by a seed, or replayed from a list of actions."""

from __future__ import annotations

import functools
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from scripts.simulation.actions import Action, act, end
from scripts.simulation.inline import InlineDatabase, seeded_secrets
from scripts.simulation.machines import Machine, Wire
from scripts.simulation.violations import ViolationError
from scripts.simulation.world import World, template

MIN_STEPS = 150
MAX_STEPS = 600
# How often, in 1,000 steps, a fault is considered; each schedule draws one of these rates.
FAULT_RATES = (20, 60, 120, 200)
# How often a message stops at its commit if the stream has others about another job.
MEETS = 0.7


@dataclass
class Outcome:
    """The result of a schedule."""

    index: int
    digest: str
    steps: int
    faults: Counter[str]
    actions: list[Action] = field(default_factory=list)
    """The actions up to the violation; empty without a violation."""
    invariant: str = ""
    detail: str = ""
    at_end: bool = False
    """Whether the violation was found after all faults had ended."""


def run(seed: int, index: int, log: Callable[[str], None] | None = None) -> Outcome:
    """Runs one schedule of a seed."""
    chooser = _Chooser(Random(f"{seed}/{index}/choices"))
    return _run(seed, index, chooser.next, log, with_end=True)


def replay(
    seed: int,
    index: int,
    actions: Sequence[Action],
    log: Callable[[str], None] | None = None,
    *,
    with_end: bool,
) -> Outcome:
    """Runs these actions in the world of a schedule; actions that cannot happen are skipped."""
    following = iter(actions)
    return _run(seed, index, lambda world: next(following, None), log, with_end=with_end)


def _run(
    seed: int,
    index: int,
    choose: Callable[[World], Action | None],
    log: Callable[[str], None] | None,
    *,
    with_end: bool,
) -> Outcome:
    database, empty = _database()
    database.restore(empty)
    name = f"{seed}/{index}"
    actions: list[Action] = []
    at_end = False
    with seeded_secrets(Random(f"{name}/secrets")):
        world = World(database, name)
        world.log = log
        try:
            world.begin()
            while (action := choose(world)) is not None:
                actions.append(action)
                act(world, action)
            at_end = True
            if with_end:
                end(world)
        except ViolationError as found:
            text = str(found)
            return Outcome(
                index, world.digest, world.steps, world.faults, actions, found.invariant, text, at_end
            )
        finally:
            world.close()
    return Outcome(index, world.digest, world.steps, world.faults)


@functools.cache
def _database() -> tuple[InlineDatabase, sqlite3.Connection]:
    """The only database of this process, and a copy of its state at the beginning of each schedule."""
    database = InlineDatabase()
    with seeded_secrets(Random("template")):
        template(database)
    empty = sqlite3.connect(":memory:")
    database.raw.backup(empty)
    return database, empty


class _Chooser:
    """Draws the next action: mostly one that makes progress, sometimes a fault."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._left = rng.randint(MIN_STEPS, MAX_STEPS)
        self._fault_rate = rng.choice(FAULT_RATES) / 1000
        # Some schedules have only a few kinds of faults, so that each occurs often.
        self._faults = rng.sample(_FAULTS, rng.randint(1, len(_FAULTS)))
        self._interleaves = rng.choice([0.0, 0.1, 0.4, 0.8])
        self._is_hasty = rng.random() < 0.5

    def next(self, world: World) -> Action | None:
        """The next action; None at the end."""
        if self._left <= 0:
            return None
        self._left -= 1
        rng = self._rng
        if rng.random() < self._fault_rate and (fault := rng.choice(self._faults)(rng, world)):
            return fault
        moves = self._moves(world)
        if moves and rng.random() < (0.85 if self._is_hasty else 0.6):
            return rng.choice(moves)
        return self._other(world, is_idle=not moves)

    def _stops(self) -> int:
        return self._rng.randint(0, 2) if self._rng.random() < self._interleaves else -1

    def _moves(self, world: World) -> list[Action]:
        """The actions that can happen without time passing."""
        moves: list[Action] = [("task", at, self._stops()) for at in range(len(world.tasks))]
        if world.services is None and not world.database.is_down:
            moves += [("restart",)]
        for wire in world.wires:
            moves += self._wire_moves(wire, world)
        for machine in world.machines:
            moves += _machine_moves(machine, world)
        return moves

    def _wire_moves(self, wire: Wire, world: World) -> list[Action]:
        moves: list[Action] = []
        if world.can_take(wire):
            # Where messages about several jobs are under way, they mostly meet.
            meets = world.is_shared(wire) and self._rng.random() < MEETS
            moves += [("up", wire.number, self._rng.randint(0, 1) if meets else self._stops())] * (
                6 if meets else 2
            )
        if wire.down and wire.machine.is_awake:
            moves += [("down", wire.number)] * 2
        return moves

    def _other(self, world: World, *, is_idle: bool) -> Action:
        """Time passes, the server's loop runs, or a renter submits."""
        rng = self._rng
        what = rng.random()
        if what < 0.25:
            return ("sweep", self._stops())
        if what < 0.40 and len(world.submitted) < len(world.requests):
            number = next(n for n in range(len(world.requests)) if n not in world.submitted)
            return ("submit", number, self._stops())
        if what < 0.43:
            return _to_a_deadline(rng, world)
        if not is_idle:
            return ("advance", rng.choice([1, 50, 500, 1_000, 2_000, 5_000]))
        return ("advance", rng.choice([500, 2_000, 5_000, 10_000, 30_000]))


def _machine_moves(machine: Machine, world: World) -> list[Action]:
    number = machine.number
    if machine.session is None:
        # The second machine of a provider stays empty, except by a fault.
        is_needed = number % 2 == 0 and world.machines[number + 1].session is None
        return [("start", number)] if is_needed else []
    if machine.frozen_until_ms is not None:
        return []
    moves: list[Action] = []
    if machine.waiting:
        moves += [("journal", number), ("write-journal", number)]
    if machine.written:
        moves.append(("tell-written", number))
    if machine.next_event() is not None:
        moves.append(("engine", number))
    if machine.wire is None and world.now_ms >= machine.connect_at_ms:
        moves.append(("connect", number))
    return moves


def _to_a_deadline(rng: Random, world: World) -> Action:
    """Time passes to a deadline of a job or lease, or to one millisecond before or after it."""
    sql = (
        "SELECT start_by_ms FROM job WHERE state IN ('queued', 'pending')"
        " UNION SELECT started_ms + limit_ms FROM job WHERE state = 'running'"
        " UNION SELECT offered_ms + 10000 FROM lease WHERE state = 'offered'"
    )
    times = [at - world.now_ms for (at,) in world.database.raw.execute(sql)]
    near = sorted(at for at in times if 1 < at < 60_000)
    return ("advance", rng.choice(near) + rng.randint(-1, 1)) if near else ("advance", 1_000)


# --- faults: each draws an action, or None if the fault makes no sense now ---

_Fault = Callable[[Random, World], Action | None]


def _cut(rng: Random, world: World) -> Action | None:
    wire = _some_wire(rng, world)
    return ("cut", wire.number, rng.randint(0, 1), rng.randint(0, 1)) if wire else None


def _double(rng: Random, world: World) -> Action | None:
    wire = _some_wire(rng, world)
    if wire is None:
        return None
    return ("up-twice", wire.number, -1) if rng.random() < 0.5 else ("down-twice", wire.number)


def _black_hole(rng: Random, world: World) -> Action | None:
    wire = _some_wire(rng, world)
    return ("black-hole", wire.number) if wire else None


def _kill(rng: Random, world: World) -> Action | None:
    return ("kill", _some_machine(rng, world), rng.randint(0, 1), rng.randint(0, 1))


def _kill_writing(rng: Random, world: World) -> Action | None:
    return ("kill-writing", _some_machine(rng, world), rng.randint(0, 4))


def _second(rng: Random, world: World) -> Action | None:
    return ("start", _some_machine(rng, world) ^ 1)


def _freeze(rng: Random, world: World) -> Action | None:
    return ("freeze", _some_machine(rng, world), rng.choice([3_000, 40_000, 150_000, 400_000]))


def _drain(rng: Random, world: World) -> Action | None:
    return ("drain", _some_machine(rng, world))


def _disk(rng: Random, world: World) -> Action | None:
    number = _some_machine(rng, world)
    disk = world.machines[number].disk
    if rng.random() < 0.5 or disk.fails_to_sync:
        return ("break-sync", number, int(not disk.fails_to_sync))
    return ("fill-disk", number, int(not disk.is_full))


def _crash(rng: Random, world: World) -> Action | None:
    return ("crash", rng.randint(0, 2))


def _freeze_server(rng: Random, world: World) -> Action | None:
    return ("freeze-server", rng.choice([5_000, 60_000, 330_000]))


def _database_down(rng: Random, world: World) -> Action | None:
    return ("database-down", int(not world.database.is_down))


def _jump(rng: Random, world: World) -> Action | None:
    return ("jump", rng.choice([1_000, 11_000, 45_000, 90_000, 310_000]))


def _cancel(rng: Random, world: World) -> Action | None:
    """Cancels mostly running jobs, and often while a result or its acknowledgement is under way."""
    jobs = world.snapshot.jobs
    running = [number for number, job in enumerate(jobs) if job.state == "running"]
    if not running or (rng.random() < 0.7 and not _is_ending(world)):
        return (
            ("cancel", rng.randrange(len(jobs)), rng.randint(-1, 1)) if rng.random() < 0.2 and jobs else None
        )
    return ("cancel", rng.choice(running), rng.randint(-1, 1))


def _is_ending(world: World) -> bool:
    ups = (message for wire in world.wires for message in wire.up if message is not None)
    downs = (message for wire in world.wires for message in wire.down if message is not None)
    return any(message.HasField("job_finished") for message in ups) or any(
        message.HasField("result_ack") for message in downs
    )


_FAULTS: list[_Fault] = [
    _cut,
    _double,
    _black_hole,
    _kill,
    _kill_writing,
    _second,
    _freeze,
    _drain,
    _disk,
    _crash,
    _freeze_server,
    _database_down,
    _jump,
    _cancel,
]


def _some_wire(rng: Random, world: World) -> Wire | None:
    return rng.choice(world.wires) if world.wires else None


def _some_machine(rng: Random, world: World) -> int:
    living = [machine.number for machine in world.machines if machine.session is not None]
    return rng.choice(living) if living else 0
