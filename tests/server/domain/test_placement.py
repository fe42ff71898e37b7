"""Placement: the choice depends on the candidates and not on their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.jobs import JobType
from server.domain.levels import Standing, Unasked
from server.domain.placement import (
    Candidate,
    Model,
    Obstacle,
    Wants,
    able,
    can_run,
    obstacle,
    rank,
    value_left_micros,
)
from server.domain.pricing import Prices, per_minute
from server.domain.providers import ProviderStatus
from server.domain.reliability import TrackRecord

INFERENCE = frozenset({JobType.LLM_INFERENCE})
ABLE = Candidate(5, 1, INFERENCE, (Model("m"),), "NVIDIA RTX 4090", 24576)
WANTS = Wants(JobType.LLM_INFERENCE, "m")
ASKS_120 = Prices({JobType.LLM_INFERENCE: 120})
BEST, GOOD = TrackRecord(50, 50), TrackRecord(45, 50)
PLAIN = replace(ABLE, job_types=INFERENCE | {JobType.TRAINING}, runs_plain_processes=True)
QUOTED_119 = replace(WANTS, quoted=per_minute(119))


@pytest.mark.parametrize(
    ("wants", "able"),
    [
        (WANTS, True),
        (replace(WANTS, job_type=JobType.TRAINING), False),
        (replace(WANTS, model="M"), False),
        (replace(WANTS, model=None), True),
        (replace(WANTS, gpu_model="rtx 4090"), True),
        (replace(WANTS, gpu_model="H100"), False),
        (replace(WANTS, min_vram_mib=24576), True),
        (replace(WANTS, min_vram_mib=24577), False),
    ],
)
def test_provider_can_run_what_it_serves(wants: Wants, able: bool) -> None:
    assert can_run(ABLE, wants) is able


@pytest.mark.parametrize(
    ("candidate", "wants", "expected"),
    [
        (ABLE, WANTS, Obstacle.NONE),
        (replace(ABLE, status=ProviderStatus.OFFLINE), WANTS, Obstacle.NOT_LIVE),
        (replace(ABLE, status=ProviderStatus.PAUSED), WANTS, Obstacle.PAUSED),
        (replace(ABLE, status=ProviderStatus.DRAINING), WANTS, Obstacle.DRAINING),
        (replace(ABLE, status=ProviderStatus.SUSPENDED), WANTS, Obstacle.NOT_ADMITTED),
        (replace(ABLE, status=ProviderStatus.PENDING_APPROVAL), WANTS, Obstacle.NOT_ADMITTED),
        (replace(ABLE, has_session=False), WANTS, Obstacle.NO_SESSION),
        (ABLE, replace(WANTS, job_type=JobType.TRAINING), Obstacle.JOB_TYPE_NOT_SERVED),
        (ABLE, replace(WANTS, model="other"), Obstacle.MODEL_NOT_SERVED),
        (replace(ABLE, hindered={WANTS.job_type: Obstacle.DRIVER_TOO_OLD}), WANTS, Obstacle.DRIVER_TOO_OLD),
        (replace(ABLE, hindered={JobType.TRAINING: Obstacle.TOOLKIT_TOO_OLD}), WANTS, Obstacle.NONE),
        (
            replace(ABLE, job_types=frozenset(), hindered={WANTS.job_type: Obstacle.SELF_TEST_FAILED}),
            WANTS,
            Obstacle.SELF_TEST_FAILED,
        ),
        (
            replace(ABLE, failing_models=frozenset({"other"})),
            replace(WANTS, model="other"),
            Obstacle.SELF_TEST_FAILED,
        ),
        (replace(ABLE, standing=Standing.SUSPECT), WANTS, Obstacle.NONE),
        (ABLE, replace(WANTS, gpu_model="H100"), Obstacle.OTHER_GPU),
        (ABLE, replace(WANTS, min_vram_mib=24577), Obstacle.TOO_LITTLE_VRAM),
        (replace(ABLE, vram_mib=None), replace(WANTS, min_vram_mib=1), Obstacle.VRAM_UNKNOWN),
        (replace(ABLE, vram_mib=None, vram_reserve_mib=1), WANTS, Obstacle.NONE),
        (
            replace(ABLE, vram_mib=None, gpu_model=""),
            replace(WANTS, min_vram_mib=1),
            Obstacle.TOO_LITTLE_VRAM,
        ),
        (replace(ABLE, free_slots=0), WANTS, Obstacle.BUSY),
        (replace(ABLE, has_refused=True), WANTS, Obstacle.REFUSED),
        (replace(ABLE, free_slots=0, has_refused=True), WANTS, Obstacle.BUSY),
        (replace(ABLE, free_slots=0), replace(WANTS, model="other"), Obstacle.MODEL_NOT_SERVED),
        (replace(ABLE, vram_reserve_mib=1), replace(WANTS, min_vram_mib=24575), Obstacle.NONE),
        (replace(ABLE, vram_reserve_mib=1), replace(WANTS, min_vram_mib=24576), Obstacle.VRAM_RESERVED),
        (replace(ABLE, vram_reserve_mib=1), replace(WANTS, min_vram_mib=24577), Obstacle.TOO_LITTLE_VRAM),
        (replace(ABLE, vram_reserve_mib=90_000), WANTS, Obstacle.NONE),
        (replace(ABLE, own_prices=ASKS_120), WANTS, Obstacle.NONE),
        (replace(ABLE, own_prices=ASKS_120), QUOTED_119, Obstacle.RATE_ABOVE_QUOTE),
        (replace(ABLE, own_prices=ASKS_120), replace(QUOTED_119, quoted=per_minute(120)), Obstacle.NONE),
        (replace(ABLE, own_prices=Prices({JobType.TRAINING: 900})), QUOTED_119, Obstacle.NONE),
        (PLAIN, replace(WANTS, job_type=JobType.TRAINING), Obstacle.NONE),
        (PLAIN, replace(QUOTED_119, job_type=JobType.TRAINING), Obstacle.NO_CONTAINERS),
        (PLAIN, replace(WANTS, job_type=JobType.TRAINING, unasked=Unasked.BEST), Obstacle.NO_CONTAINERS),
        (PLAIN, replace(QUOTED_119, unasked=Unasked.BEST), Obstacle.NONE),
        (ABLE, QUOTED_119, Obstacle.NONE),
        (replace(ABLE, is_open=False, is_too_hot=True, free_slots=0), WANTS, Obstacle.OUTSIDE_HOURS),
        (replace(ABLE, is_too_hot=True, free_slots=0), WANTS, Obstacle.TOO_HOT),
        (replace(ABLE, is_open=False, own_prices=ASKS_120), QUOTED_119, Obstacle.RATE_ABOVE_QUOTE),
    ],
)
def test_each_candidate_has_its_obstacle_and_only_temporary_obstacles_allow_the_job(
    candidate: Candidate, wants: Wants, expected: Obstacle
) -> None:
    assert obstacle(candidate, wants) is expected
    assert can_run(candidate, wants) is (expected in {Obstacle.NONE, Obstacle.BUSY, Obstacle.REFUSED})
    assert (choose([candidate], wants) is candidate) is (expected is Obstacle.NONE)


WARM = (Model("m", warm=True),)


def ranked(candidates: Iterable[Candidate], wants: Wants) -> list[Candidate]:
    return sorted(able(candidates, wants), key=lambda candidate: rank(candidate, wants.model))


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("least", [None, *Standing])
def test_job_that_asks_for_a_standing_goes_to_no_lower_one(
    standing: Standing, least: Standing | None
) -> None:
    wants = replace(WANTS, unasked=Unasked.BEST, least_standing=least)
    found = obstacle(replace(ABLE, standing=standing), wants)
    expected = least is None or standing.level >= least.level
    assert found is (Obstacle.NONE if expected else Obstacle.STANDING_TOO_LOW)


def test_value_at_risk_bounds_only_jobs_that_name_no_provider() -> None:
    full = replace(ABLE, value_left_micros=0)
    assert obstacle(full, replace(WANTS, unasked=Unasked.BEST)) is Obstacle.VALUE_AT_RISK
    assert obstacle(full, WANTS) is Obstacle.NONE


def test_one_job_is_allowed_whatever_it_holds() -> None:
    assert value_left_micros(500, 0) is None
    assert value_left_micros(500, 400) == 100
    assert value_left_micros(500, 900) == -400
    assert value_left_micros(None, 900) is None


def choose(candidates: Iterable[Candidate], wants: Wants) -> Candidate | None:
    return next(iter(ranked(candidates, wants)), None)


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        ([], None),
        ([replace(ABLE, free_slots=0)], None),
        ([ABLE, replace(ABLE, provider_id=4)], 4),
        ([ABLE, replace(ABLE, provider_id=9, free_slots=2)], 9),
        ([replace(ABLE, free_slots=9), replace(ABLE, provider_id=6, models=WARM)], 6),
        ([ABLE, replace(ABLE, provider_id=6, models=WARM, record=TrackRecord(1, 10))], 6),
        (
            [
                replace(ABLE, free_slots=9, record=TrackRecord(45, 50)),
                replace(ABLE, provider_id=6, record=BEST),
            ],
            6,
        ),
        ([replace(ABLE, free_slots=9, record=TrackRecord(0, 1)), replace(ABLE, provider_id=6)], 6),
        ([replace(ABLE, provider_id=1, models=(Model("x", warm=True), Model("m"))), ABLE], 1),
        ([replace(ABLE, provider_id=1, job_types=frozenset()), ABLE], 5),
        ([replace(ABLE, provider_id=1, models=WARM, free_slots=9, standing=Standing.SUSPECT), ABLE], 5),
        ([replace(ABLE, standing=Standing.SUSPECT)], 5),
    ],
)
def test_choice_prefers_unsuspected_then_warm_then_reliable_then_free_then_lowest_id(
    candidates: list[Candidate], best: int | None
) -> None:
    chosen = choose(candidates, WANTS)
    assert (chosen and chosen.provider_id) == best


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        provider_id=st.integers(1, 50),
        free_slots=st.integers(0, 3),
        job_types=st.sampled_from([INFERENCE, frozenset()]),
        models=st.sampled_from([(), (Model("m"),), WARM]),
    ),
    unique_by=lambda candidate: candidate.provider_id,
)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_order_of_the_candidates_does_not_matter(candidates: list[Candidate], random: object) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, WANTS) == choose(candidates, WANTS)


@given(CANDIDATES)
def test_a_provider_is_chosen_if_and_only_if_some_provider_can_run_the_job(
    candidates: list[Candidate],
) -> None:
    chosen = choose(candidates, WANTS)
    able = [c for c in candidates if c.free_slots and can_run(c, WANTS)]
    assert (chosen in able) if able else (chosen is None)


@given(CANDIDATES)
def test_ranking_has_every_provider_that_can_run_the_job_and_begins_with_the_choice(
    candidates: list[Candidate],
) -> None:
    order = ranked(candidates, WANTS)
    assert {c.provider_id for c in order} == {
        c.provider_id for c in candidates if c.free_slots and can_run(c, WANTS)
    }
    assert choose(candidates, WANTS) == (order[0] if order else None)
