"""Standing: how far a provider is trusted, from checked facts alone. Pure; the facts are an argument.

What a provider says about itself is not among the facts. They are what its customers paid, what checks of its
work found, how its attempts ended, how old it is, and what an operator decided.

* banned: an operator suspended it.
* suspect: checks failed, its reports contradict themselves, or most of its attempts fail.
* new: too little is known. Everybody begins here.
* proven: independent renters paid for its work, and checks of it passed.
* trusted: the same, for longer and more of it.

A standing bounds how many slots are believed, how much of the renters' money is at risk at once, and which
jobs come unasked: those that name no provider. A renter who names a provider has made the choice alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain.levels import Standing
from server.domain.money import micros, whole_halala
from server.domain.reliability import TrackRecord

DAY_MS = 24 * 3600 * 1000
# The network of one owner: what is given to one customer, and somewhat more. Bits, by version.
PREFIXES = {4: 24, 6: 48}
# A customer counts once it has paid this much: a purchase of one halala proves nothing.
LEAST_PAID = micros(100)
# Of a new provider with checks switched off, and the most that a new one ever gets.
NEW_SLOTS = 4
NEW_VALUE = micros(5_000)
PROVEN_VALUE = micros(100_000)
SUSPECT_VALUE = micros(500)
# Impossible reports among the newest attempts that make a provider suspect.
IMPOSSIBLE_REPORTS = 3
# The attempts of a provider, most of which surely fail: the upper bound of its reliability is below this.
UNRELIABLE_BELOW = 0.5

# Checks: how likely one fails at an honest provider, and at one that cheats in a fifth of its work.
HONEST_FAILS, LIAR_FAILS = 0.01, 0.2
FAILED = math.log(LIAR_FAILS / HONEST_FAILS)
PASSED = math.log((1 - LIAR_FAILS) / (1 - HONEST_FAILS))
# The evidence at which a provider is suspect.
SUSPECT_AT = math.log(450)
# And the evidence at which it no longer is: further below, so that nobody swings between the two.
CLEARED_AT = math.log(3)
# The least checks in a row that clear a suspect provider, and how many times as many each time after that.
FIRST_PASSES, RELAPSED = 10, 4
# Two failed checks and none passed make a new provider suspect: it has nothing to lose.
FIRST_FAILED = 2


class StandingReason(StrEnum):
    """Why a provider has its standing."""

    SUSPENDED = "SUSPENDED"
    CHECKS_FAILED = "CHECKS_FAILED"
    GPU_CONTRADICTS = "GPU_CONTRADICTS"
    IMPOSSIBLE_REPORTS = "IMPOSSIBLE_REPORTS"
    UNRELIABLE = "UNRELIABLE"
    TOO_YOUNG = "TOO_YOUNG"
    FEW_CUSTOMERS = "FEW_CUSTOMERS"
    LITTLE_PAID = "LITTLE_PAID"
    FEW_CHECKS = "FEW_CHECKS"
    RELIABILITY_UNPROVEN = "RELIABILITY_UNPROVEN"
    VOUCHED = "VOUCHED"
    EARNED = "EARNED"


SENTENCES = {
    StandingReason.SUSPENDED: "An operator suspended it.",
    StandingReason.CHECKS_FAILED: "Checks of its work failed.",
    StandingReason.GPU_CONTRADICTS: "What its machine reports about its GPUs contradicts itself "
    "or known facts.",
    StandingReason.IMPOSSIBLE_REPORTS: "Its daemon reported ends of jobs that cannot be true.",
    StandingReason.UNRELIABLE: "Most of its attempts fail.",
    StandingReason.TOO_YOUNG: "It registered too lately.",
    StandingReason.FEW_CUSTOMERS: "Too few independent renters have paid for its work.",
    StandingReason.LITTLE_PAID: "Independent renters have paid too little for its work.",
    StandingReason.FEW_CHECKS: "Too few checks of its work have passed.",
    StandingReason.RELIABILITY_UNPROVEN: "Too few of its attempts have succeeded to be sure "
    "of its reliability.",
    StandingReason.VOUCHED: "An operator knows its owner and vouches for it.",
    StandingReason.EARNED: "It earned this standing by its work.",
}
# What lifts each, as sentences with the figures as they are and as they must be.
LIFTS = {
    StandingReason.CHECKS_FAILED: "It must pass {needs} checks in a row.",
    StandingReason.GPU_CONTRADICTS: "Its verification must have no contradiction; see there.",
    StandingReason.IMPOSSIBLE_REPORTS: "Of its newest 50 attempts, {has} ended by an impossible report; "
    "at most {needs} may.",
    StandingReason.UNRELIABLE: "Of its newest attempts, {has} succeeded; about {needs} or more must.",
    StandingReason.TOO_YOUNG: "It registered {has} days ago; {needs} must pass.",
    StandingReason.FEW_CUSTOMERS: "{has} independent renters have paid for its work; {needs} must.",
    StandingReason.LITTLE_PAID: "Independent renters have paid it {has} halala; {needs} must come together.",
    StandingReason.FEW_CHECKS: "{has} checks of its work have passed; {needs} must.",
    StandingReason.RELIABILITY_UNPROVEN: "Its attempts prove a reliability of {has} %; {needs} % are needed.",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What a standing requires; every figure is a least one."""

    standing: Standing
    age_ms: int
    customers: int
    paid_micros: int
    checks: int
    reliability: float
    """The lower bound of the share of attempts that succeeded."""


