"""A provider's standing follows from checked facts alone, and says what lifts it."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.levels import Standing
from server.domain.money import micros
from server.domain.reliability import TrackRecord
from server.domain.standing import (
    DAY_MS,
    FIRST_PASSES,
    STEPS,
    Facts,
    Party,
    StandingReason,
    assess,
    independent,
    passes_until_cleared,
)

PROVEN = Facts(
    age_ms=7 * DAY_MS,
    customers=3,
    paid_micros=micros(1_000),
    checks=(True,) * 5,
    checks_passed=5,
    record=TrackRecord(20, 20),
)
TRUSTED = Facts(
    age_ms=60 * DAY_MS,
    customers=15,
    paid_micros=micros(50_000),
    checks=(True,) * 60,
    checks_passed=60,
    record=TrackRecord(50, 50),
)


def test_an_unknown_provider_is_new_with_one_slot_and_learns_what_it_lacks() -> None:
    found = assess(Facts())
    assert found.standing is Standing.NEW
    assert found.bounds.slots == 1
    assert found.bounds.value_micros
    assert found.lifted_to is Standing.PROVEN
    assert {(lack.reason, lack.has, lack.needs) for lack in found.missing} == {
        (StandingReason.TOO_YOUNG, 0, 7),
        (StandingReason.FEW_CUSTOMERS, 0, 3),
        (StandingReason.LITTLE_PAID, 0, 1_000),
        (StandingReason.FEW_CHECKS, 0, 5),
        (StandingReason.RELIABILITY_UNPROVEN, 0, 70),
    }


@pytest.mark.parametrize(("passed", "slots"), [(0, 1), (1, 2), (2, 3), (3, 4), (50, 4)])
def test_each_passed_check_of_a_new_provider_makes_one_more_slot_believed_up_to_four(
    passed: int, slots: int
) -> None:
    assert assess(Facts(checks_passed=passed)).bounds.slots == slots


def test_without_checks_a_new_provider_has_four_slots_and_needs_none_of_them() -> None:
    assert assess(Facts(), checks_are_on=False).bounds.slots == 4
    unchecked = replace(PROVEN, checks=(), checks_passed=0)
    assert assess(unchecked, checks_are_on=False).standing is Standing.PROVEN
    assert assess(unchecked).standing is Standing.NEW


@pytest.mark.parametrize(("facts", "standing"), [(PROVEN, Standing.PROVEN), (TRUSTED, Standing.TRUSTED)])
@pytest.mark.parametrize(
    "less",
    [
        {"age_ms": 0},
        {"customers": 2},
        {"paid_micros": micros(999)},
        {"checks_passed": 4},
        {"record": TrackRecord(3, 3)},
    ],
)
def test_a_standing_needs_every_one_of_its_figures(
    facts: Facts, standing: Standing, less: dict[str, Any]
) -> None:
    assert assess(facts).standing is standing
    assert not assess(replace(facts, **less)).standing.reaches(standing)


def test_a_vouched_provider_is_proven_at_once_but_not_in_spite_of_failed_checks() -> None:
    assert assess(Facts(is_vouched=True)).standing is Standing.PROVEN
    assert assess(Facts(is_vouched=True)).reasons == (StandingReason.VOUCHED,)
    assert assess(Facts(is_vouched=True, checks=(False, False))).standing is Standing.SUSPECT


@pytest.mark.parametrize(
    ("doubt", "reason"),
    [
        ({"checks": (False, False)}, StandingReason.CHECKS_FAILED),
        ({"checks": (True,) * 90 + (False,) * 3}, StandingReason.CHECKS_FAILED),
        ({"gpu_contradicts": True}, StandingReason.GPU_CONTRADICTS),
        ({"impossible_reports": 3}, StandingReason.IMPOSSIBLE_REPORTS),
        ({"record": TrackRecord(0, 4)}, StandingReason.UNRELIABLE),
        ({"record": TrackRecord(15, 50)}, StandingReason.UNRELIABLE),
    ],
)
def test_a_doubt_makes_even_a_trusted_provider_suspect(doubt: dict[str, Any], reason: StandingReason) -> None:
    found = assess(replace(TRUSTED, **doubt))
    assert (found.standing, found.reasons) == (Standing.SUSPECT, (reason,))
    assert found.bounds.slots == 1


def test_a_suspended_provider_is_banned_and_gets_nothing() -> None:
    found = assess(replace(TRUSTED, is_suspended=True, gpu_contradicts=True))
    assert (found.standing, found.bounds.slots, found.bounds.value_micros) == (Standing.BANNED, 0, 0)


def test_one_failed_check_marks_nobody_and_years_of_honesty_are_no_credit() -> None:
    assert not passes_until_cleared([False])
    assert not passes_until_cleared([True] * 5 + [False] * 2)
    assert passes_until_cleared([True] * 5 + [False] * 3)
    assert passes_until_cleared([True] * 5000 + [False] * 3)


@given(st.lists(st.booleans(), max_size=60))
def test_the_checks_that_a_suspect_needs_are_those_that_clear_it(checks: list[bool]) -> None:
    left = passes_until_cleared(checks)
    if left and any(checks):
        assert passes_until_cleared([*checks, *[True] * (left - 1)]) == (1 if left > 1 else left)
    assert not passes_until_cleared([*checks, *[True] * left])


def test_who_becomes_suspect_again_must_pass_four_times_as_many_checks() -> None:
    checks: tuple[bool, ...] = (True,) * 5
    needed: list[int] = []
    for _ in range(4):
        checks += (False,) * 3
        needed.append(passes_until_cleared(checks))
        assert passes_until_cleared(checks + (True,) * (needed[-1] - 1)) == 1
        checks += (True,) * needed[-1]
        assert not passes_until_cleared(checks)
    assert needed[2:] == [16 * FIRST_PASSES, 64 * FIRST_PASSES]
    assert needed[0] < needed[1] < needed[2]


def test_a_provider_that_fails_one_check_of_two_hundred_is_hardly_ever_marked() -> None:
    marked = 0
    for seed in range(500):
        draw = random.Random(seed)
        checks = [draw.random() >= 0.005 for _ in range(200)]
        marked += any(passes_until_cleared(checks[:end]) for end in range(1, 201) if not checks[end - 1])
    assert marked < 5


def test_a_provider_that_cheats_in_half_of_its_work_is_caught_within_twenty_checks() -> None:
    caught = 0
    for seed in range(1000):
        draw = random.Random(seed)
        checks = [draw.random() >= 0.5 for _ in range(20)]
        caught += any(passes_until_cleared(checks[:end]) for end in range(1, 21))
    assert caught >= 990


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_bounds_of_a_share_enclose_it_and_close_in_with_attempts(succeeded: int, failed: int) -> None:
    counted = succeeded + failed
    share = succeeded / counted if counted else 0.5
    assert 0 <= TrackRecord(succeeded, counted).lower <= share + 1e-9
    assert share - 1e-9 <= TrackRecord(succeeded, counted).upper <= 1
    if counted:
        wide = TrackRecord(succeeded, counted).upper - TrackRecord(succeeded, counted).lower
        assert (
            TrackRecord(succeeded * 10, counted * 10).upper - TrackRecord(succeeded * 10, counted * 10).lower
            <= wide
        )


def test_nothing_is_known_of_a_provider_without_attempts() -> None:
    assert (TrackRecord().lower, TrackRecord().upper) == (0.0, 1.0)


def party(*marks: str, paid: int = 500) -> Party:
    return Party(frozenset(marks), micros(paid))


def test_customers_that_share_a_mark_with_the_owner_or_with_each_other_count_once_or_not_at_all() -> None:
    owner = Party(frozenset({"mail o", "network 1", "iban 9"}))
    customers = [
        party("mail a", "network 1"),  # the owner's network
        party("mail b", "network 2"),
        party("mail c", "network 2"),  # the same as b
        party("mail d", "network 3"),
        party("mail d2", "network 4"),
        party("mail d2", "network 3"),  # joins d and d2
        party("mail e", "network 5", paid=99),  # too little
        party(),  # nobody knows who
    ]
    assert independent(owner, customers) == (2, micros(1_000 + 1_500))


def test_a_customer_that_joins_the_owner_by_way_of_another_is_none() -> None:
    owner = Party(frozenset({"mail o"}))
    assert independent(owner, [party("mail o", "network 1"), party("mail a", "network 1")]) == (0, 0)


@given(st.lists(st.tuples(st.sets(st.integers(0, 12), max_size=3), st.integers(0, 400)), max_size=12))
def test_the_order_of_the_customers_changes_nothing(drawn: list[tuple[set[int], int]]) -> None:
    customers = [Party(frozenset(f"m {mark}" for mark in marks), paid) for marks, paid in drawn]
    owner = Party(frozenset({"m 0"}))
    assert independent(owner, customers) == independent(owner, customers[::-1])


@given(st.integers(1, 40))
def test_accounts_of_one_owner_never_count_as_more_than_one_customer(number: int) -> None:
    owner = Party(frozenset({"mail o", "network o"}))
    sybils = [party(f"mail {index}", "network s") for index in range(number)]
    assert independent(owner, sybils)[0] == 1
    assert independent(owner, [party(f"mail {index}", "network o") for index in range(number)]) == (0, 0)


def test_each_step_asks_for_more_than_the_one_before() -> None:
    for before, after in itertools.pairwise(STEPS):
        assert after.standing.level > before.standing.level
        assert (after.age_ms, after.customers, after.checks) > (
            before.age_ms,
            before.customers,
            before.checks,
        )
