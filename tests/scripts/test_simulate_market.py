"""The simulated market with liars: they are caught, the honest are not, and it is the checks that do it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.liars.machines import LIARS, Kind
from scripts.liars.market import Market
from scripts.simulate_market import is_good, main, summary

PROVIDERS, JOBS, DAYS = 110, 8_000, 14


def market(seed: int, *, percent: int = 1, liars: float = 0.3) -> dict[str, Any]:
    return summary(Market(PROVIDERS, liars, JOBS, DAYS, seed, percent).run(), seed)


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    return market(1)


def test_liars_are_caught_and_honest_ones_are_not(checked: dict[str, Any]) -> None:
    """One of 28 that cheats rarely may need more checks; the goal of 99 % is for large markets."""
    assert checked["liars_caught_in_time"] >= 0.96
    assert checked["honest_marked"] < 0.01
    assert checked["lost_to_liars_share"] < 0.005


def test_every_kind_of_liar_is_there_and_cheats(checked: dict[str, Any]) -> None:
    kinds = checked["kinds"]
    assert all(kinds[kind.value]["providers"] >= 3 for kind in LIARS)
    impatient = [kind for kind in LIARS if kind not in (Kind.HONEST_FIRST, Kind.COLLUDER, Kind.COLLUDER_WIDE)]
    assert all(kinds[kind.value]["cheated"] for kind in impatient)


def test_without_checks_the_same_liars_are_paid(checked: dict[str, Any]) -> None:
    unchecked = market(1, percent=0)
    assert not is_good(unchecked)
    assert unchecked["liars_caught_in_time"] < 0.7
    assert unchecked["cheated_charges_share"] > 5 * checked["cheated_charges_share"]


def test_an_honest_market_marks_nobody_and_lets_newcomers_rise() -> None:
    honest = market(2, liars=0)
    assert honest["honest_marked"] == 0
    assert honest["lost_to_liars_halala"] == 0
    assert honest["days_until_proven"] < 9


def test_own_renters_of_one_network_make_nobody_proven() -> None:
    run = Market(PROVIDERS, 0.3, JOBS, DAYS, 3, 1).run()
    for machine in run.machines:
        if machine.kind is Kind.COLLUDER and machine.proven_ms is not None:
            strangers = [party for party in machine.customers if party not in machine.own_renters]
            assert len(strangers) >= 3


def test_the_same_seed_gives_the_same_market(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for _ in range(2):
        main(["--providers", "60", "--jobs", "1000", "--days", "5", "--seed", "4", "--json"])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["jobs"] > 800


def test_the_table_names_every_kind_and_the_goals(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--providers", "60", "--jobs", "1000", "--days", "5", "--seed", "4"])
    out = capsys.readouterr().out
    for kind in Kind:
        assert kind.value in out
    assert "honest ones marked" in out
