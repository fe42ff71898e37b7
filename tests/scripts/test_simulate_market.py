"""The simulated market with liars: they are caught, the honest are not, and it is the checks that do it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.liars.machines import HIDDEN, LIARS, PATIENT, Kind
from scripts.liars.market import Market
from scripts.simulate_market import is_good, main, summary

PROVIDERS, JOBS, DAYS = 120, 5_000, 12


def market(seed: int, *, percent: int = 1, liars: float = 0.3) -> dict[str, Any]:
    return summary(Market(PROVIDERS, liars, JOBS, DAYS, seed, percent).run(), seed)


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    return market(1)


def test_liars_are_caught_and_honest_ones_are_not(checked: dict[str, Any]) -> None:
    """The goal of 99 % is for large markets: here one liar is four of a hundred."""
    assert checked["liars_caught_in_time"] >= 0.9
    assert checked["honest_marked"] < 0.02
    assert checked["lost_to_liars_share"] < 0.005


def test_every_kind_of_liar_is_there_and_cheats(checked: dict[str, Any]) -> None:
    kinds = checked["kinds"]
    assert all(kinds[kind.value]["providers"] >= 2 for kind in LIARS)
    assert all(kinds[kind.value]["cheated"] for kind in LIARS if kind not in PATIENT)


def test_without_checks_the_same_liars_are_paid(checked: dict[str, Any]) -> None:
    unchecked = market(1, percent=0)
    assert not is_good(unchecked)
    assert unchecked["liars_caught_in_time"] < 0.7
    assert unchecked["cheated_charges_share"] > 5 * checked["cheated_charges_share"]


def test_an_honest_market_loses_nothing_and_lets_newcomers_rise() -> None:
    honest = market(2, liars=0)
    assert honest["honest_marked"] <= 0.02
    assert honest["lost_to_liars_halala"] == 0
    assert honest["days_until_proven"] < 9


def test_who_slows_down_a_little_is_counted_apart(checked: dict[str, Any]) -> None:
    kinds = checked["kinds"]
    assert all(kinds[kind.value]["cheated_jobs"] for kind in HIDDEN)
    others = (kind for kind in LIARS if kind not in HIDDEN)
    assert checked["liars_that_cheated"] == sum(kinds[kind.value]["cheated"] for kind in others)


def test_the_same_seed_gives_the_same_market(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for _ in range(2):
        main(["--providers", "40", "--jobs", "500", "--days", "3", "--seed", "4", "--json"])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["jobs"] > 400


def test_the_table_names_every_kind_and_the_goals(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--providers", "40", "--jobs", "500", "--days", "3", "--seed", "4"])
    out = capsys.readouterr().out
    for kind in Kind:
        assert kind.value in out
    assert "honest ones marked" in out
