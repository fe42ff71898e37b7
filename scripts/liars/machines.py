"""The providers of the simulated market: honest ones, and every kind of liar.

A liar cheats in a share of its work and cannot tell a check from a job. How a check compares answers is
replaced by how often it errs, as measured with a real model: see docs/figures.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from server.domain.levels import Standing
from server.domain.payouts import Payout
from server.domain.reliability import NO_RECORD, RECORD_SIZE, TrackRecord
from server.domain.standing import DAY_MS, Assessment, Bounds, Facts, Party, assess, independent, is_doubted

# The checks of which a standing follows.
CHECKS_KEPT = 60
# How often a check fails at an honest machine, and passes a wrong answer.
FALSE_ALARM, OVERLOOKED = 0.003, 0.02
# From how many times the usual time on a check counts as failed.
TOO_SLOW = 3.0
MODELS = 40


class Kind(StrEnum):
    """What a provider is."""

    HONEST = "honest"
    SILENT = "says nothing"
    FILLER = "filler"
    SMALLER_MODEL = "smaller model"
    SLOW = "slows down"
    INFLATED_TOKENS = "inflated tokens"
    INFLATED_TIME = "inflated time"
    HONEST_FIRST = "honest at first"
    COLLUDER = "own renters"
    COLLUDER_WIDE = "own renters on many networks"
    SYBIL = "sybils of one network"
    COPIER = "copies another's answers"


LIARS = tuple(kind for kind in Kind if kind is not Kind.HONEST)
SLOW = frozenset({Kind.SLOW, Kind.INFLATED_TIME})
PATIENT = frozenset({Kind.HONEST_FIRST, Kind.COLLUDER, Kind.COLLUDER_WIDE})


@dataclass
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
    models: frozenset[int]
    owner: Party
    own_renters: tuple[Party, ...] = ()
    free_slots: int = 1000
    assessment: Assessment = field(default_factory=lambda: assess(Facts()))
    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=RECORD_SIZE))
    record: TrackRecord = NO_RECORD
    impossible: deque[bool] = field(default_factory=lambda: deque(maxlen=RECORD_SIZE))
    checks: deque[bool] = field(default_factory=lambda: deque(maxlen=CHECKS_KEPT))
    checks_passed: int = 0
    customers: dict[Party, int] = field(default_factory=dict)
    used_slots: int = 0
    open_halala: int = 0
    checks_made: int = 0
    is_doubted: bool = False
    assessed_ms: int = -DAY_MS
    is_changed: bool = True
    began_ms: int | None = None
    """When it began to cheat."""
    caught_ms: int | None = None
    checks_until_caught: int = 0
    paid_until_caught: int = 0
    maturing: deque[tuple[Payout, int]] = field(default_factory=deque)
    """Its payouts, each with the part that it earned by cheating."""
    through_id: int = 0
    withdrawn: int = 0
    stolen: int = 0
    """What it could withdraw of money that it earned by cheating."""
    was_marked: bool = False
    jobs: int = 0
    cheated_jobs: int = 0
    proven_ms: int | None = None

    @property
    def provider_id(self) -> int:
        """For the rules of placement."""
        return self.id

    @property
    def standing(self) -> Standing:
        """As last assessed."""
        return self.assessment.standing

    @property
    def bounds(self) -> Bounds:
        """As last assessed."""
        return self.assessment.bounds

    @property
    def is_liar(self) -> bool:
        """Whether it is none of the honest ones."""
        return self.kind is not Kind.HONEST

    def facts(self, now_ms: int) -> Facts:
        """What the market knows of it."""
        parties = [Party(party.marks, paid) for party, paid in self.customers.items()]
        count, paid = independent(self.owner, parties)
        return Facts(
            now_ms - self.joined_ms,
            count,
            paid,
            tuple(self.checks),
            self.checks_passed,
            self.record,
            sum(self.impossible),
        )

    def cheats_now(self, now_ms: int, draw: Random) -> bool:
        """Whether it cheats in the next piece of work."""
        if not self.is_liar or (self.kind in PATIENT and not self._has_waited(now_ms)):
            return False
        if self.began_ms is None:
            self.began_ms = now_ms
        return draw.random() < self.cheats

    def _has_waited(self, now_ms: int) -> bool:
        """A patient liar begins once its word counts, and tires of waiting after three weeks."""
        return self.standing.reaches(Standing.PROVEN) or now_ms - self.joined_ms > 21 * DAY_MS

    def check(self, now_ms: int, draw: Random) -> None:
        """The market checks its work."""
        cheated = self.cheats_now(now_ms, draw)
        self.checks_made, self.is_changed = self.checks_made + 1, True
        if self.began_ms is not None and self.caught_ms is None:
            self.checks_until_caught += 1
        if cheated and self.kind is Kind.SILENT:
            self.note(False)
            passed = False
        elif cheated and self.kind in SLOW:
            passed = self.stretch < TOO_SLOW  # compared with machines of the same GPU
        elif cheated and self.kind is Kind.INFLATED_TOKENS:
            passed = False
        elif cheated:
            passed = draw.random() < OVERLOOKED
        elif draw.random() < self.failures:
            self.note(False)  # an attempt that failed counts as that, not as a wrong answer
            return
        else:
            passed = draw.random() >= FALSE_ALARM
        if not (cheated and self.kind is Kind.SILENT):
            self.note(True, impossible=cheated and self.kind is Kind.INFLATED_TOKENS)
        self.checks.append(passed)
        self.is_doubted = is_doubted(tuple(self.checks))
        self.checks_passed += passed

    def note(self, succeeded: bool, *, impossible: bool = False) -> None:
        """An attempt ended."""
        self.outcomes.append(succeeded and not impossible)
        self.impossible.append(impossible)
        self.record = TrackRecord(sum(self.outcomes), len(self.outcomes))
        self.is_changed = True


def machines(count: int, liars: float, days: int, draw: Random) -> list[Machine]:
    """The providers, by the time when they join: half are there from the beginning or soon after."""
    found: list[Machine] = []
    wrong = round(count * liars)
    for number in range(count):
        kind = LIARS[number % len(LIARS)] if number < wrong else Kind.HONEST
        joined = 0 if draw.random() < 0.5 else round(draw.uniform(0, days * 0.6) * DAY_MS)
        network = "network of the sybils" if kind is Kind.SYBIL else f"network {number}"
        owner = Party(frozenset({f"mail {number}", network}))
        renters: tuple[Party, ...] = ()
        if kind is Kind.COLLUDER:
            renters = tuple(Party(frozenset({f"mail {number}-{own}", network})) for own in range(8))
        elif kind is Kind.COLLUDER_WIDE:
            renters = tuple(
                Party(frozenset({f"mail {number}-{own}", f"network {number}-{own}"})) for own in range(8)
            )
        found.append(
            Machine(
                number + 1,
                kind,
                joined,
                draw.choice([0.6, 0.8, 1.0, 1.0, 1.3, 1.7]),
                draw.uniform(0, 0.05),
                draw.uniform(0.3, 1.0),
                draw.uniform(3.5, 8.0),
                frozenset(draw.sample(range(MODELS), 4)),
                owner,
                renters,
            )
        )
    return sorted(found, key=lambda machine: machine.joined_ms)
