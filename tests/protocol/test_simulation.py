"""The simulator of scripts/simulate: it finds nothing in the programs, and it finds what is planted.

The seed of the long run is a new one each time, and a failure names it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest

from daemon.journal.journal import Journal
from scripts.simulate import simulate, trace
from scripts.simulation.schedule import Outcome, run
from scripts.simulation.shrink import shrink
from server.store import leases
from tests.support.lengths import lengths

LOOKED_AT = 200


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """The programs warn of every fault, and faults are all that happens here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_violation(seed: int) -> Outcome:
    outcomes = (run(seed, index) for index in range(LOOKED_AT))
    return next(outcome for outcome in outcomes if outcome.invariant)


@lengths("schedules", short=100, full=500)
def test_nothing_is_lost_and_nothing_runs_or_bills_twice_whatever_happens(schedules: int) -> None:
    seed = random.randrange(2**32)
    summary = simulate(seed, schedules, workers=2)
    again = f"python -m scripts.simulate --schedules {schedules} --seed {seed}"
    logging.disable(logging.NOTSET)
    logging.getLogger(__name__).warning("simulated: %s", again)
    assert [(found.index, found.detail) for found in summary.violations] == [], again
    assert len(summary.faults) >= 20, "kinds of faults are missing, so that they prove nothing"
    assert min(summary.faults.values()) > 0


def test_digest_is_that_of_the_seed_however_many_work_on_it() -> None:
    one, again, two = simulate(1, 24), simulate(1, 24), simulate(1, 24, workers=2)
    assert one.digest == again.digest == two.digest
    assert one.faults == two.faults
    assert one.digest != simulate(2, 24).digest


def test_same_schedule_leaves_the_same_trace() -> None:
    assert trace(1, 3) == trace(1, 3)


def test_planted_fault_is_found_and_its_trace_made_short(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever names a lease may write about it, however old its session is.
    monkeypatch.setattr(leases, "end", lambda *args, **kwargs: True)
    found = first_violation(1)
    actions = shrink(1, found, seconds=20)
    assert len(actions) < 20 <= len(found.actions)
    assert trace(1, found.index, actions)[-1].startswith(f"VIOLATED: {found.invariant}")


def test_journal_that_writes_nothing_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_sync", lambda self, name: None)
    assert first_violation(1).invariant == "a daemon remembers what it told"
