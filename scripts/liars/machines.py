"""The providers of the simulated market: honest ones, and every kind of liar.

A liar cheats in a share of its work and cannot tell a check from a job. Its standing is no secret to it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from scripts.liars import answers
from scripts.liars.answers import Question
from server.domain import canaries as rules
from server.domain.canaries import Known
from server.domain.levels import Standing
from server.domain.payouts import HOUR_MS, Payout
from server.domain.placement import Model
from server.domain.reliability import NO_RECORD, RECORD_SIZE, TrackRecord
from server.domain.standing import (
    DAY_MS,
    Assessment,
    Bounds,
    Facts,
    Party,
    assess,
    independent,
)

# The checks of which a standing follows.
CHECKS_KEPT = 200
MODELS = 5
# How often the customers of a provider are counted.
COUNTED_MS = 12 * HOUR_MS
SLOTS = 4
# Of the liars, and of the honest ones, those whose engine is another build than most have.
SYBILS, OTHER_BUILDS = 0.3, 0.3
# Of the failures of a machine, those for which its engine is to blame.
ENGINE_FAILS = 0.3


class Kind(StrEnum):
    """What a provider is."""

    HONEST = "honest"
    SILENT = "says nothing"
    FILLER = "filler"
    SMALLER_MODEL = "smaller model"
    SLOW = "slows down"
    SLOWER = "slows down a little"
    INFLATED_TOKENS = "inflated tokens"
    INFLATED_TIME = "inflated time"
    HONEST_FIRST = "honest at first"
    COLLUDER = "own renters"
    COLLUDER_WIDE = "own renters on many networks"
    COPIER = "copies another's answers"
    SYBIL = "sybils of one network"


LIARS = tuple(kind for kind in Kind if kind is not Kind.HONEST)
SLOW = frozenset({Kind.SLOW, Kind.SLOWER, Kind.INFLATED_TIME})
# No rule tells these from machines that are slow: see docs/figures.md.
HIDDEN = frozenset({Kind.SLOWER})
PATIENT = frozenset({Kind.HONEST_FIRST, Kind.COLLUDER, Kind.COLLUDER_WIDE})
# Those whose renters get the text of another model.
OTHER_MODEL = frozenset({Kind.SMALLER_MODEL, Kind.HONEST_FIRST, Kind.SYBIL})


class Work(StrEnum):
    """How a piece of work ended, as it really was."""

    DONE = "done"
    CHEATED = "cheated"
    ENGINE_FAILED = "engine failed"
    LOST = "lost"


@dataclass(eq=False)
class Machine:
    """A provider, what it does, and what the market knows of it."""

    id: int
    kind: Kind
    joined_ms: int
    speed: float
    """How long it takes, compared with the usual time."""
    failures: float
    """The share of its attempts that fail though it is honest."""
    cheats: float
    """The share of its work in which it cheats."""
    stretch: float
    """How much longer it takes when it slows down."""
    build: int
    is_wary: bool
    """It does not cheat while it is suspect."""
    waits_ms: int
    """How long a patient liar waits at the most."""
    away: tuple[int, int]
    """The hour of the day from which it is away, and for how many hours."""
    serves: tuple[int, ...]
    owner: Party
    own_renters: tuple[Party, ...] = ()
    models: tuple[Model, ...] = ()
    """None is in its memory: for the rules of placement."""
    assessment: Assessment = field(default_factory=lambda: assess(Facts()))
    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=RECORD_SIZE))
    record: TrackRecord = NO_RECORD
    impossible: deque[bool] = field(default_factory=lambda: deque(maxlen=RECORD_SIZE))
    checks: deque[bool] = field(default_factory=lambda: deque(maxlen=CHECKS_KEPT))
    checks_passed: int = 0
    asked: int = 0
    figures: list[float] = field(default_factory=list)
    """Of the answers since the last clear one."""
    known: Known = field(default_factory=Known)
    """What its checks say of how soon it is asked again; not how often it was asked and had jobs."""
    customers: dict[Party, int] = field(default_factory=dict)
    counted: tuple[int, int] = (0, 0)
    """Its independent customers and what they paid, as last counted."""
    counted_ms: int = -DAY_MS
    used_slots: int = 0
    open_micros: int = 0
    jobs_of_day: int = 0
    assessed_ms: int = -DAY_MS
    is_changed: bool = True
    began_ms: int | None = None
    """When it began to cheat."""
    caught_ms: int | None = None
    checks_until_caught: int = 0
    earned_until_caught: int = 0
    """By cheating."""
    maturing: deque[tuple[Payout, int]] = field(default_factory=deque)
    """Its payouts, each with the part that it earned by cheating."""
    through_id: int = 0
    debt: int = 0
    income: int = 0
    stolen: int = 0
    """What it could withdraw of money that it earned by cheating, without what was taken back."""
    was_marked: bool = False
    jobs: int = 0
    cheated_jobs: int = 0
    proven_ms: int | None = None

    @property
    def provider_id(self) -> int:
        """For the rules of placement."""
        return self.id

    @property
    def granted(self) -> Standing:
        """As last assessed."""
        return self.assessment.standing

    @property
    def standing(self) -> Standing:
        """As which it gets jobs that name nobody."""
        return self.granted if self.bounds.is_checked else Standing.SUSPECT

    @property
    def bounds(self) -> Bounds:
        """As last assessed."""
        return self.assessment.bounds

    @property
    def free_slots(self) -> int:
        """Of those that are believed."""
        believed = SLOTS if self.bounds.slots is None else min(SLOTS, self.bounds.slots)
        return believed - self.used_slots

    @property
    def lost(self) -> int:
        """What its renters lost to it for good."""
        return max(0, self.stolen)

    @property
    def is_liar(self) -> bool:
        """Whether it is none of the honest ones."""
        return self.kind is not Kind.HONEST

    def is_there(self, now_ms: int) -> bool:
        """Whether it is connected at this hour of the day."""
        since, hours = self.away
        return (now_ms // HOUR_MS - since) % 24 >= hours

    def facts(self, now_ms: int) -> Facts:
        """What the market knows of it."""
        if now_ms - self.counted_ms >= COUNTED_MS:
            parties = [Party(party.marks, paid) for party, paid in self.customers.items()]
            self.counted_ms, self.counted = now_ms, independent(self.owner, parties)
        return Facts(
            now_ms - self.joined_ms,
            *self.counted,
            tuple(self.checks),
            self.checks_passed,
            self.record,
            sum(self.impossible),
        )

    def work(self, now_ms: int, draw: Random) -> Work:
        """How it does the next piece of work, be it a job or a check."""
        if draw.random() < self.failures:
            return Work.ENGINE_FAILED if draw.random() < ENGINE_FAILS else Work.LOST
        return Work.CHEATED if self._cheats(now_ms, draw) else Work.DONE

    def _cheats(self, now_ms: int, draw: Random) -> bool:
        if not self.is_liar or (self.is_wary and self.granted is Standing.SUSPECT):
            return False
        has_waited = self.granted.reaches(Standing.PROVEN) or now_ms - self.joined_ms > self.waits_ms
        if self.kind in PATIENT and self.began_ms is None and not has_waited:
            return False
        if self.began_ms is None:
            self.began_ms = now_ms
        return draw.random() < self.cheats

    def answer(self, question: Question, work: Work, draw: Random) -> str:
        """Its text for a question of the market; whoever copies keeps what its like have found out."""
        text = answers.right(question.seed, self.build)
        if work is not Work.CHEATED:
            if self.kind is Kind.COPIER:
                question.copied = question.copied or text
            return text
        if self.kind in SLOW or self.kind is Kind.INFLATED_TOKENS:
            return text
        if self.kind is Kind.SILENT:
            return ""
        if self.kind in OTHER_MODEL:
            return answers.smaller(question.seed)
        if self.kind is Kind.COPIER and question.copied:
            return question.copied
        return answers.filler(draw)

    def note(self, succeeded: bool, *, impossible: bool = False) -> None:
        """An attempt ended."""
        self.outcomes.append(succeeded and not impossible)
        self.impossible.append(impossible)
        self.record = TrackRecord(sum(self.outcomes), len(self.outcomes))
        self.is_changed = True

    def note_check(self, passed: bool) -> None:
        """A check has a result."""
        self.checks.append(passed)
        self.checks_passed += passed
        self.known = rules.known(0, self.checks, 0)
        self.figures.clear()
        self.is_changed = True


def machines(count: int, liars: float, days: int, draw: Random) -> list[Machine]:
    """The providers, by the time when they join: half are there from the beginning, the others come later."""
    wrong = round(count * liars)
    sybils = round(wrong * SYBILS)
    alone = [kind for kind in LIARS if kind is not Kind.SYBIL]
    kinds = [Kind.SYBIL] * sybils + [alone[number % len(alone)] for number in range(wrong - sybils)]
    kinds += [Kind.HONEST] * (count - wrong)
    found = [_machine(number, kind, days, draw) for number, kind in enumerate(kinds)]
    return sorted(found, key=lambda machine: machine.joined_ms)


def _machine(number: int, kind: Kind, days: int, draw: Random) -> Machine:
    network = "network of the sybils" if kind is Kind.SYBIL else f"network {number}"
    # The renters of a colluder: on its own network, or on one each.
    networks = {Kind.COLLUDER: [network] * 8, Kind.COLLUDER_WIDE: [f"{network}-{own}" for own in range(8)]}
    return Machine(
        number + 1,
        kind,
        joined_ms=0 if draw.random() < 0.5 else round(draw.uniform(0, days * 0.6) * DAY_MS),
        speed=draw.choice([0.6, 0.8, 1.0, 1.0, 1.3, 1.7]),
        failures=draw.uniform(0, 0.05),
        cheats=draw.uniform(0.3, 1.0),
        stretch=draw.uniform(1.2, 3.0) if kind in HIDDEN else draw.uniform(3.5, 8.0),
        build=int(draw.random() < OTHER_BUILDS),
        is_wary=draw.random() < 0.5,
        waits_ms=draw.randint(7, 21) * DAY_MS,
        away=(draw.randrange(24), draw.choice([0, 0, 4, 8, 12])),
        serves=tuple(draw.sample(range(MODELS), 4)),
        owner=Party(frozenset({f"mail {number}", network})),
        own_renters=tuple(
            Party(frozenset({f"mail {number}-{own}", of_renter}))
            for own, of_renter in enumerate(networks.get(kind, []))
        ),
    )
