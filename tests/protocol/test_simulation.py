"""The simulator of scripts/simulate finds no violation in the programs, and finds planted faults.

The long run uses a new random seed each time, and a failure shows it.
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

# Schedules that once violated an invariant, as seed and index, each with the fault that was behind it. Since
# messages of a stream meet in the simulator, these seeds draw other actions than those that violated.
VIOLATED = {
    (
        1,
        3527,
    ): "a dead process's late Hello took a lease over, and its successor's result was stale",
    (2198, 366): "a result that a killed daemon had written and not synced was reported and then lost",
    (2198, 731): "a lease's file that a killed daemon had not synced was read and then lost",
    (31004, 44): "the same, of a lease that was cancelled before it started",
    (4050479253, 39): "heartbeats after the end of a run, whose result was lost, counted as time of the run",
    (1688471029, 885): "the checks counted a result as known that the server had received and not stored",
    (135862718, 588): "the same, of a result that was being handled when its lease was lost",
    (31005, 366): "a result that came while the database was down was not waited for when it was back",
}
LOOKED_AT = 200


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Silences the logs: the programs log a warning for every fault, and the simulator injects many."""
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
    assert len(summary.faults) >= 20, "some kinds of faults did not happen, so the run does not prove enough"
    assert min(summary.faults.values()) > 0


@pytest.mark.parametrize(("seed", "index"), VIOLATED)
def test_schedule_that_once_violated_is_clean(seed: int, index: int) -> None:
    outcome = run(seed, index)
    assert outcome.detail == "", VIOLATED[seed, index]


def test_digest_depends_on_the_seed_and_not_on_the_number_of_workers() -> None:
    # A worker takes eight schedules at a time, so sixteen are the fewest that two workers share.
    first, again, parallel = simulate(1, 16), simulate(1, 16), simulate(1, 16, workers=2)
    assert first.digest == again.digest == parallel.digest
    assert first.faults == parallel.faults
    assert simulate(1, 1).digest != simulate(2, 1).digest


def test_same_schedule_leaves_the_same_trace() -> None:
    run(1, 3)  # what a process does once, such as migrating its first database, is no part of a trace
    assert trace(1, 3) == trace(1, 3)


def test_planted_fault_is_found_and_its_trace_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    # With this fault, any session that names a lease may write about it, however old the session is.
    monkeypatch.setattr(leases, "end", lambda *args, **kwargs: True)
    found = first_violation(1)
    actions = shrink(1, found, seconds=20)
    assert len(actions) < 20 <= len(found.actions)
    assert trace(1, found.index, actions)[-1].startswith(f"VIOLATED: {found.invariant}")


def test_journal_that_writes_nothing_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_sync", lambda self: None)
    assert first_violation(1).invariant == "a daemon remembers what it told"
