"""When a provider is checked, and what the end of a check says by itself."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from server.domain import canaries as rules
from server.domain.canaries import AT_FIRST, BELIEVED, DAY_MS, CanaryFault, CanaryVerdict, Known, chance
from server.domain.equality import AGAINST, Answer
from server.domain.jobs import FailureReason, Job, JobState, JobType

OLD = Known(asked=100, is_settled=True)


def a_day(known: Known, percent: int = 1) -> float:
    """How many canaries a provider gets on average in a day."""
    return -math.log(1 - chance(known, percent, 1000)) * DAY_MS / 1000


@pytest.mark.parametrize(
    ("known", "percent", "expected"),
    [
        (OLD, 1, 3),
        (replace(OLD, jobs_a_day=100), 1, 3),
        (replace(OLD, jobs_a_day=1_000), 1, 10),
        (replace(OLD, jobs_a_day=1_000), 5, 50),
        (replace(OLD, is_doubted=True), 1, 75),
        (replace(OLD, is_doubted=True, jobs_a_day=1_000), 1, 250),
    ],
)
def test_canaries_follow_the_jobs_and_come_much_more_often_after_a_failed_one(
    known: Known, percent: int, expected: float
) -> None:
    assert a_day(known, percent) == pytest.approx(expected, rel=0.01)


def test_new_provider_is_checked_at_once_until_there_is_a_verdict() -> None:
    assert [chance(Known(asked), 1, 0) for asked in range(AT_FIRST)] == [1] * AT_FIRST
    assert chance(Known(AT_FIRST), 1, 0) == 0
    assert chance(Known(1, is_settled=True), 1, 0) == 0


def test_new_provider_that_failed_is_checked_at_once_until_that_is_confirmed_or_enough() -> None:
    due = [chance(Known(asked, is_doubted=True), 1, 0) for asked in range(100)]
    assert due == [1] * rules.AT_FIRST_IN_DOUBT + [0] * (100 - rules.AT_FIRST_IN_DOUBT)


def test_silence_of_the_market_is_not_made_up_for() -> None:
    assert chance(OLD, 1, 30 * DAY_MS) == chance(OLD, 1, 3600 * 1000) < 0.15


@pytest.mark.parametrize("known", [Known(), OLD, replace(OLD, is_doubted=True)])
def test_nobody_is_checked_without_a_budget(known: Known) -> None:
    assert chance(known, 0, DAY_MS) == 0


def job(**changes: Any) -> Job:
    """A completed job."""
    values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    values |= {
        "state": JobState.COMPLETED,
        "job_type": JobType.LLM_INFERENCE,
        "spec": {"params": {"max_tokens": 100}},
    }
    return Job(**(values | changes))


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        (FailureReason.ENGINE_FAILED, None),
        (FailureReason.DURATION_LIMIT, CanaryFault.NO_ANSWER),
        (FailureReason.IMPOSSIBLE_REPORT, CanaryFault.NO_ANSWER),
        (FailureReason.PROVIDER_LOST, None),
        (FailureReason.PROVIDER_DRAINED, None),
        (FailureReason.GPU_FAILED, None),
        (FailureReason.START_DEADLINE, None),
        (FailureReason.IMAGE_PULL_FAILED, None),
    ],
)
def test_only_a_failure_that_a_liar_would_choose_is_a_failed_check(
    reason: FailureReason, fault: CanaryFault | None
) -> None:
    found = rules.by_end(job(state=JobState.FAILED, failure_reason=reason), "")
    assert found == (rules.failed(fault) if fault is not None else rules.UNDECIDED)


@pytest.mark.parametrize(
    ("tokens", "is_possible"), [(0, True), (8, False), (20, True), (101, True), (102, False)]
)
def test_count_of_tokens_must_fit_the_text_and_the_request(tokens: int, is_possible: bool) -> None:
    found = rules.by_end(job(usage={"completion_tokens": tokens}), "word " * 80)
    assert found == (None if is_possible else rules.failed(CanaryFault.TOKENS_IMPOSSIBLE))


def test_speed_is_compared_only_with_several_others() -> None:
    assert not rules.is_too_slow(1, [100])
    assert not rules.is_too_slow(34, [100, 100])
    assert rules.is_too_slow(33, [100, 100])
    assert not rules.is_too_slow(None, [100, 100])


def test_command_of_a_computation_writes_what_is_expected() -> None:
    """By a real shell."""
    done = subprocess.run(rules.command("seed", 5), capture_output=True, check=True)
    assert done.stdout.decode().strip() == rules.computed("seed", 5)


def test_weight_of_a_provider_has_a_limit() -> None:
    assert [rules.weight(passed) for passed in (0, 1, 9, 1_000)] == [1, 2, 10, 10]


RIGHT = "A goat is an animal of the mountains, which gives milk and wool to those who keep it."
WRONG = "The capital of the country lies beside a river, and many roads lead from there to the sea."


def wrong(count: int, weight: int = 1) -> list[Answer]:
    """Answers of others that agree on another text."""
    return [Answer(WRONG, weight) for _ in range(count)]


NEW, OLDER = Answer(RIGHT), Answer(RIGHT, BELIEVED)


@pytest.mark.parametrize(
    ("others", "earlier", "is_last", "expected"),
    [
        ([], [], False, CanaryVerdict.WAITING),
        ([], [], True, CanaryVerdict.WAITING),  # nobody to compare with, however long it lasts
        ([NEW, NEW], [], False, CanaryVerdict.WAITING),
        ([NEW], [], True, CanaryVerdict.PASSED),
        ([OLDER], [], False, CanaryVerdict.PASSED),
        ([OLDER, Answer(WRONG, 9)], [], False, CanaryVerdict.WAITING),
        (wrong(AGAINST - 1, 9), [], False, CanaryVerdict.WAITING),
        (wrong(AGAINST), [], False, CanaryVerdict.WAITING),  # one who has the same build may come
        (wrong(AGAINST), [], True, CanaryVerdict.FAILED),
        ([*wrong(AGAINST), NEW], [], False, CanaryVerdict.WAITING),  # one has the same build
        ([Answer(f"{n} {n} {n}") for n in range(AGAINST)], [], True, CanaryVerdict.WAITING),
        (wrong(2), [], True, CanaryVerdict.UNDECIDED),
        (wrong(2), [0.0], True, CanaryVerdict.UNDECIDED),
        (wrong(2), [0.0, 0.0], True, CanaryVerdict.FAILED),
        (wrong(2), [0.0, 0.6], True, CanaryVerdict.UNDECIDED),
        # Another owner gives the same answers: a build that parts now and then, or two of a kind.
        ([NEW, *wrong(4)], [0.0] * 3, True, CanaryVerdict.UNDECIDED),
        ([NEW, *wrong(4)], [0.0] * 7, True, CanaryVerdict.FAILED),
    ],
)
def test_answer_is_judged_by_those_of_others(
    others: list[Answer], earlier: list[float], is_last: bool, expected: CanaryVerdict
) -> None:
    assert rules.by_answers(NEW, others, earlier, is_last=is_last).verdict is expected


def test_each_owner_has_one_voice_and_the_provider_itself_none() -> None:
    def mark(*names: str) -> frozenset[str]:
        return frozenset(names)

    answers = [
        (Answer("own", 9), mark("a", "b")),
        (Answer("light"), mark("c")),
        (Answer("weighty", 5), mark("c", "d")),
        (Answer("another"), mark("e")),
    ]
    assert [each.text for each in rules.voices(mark("b"), answers)] == ["weighty", "another"]


def test_twice_as_many_are_asked_each_time_up_to_a_limit() -> None:
    asked = [1]
    while more := rules.to_ask(asked[-1]):
        asked.append(asked[-1] + more)
    assert asked == [1, 2, 4, 8, 16, 32, 33]
