"""The queue: a job's place, its estimate, and the condition that it waits for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.jobs import JobState, JobType
from server.domain.placement import Candidate, Model, Obstacle, Wants
from server.domain.queue import (
    JobCondition,
    Occupancy,
    Prospect,
    Waiting,
    condition,
    free_in_ms,
    prospect,
)

KINDS = frozenset({JobType.LLM_INFERENCE})


def provider(provider_id: int, *free: int, models: str = "m") -> Occupancy:
    """A provider whose slots become free at these times, and whose models have one-letter names."""
    served = tuple(Model(name) for name in models)
    return Occupancy(Candidate(provider_id, sum(at == 0 for at in free), KINDS, served), free)


def waiting(limit_ms: int = 60, model: str = "m", named: int | None = None) -> Waiting:
    return Waiting("job", named, Wants(JobType.LLM_INFERENCE, model), limit_ms)


@pytest.mark.parametrize(
    ("slots", "left", "free"),
    [
        (0, [], ()),
        (2, [], (0, 0)),
        (2, [70], (0, 70)),
        (2, [90, 70], (70, 90)),
        (1, [70, 90], (90,)),  # fewer slots than running jobs: both must end
        (0, [70], ()),
    ],
)
def test_slots_become_free_after_the_remaining_time_of_the_runs(
    slots: int, left: list[int], free: object
) -> None:
    assert free_in_ms(slots, left) == free


@pytest.mark.parametrize(
    ("before", "present", "expected"),
    [
        ([], [], Prospect(1, None)),
        ([waiting(), waiting(model="x")], [], Prospect(2, None)),
        ([], [provider(1, 0)], Prospect(1, 0)),
        ([], [provider(1, 70)], Prospect(1, 70)),
        ([], [provider(1)], Prospect(1, None)),
        ([], [provider(1, 0, models="x")], Prospect(1, None)),
        ([waiting(60)], [provider(1, 70)], Prospect(2, 130)),
        ([waiting(60), waiting(10)], [provider(1, 70, 100)], Prospect(3, 110)),
        ([waiting(60)], [provider(1, 70), provider(2, 80)], Prospect(2, 80)),
        ([waiting(60, "x")], [provider(1, 70)], Prospect(1, 70)),
        ([waiting(60, "x")], [provider(1, 70, models="mx")], Prospect(2, 130)),
        ([waiting(60, named=2)], [provider(1, 70), provider(2, 10)], Prospect(2, 70)),
        ([waiting(60, named=3)], [provider(1, 70)], Prospect(1, 70)),
    ],
)
def test_place_and_estimate_of_a_job(
    before: list[Waiting], present: list[Occupancy], expected: Prospect
) -> None:
    assert prospect(waiting(), before, present) == expected


def test_job_that_names_a_provider_waits_only_for_it() -> None:
    job = waiting(named=2)
    assert prospect(job, [], [provider(1, 0), provider(2, 70)]) == Prospect(1, 70)


JOBS = st.lists(st.builds(waiting, st.integers(1, 100), st.sampled_from("mx")), max_size=8)
PRESENT = st.lists(
    st.builds(
        lambda free, models: (free, models),
        st.lists(st.integers(0, 100), max_size=3),
        st.sampled_from(["m", "x", "mx"]),
    ),
    max_size=4,
)


@given(JOBS, PRESENT, st.integers(1, 100))
def test_another_job_before_it_never_makes_a_job_start_earlier(
    before: list[Waiting], present: list[tuple[list[int], str]], limit_ms: int
) -> None:
    servers = [provider(number, *free, models=models) for number, (free, models) in enumerate(present)]
    now, later = (prospect(waiting(), jobs, servers) for jobs in (before, [*before, waiting(limit_ms)]))
    assert now.position is not None
    assert later.position == now.position + 1
    assert (later.start_in_ms is None) == (now.start_in_ms is None)
    assert (later.start_in_ms or 0) >= (now.start_in_ms or 0)


@pytest.mark.parametrize(
    ("is_named", "obstacles", "expected"),
    [
        (False, {Obstacle.NONE, Obstacle.BUSY}, JobCondition.NEXT),
        (False, {Obstacle.REFUSED, Obstacle.BUSY}, JobCondition.NEXT),
        (False, {Obstacle.BUSY, Obstacle.NOT_LIVE}, JobCondition.ALL_BUSY),
        (False, {Obstacle.NOT_LIVE, Obstacle.MODEL_NOT_SERVED}, JobCondition.NO_PROVIDER),
        (False, set(), JobCondition.NO_PROVIDER),
        (True, {Obstacle.BUSY}, JobCondition.PROVIDER_BUSY),
        (True, {Obstacle.NOT_LIVE}, JobCondition.PROVIDER_AWAY),
        (True, {Obstacle.NO_SESSION}, JobCondition.PROVIDER_AWAY),
        (True, {Obstacle.PAUSED}, JobCondition.PROVIDER_AWAY),
        (True, {Obstacle.OUTSIDE_HOURS}, JobCondition.PROVIDER_AWAY),
        (True, {Obstacle.TOO_HOT}, JobCondition.PROVIDER_AWAY),
        (False, {Obstacle.OUTSIDE_HOURS, Obstacle.RATE_ABOVE_QUOTE}, JobCondition.NO_PROVIDER),
        (True, {Obstacle.MODEL_NOT_SERVED}, JobCondition.NO_PROVIDER),
    ],
)
def test_condition_of_a_queued_job_follows_from_the_obstacles(
    is_named: bool, obstacles: set[Obstacle], expected: JobCondition
) -> None:
    assert condition(JobState.QUEUED, is_named, obstacles) is expected


def test_every_state_has_a_condition() -> None:
    assert {condition(state, False, {Obstacle.NONE}) for state in JobState} == {
        JobCondition.NEXT,
        JobCondition.STARTING,
        JobCondition.RUNNING,
        JobCondition.COMPLETED,
        JobCondition.FAILED,
        JobCondition.CANCELLED,
    }