STEPS = (
    Step(Standing.PROVEN, 7 * DAY_MS, 3, micros(1_000), 5, 0.7),
    Step(Standing.TRUSTED, 60 * DAY_MS, 15, micros(50_000), 60, 0.9),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a provider, all of it measured or decided by others."""

    age_ms: int = 0
    customers: int = 0
    """Independent renters that paid it; see ``independent``."""
    paid_micros: int = 0
    """What these paid it, after the platform's share."""
    checks: tuple[bool, ...] = ()
    """Whether each of its newest checks passed, oldest first."""
    checks_passed: int = 0
    """In all."""
    record: TrackRecord = field(default_factory=TrackRecord)
    impossible_reports: int = 0
    """Among the attempts of the record."""
    gpu_contradicts: bool = False
    is_vouched: bool = False
    """An operator knows who it is."""
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a standing allows at once; None: no bound."""

    slots: int | None
    """Slots that are believed, however many the daemon has."""
    value_micros: int | None
    """Open holds of jobs that named no provider."""
    is_checked: bool = True
    """False: no check passed yet, so that jobs which name nobody come to it only as to a suspect one."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What lifts a standing: a figure as it is and as it must be."""

    reason: StandingReason
    has: int = 0
    needs: int = 0

    @property
    def sentence(self) -> str:
        """The same for people."""
        return LIFTS[self.reason].format(has=self.has, needs=self.needs)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A provider's standing, why, what it allows, and what lifts it."""

    standing: Standing
    reasons: tuple[StandingReason, ...]
    bounds: Bounds
    missing: tuple[Missing, ...] = ()
    """Until the next standing; empty for a trusted provider, and for one that only an operator can lift."""
    lifted_to: Standing | None = None
    """The standing that it would then have."""


def assess(facts: Facts, *, checks_are_on: bool = True) -> Assessment:
    """The standing of a provider; without checks, none are required."""
    if facts.is_suspended:
        return Assessment(Standing.BANNED, (StandingReason.SUSPENDED,), Bounds(0, 0))
    if doubts := tuple(_doubts(facts)):
        bounds = Bounds(1, SUSPECT_VALUE)
        reasons = tuple(doubt.reason for doubt in doubts)
        return Assessment(Standing.SUSPECT, reasons, bounds, doubts, Standing.NEW)
    standing = Standing.NEW
    missing: tuple[Missing, ...] = ()
    for step in STEPS:
        missing = tuple(_missing(facts, step, checks_are_on))
        if missing:
            break
        standing = step.standing
    if facts.is_vouched and standing is Standing.NEW:
        standing = Standing.PROVEN
        missing = tuple(_missing(facts, STEPS[-1], checks_are_on))
        return Assessment(
            standing,
            (StandingReason.VOUCHED,),
            _bounds(standing, facts, checks_are_on),
            missing,
            Standing.TRUSTED,
        )
    reasons = tuple(lack.reason for lack in missing) if standing is Standing.NEW else (StandingReason.EARNED,)
    lifted_to = next((step.standing for step in STEPS if step.standing.level > standing.level), None)
    return Assessment(standing, reasons, _bounds(standing, facts, checks_are_on), missing, lifted_to)


def _doubts(facts: Facts) -> Iterator[Missing]:
    left = passes_until_cleared(facts.checks)
    if left:
        yield Missing(StandingReason.CHECKS_FAILED, 0, left)
    if facts.gpu_contradicts:
        yield Missing(StandingReason.GPU_CONTRADICTS)
    if facts.impossible_reports >= IMPOSSIBLE_REPORTS:
        yield Missing(StandingReason.IMPOSSIBLE_REPORTS, facts.impossible_reports, IMPOSSIBLE_REPORTS - 1)
    record = facts.record
    if record.counted and record.upper < UNRELIABLE_BELOW:
        yield Missing(StandingReason.UNRELIABLE, record.succeeded, math.ceil(record.counted / 2))


def _missing(facts: Facts, step: Step, checks_are_on: bool) -> Iterator[Missing]:
    if facts.age_ms < step.age_ms:
        yield Missing(StandingReason.TOO_YOUNG, facts.age_ms // DAY_MS, step.age_ms // DAY_MS)
    if facts.customers < step.customers:
        yield Missing(StandingReason.FEW_CUSTOMERS, facts.customers, step.customers)
    if facts.paid_micros < step.paid_micros:
        yield Missing(
            StandingReason.LITTLE_PAID, whole_halala(facts.paid_micros), whole_halala(step.paid_micros)
        )
    if checks_are_on and facts.checks_passed < step.checks:
        yield Missing(StandingReason.FEW_CHECKS, facts.checks_passed, step.checks)
    least = facts.record.lower
    if least < step.reliability:
        has, needs = math.floor(100 * least), round(100 * step.reliability)
        yield Missing(StandingReason.RELIABILITY_UNPROVEN, has, needs)


def _bounds(standing: Standing, facts: Facts, checks_are_on: bool) -> Bounds:
    if standing is Standing.TRUSTED:
        return Bounds(None, None)
    if standing is Standing.PROVEN:
        return Bounds(None, PROVEN_VALUE)
    slots = min(NEW_SLOTS, 1 + facts.checks_passed) if checks_are_on else NEW_SLOTS
    return Bounds(slots, NEW_VALUE, not checks_are_on or facts.checks_passed > 0)


def passes_until_cleared(checks: Sequence[bool]) -> int:
    """How many checks in a row a suspect provider must pass; 0 if the checks do not make it suspect.

    The evidence is the logarithm of how much better cheating explains the checks than honesty. It never falls
    below zero: a year of honesty is no more credit than a week of it (a cumulative sum test). Each time that
    a provider becomes suspect again, it must pass ``RELAPSED`` times as many: else it would cheat, wait, and
    cheat again.
    """
    found, is_suspect, passed, in_a_row, least = 0.0, False, 0, 0, FIRST_PASSES
    for number, is_passed in enumerate(checks, 1):
        found = _with(found, is_passed)
        passed += is_passed
        in_a_row = in_a_row + 1 if is_passed else 0
        is_first = not passed and number >= FIRST_FAILED
        if found >= SUSPECT_AT or is_first:
            is_suspect = True
        elif is_suspect and found <= CLEARED_AT and in_a_row >= least:
            is_suspect, least = False, RELAPSED * least
    by_evidence = math.ceil((found - CLEARED_AT) / -PASSED)
    return max(1, by_evidence, least - in_a_row) if is_suspect else 0


def is_doubted(checks: Sequence[bool]) -> bool:
    """Whether checks speak for cheating, but not enough yet: more of them must decide."""
    return evidence(checks) > 0 and not passes_until_cleared(checks)


def evidence(checks: Iterable[bool]) -> float:
    """How much the checks speak for cheating; 0: not at all."""
    found = 0.0
    for is_passed in checks:
        found = _with(found, is_passed)
    return found


def _with(found: float, is_passed: bool) -> float:
    return max(0.0, found + (PASSED if is_passed else FAILED))


@dataclass(frozen=True, slots=True)
class Party:
    """Who somebody is, as far as it can be compared: equal marks mean the same owner.

    Marks are the mailbox, the network of the registration, and the bank account of withdrawals, each with its
    kind in front and none that is empty.
    """

    marks: frozenset[str]
    paid_micros: int = 0


def independent(owner: Party, customers: Iterable[Party]) -> tuple[int, int]:
    """How many independent customers a provider has, and what they paid it.

    Customers that share a mark, also by way of others, are one. Those that share one with the owner are none,
    and so are those of whom nothing is known.
    """
    parents: dict[str, str] = {}

    def root(mark: str) -> str:
        while (parent := parents.setdefault(mark, mark)) != mark:
            parents[mark] = mark = parents[parent]
        return mark

    all_of = list(customers)
    for party in (owner, *all_of):
        first, *others = sorted(party.marks) or [""]
        for mark in others:
            parents[root(mark)] = root(first)
    own = {root(mark) for mark in owner.marks}
    paid: dict[str, int] = {}
    for party in all_of:
        if not party.marks:
            continue
        group = root(min(party.marks))
        paid[group] = paid.get(group, 0) + party.paid_micros
    counted = [amount for group, amount in paid.items() if group not in own and amount >= LEAST_PAID]
    return len(counted), sum(counted)


def network(address: str, secret: Callable[[], bytes]) -> str | None:
    """A digest of the network that an address belongs to; None for an address that is not of the Internet.

    Behind a proxy that is not trusted, every caller has the proxy's address: then nobody is told apart, and
    nobody is taken for another.
    """
    try:
        found = ipaddress.ip_address(address.partition("/")[0])  # limits count an IPv6 network of 64 bits
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if not found.is_global:
        return None
    whole = ipaddress.ip_network((found, PREFIXES[found.version]), strict=False)
    return hmac.new(secret(), str(whole).encode(), hashlib.sha256).hexdigest()[:32]
