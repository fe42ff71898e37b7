"""What can be true of a daemon's report: reasons by the job, counts by what the server itself knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server.domain.jobs import NEED_IMAGE, FailureReason, Job, JobState, JobType
from server.domain.leases import FinishReport, LeaseRef, RunOutcome
from server.domain.pricing import per_minute
from server.domain.reports import Facts, believe, given_back, is_charged
from server.domain.tokens import MESSAGE_TOKENS, TEMPLATE_TOKENS

PROMPT = "Say hello, منى."
PROMPT_BYTES = len(PROMPT.encode())
IMPOSSIBLE = FailureReason.IMPOSSIBLE_REPORT
RAN = Facts(1000, written=20)
CONTAINER_REASONS = (
    FailureReason.CONTAINER_EXIT,
    FailureReason.OUT_OF_MEMORY,
    FailureReason.DISK_LIMIT,
    FailureReason.PROCESS_LIMIT,
    FailureReason.IMAGE_NOT_ALLOWED,
    FailureReason.IMAGE_PULL_FAILED,
    FailureReason.CONTAINER_START_FAILED,
    FailureReason.OTHER_ARCHITECTURE,
)


def job(kind: JobType = JobType.LLM_INFERENCE, **changes: Any) -> Job:
    params = {"model": "m", "prompt": PROMPT, **changes.pop("params", {})}
    values: dict[str, Any] = {
        **dict.fromkeys(
            ("duration_ms", "limit_ms", "start_within_ms", "start_by_ms", "lost_after_ms"), 60_000
        ),
        **dict.fromkeys(("named_provider_id", "ended_ms", "cancel_requested_ms", "bill"), None),
        **dict.fromkeys(("failure_reason", "failure_message", "usage"), None),
        **dict.fromkeys(("priority", "lease_epoch", "attempt", "created_ms", "started_ms", "provider_id"), 1),
    }
    return Job(
        job_id="job-1",
        renter_id=1,
        job_type=kind,
        state=JobState.RUNNING,
        model="m",
        hold_micros=100,
        price=per_minute(100),
        output_truncated=False,
        keeps_files=False,
        content_type="",
        spec={"params": params},
        request_digest="",
        **{**values, "output_bytes": 20, **changes},
    )


def report(outcome: RunOutcome = RunOutcome.SUCCEEDED, **changes: Any) -> FinishReport:
    return FinishReport(LeaseRef("job-1", 1, b""), outcome, 1000, 1, **changes)


def failed(reason: FailureReason) -> FinishReport:
    return report(RunOutcome.FAILED, failure_reason=reason)


@pytest.mark.parametrize("kind", JobType)
@pytest.mark.parametrize("reason", CONTAINER_REASONS)
def test_only_container_jobs_end_as_containers_do(kind: JobType, reason: FailureReason) -> None:
    belief = believe(failed(reason), job(kind), RAN)
    expected = reason if kind in NEED_IMAGE else IMPOSSIBLE
    assert belief.reason is expected
    assert (reason.value in belief.claim) is (expected is IMPOSSIBLE)


def test_text_cannot_be_too_large_and_a_picture_can() -> None:
    too_large = failed(FailureReason.OUTPUT_TOO_LARGE)
    assert believe(too_large, job(), RAN).reason is IMPOSSIBLE
    for kind in (JobType.IMAGE_GENERATION, JobType.RENDERING):
        assert believe(too_large, job(kind), RAN).reason is FailureReason.OUTPUT_TOO_LARGE


@pytest.mark.parametrize(
    ("reason", "inference", "container"),
    [
        (FailureReason.DURATION_LIMIT, True, True),
        (FailureReason.OUTPUT_TOO_LARGE, False, True),
        (FailureReason.OUT_OF_MEMORY, False, True),
        (FailureReason.IMPOSSIBLE_REPORT, False, False),
        (FailureReason.ENGINE_FAILED, False, False),
    ],
)
def test_only_own_programs_and_limits_are_charged(
    reason: FailureReason, inference: bool, container: bool
) -> None:
    assert is_charged(reason, job(JobType.IMAGE_GENERATION)) is inference
    assert is_charged(reason, job(JobType.RENDERING)) is container


@pytest.mark.parametrize("outcome", [RunOutcome.CANCELLED, RunOutcome.FAILED])
def test_cancel_that_nobody_asked_for_is_the_providers_fault(outcome: RunOutcome) -> None:
    reason = FailureReason.CANCELLED if outcome is RunOutcome.FAILED else None
    ended = report(outcome, failure_reason=reason)
    assert believe(ended, job(), RAN).reason is IMPOSSIBLE
    assert believe(ended, job(cancel_requested_ms=5), RAN).reason is reason


def test_prompt_that_fits_into_the_announced_context_is_not_too_long() -> None:
    too_long, most = failed(FailureReason.PROMPT_TOO_LONG), PROMPT_BYTES + TEMPLATE_TOKENS
    assert believe(too_long, job(), Facts(1000, most + 256)).reason is IMPOSSIBLE
    assert believe(too_long, job(), Facts(1000, most + 255)).reason is FailureReason.PROMPT_TOO_LONG
    assert believe(too_long, job(), Facts(1000, 0)).reason is FailureReason.PROMPT_TOO_LONG
    asked = job(params={"max_tokens": 300})
    assert believe(too_long, asked, Facts(1000, most + 299)).reason is FailureReason.PROMPT_TOO_LONG
    talk = job(params={"prompt": "", "messages": [{"role": "user", "content": PROMPT}] * 2})
    longer = 2 * (PROMPT_BYTES + MESSAGE_TOKENS) + TEMPLATE_TOKENS + 256
    assert believe(too_long, talk, Facts(1000, longer)).reason is IMPOSSIBLE
    assert believe(too_long, talk, Facts(1000, longer - 1)).reason is FailureReason.PROMPT_TOO_LONG


def test_bare_prompt_has_no_bad_parameters() -> None:
    bad = failed(FailureReason.BAD_PARAMS)
    assert believe(bad, job(), RAN).reason is IMPOSSIBLE
    asked = job(params={"temperature": 0.5})
    assert believe(bad, asked, RAN).reason is FailureReason.BAD_PARAMS
    assert believe(bad, job(JobType.RENDERING), RAN).reason is FailureReason.BAD_PARAMS


def test_counts_that_can_be_true_stay() -> None:
    counts = {
        "prompt_tokens": PROMPT_BYTES + TEMPLATE_TOKENS,
        "completion_tokens": 21,
        "first_token_ms": 6000,
        "tokens_per_second": 21_000.0,
    }
    belief = believe(report(usage=counts), job(), RAN)
    assert (belief.usage, belief.claim, belief.reason) == (counts, "", None)


@pytest.mark.parametrize(
    ("name", "most", "is_claim"),
    [
        ("prompt_tokens", PROMPT_BYTES + TEMPLATE_TOKENS, True),
        ("completion_tokens", 21, False),  # thoughts are counted and not relayed
        ("first_token_ms", 6000, False),  # the start may have been reported late
        ("tokens_per_second", 3000, True),
    ],
)
def test_counts_are_cut_to_what_they_can_be(name: str, most: int, is_claim: bool) -> None:
    counts = {"completion_tokens": 3} | {name: most + 1}
    belief = believe(report(usage=counts), job(), RAN)
    assert belief.usage == {"completion_tokens": 3} | {name: most, "bounded": [name]}
    assert (belief.reason is IMPOSSIBLE, bool(belief.claim)) == (is_claim, is_claim)


def test_more_tokens_than_were_asked_for_are_a_lie() -> None:
    counts = {"completion_tokens": 31}
    asked = job(params={"max_tokens": 29})
    belief = believe(report(usage=counts), asked, RAN)
    assert (belief.usage, belief.reason) == (
        {"completion_tokens": 21, "bounded": ["completion_tokens"]},
        IMPOSSIBLE,
    )
    within = believe(report(usage={"completion_tokens": 30}), asked, RAN)
    assert (within.usage or {})["bounded"] == ["completion_tokens"]
    assert within.reason is None


def test_truncated_output_may_have_more_tokens_than_were_relayed() -> None:
    counts = {"completion_tokens": 5000}
    assert believe(report(usage=counts, output_truncated=True), job(), RAN).usage == counts


def test_what_a_daemon_says_of_bounds_is_dropped() -> None:
    counts = {"completion_tokens": 3, "bounded": ["prompt_tokens"]}
    assert believe(report(usage=counts), job(), RAN).usage == {"completion_tokens": 3}


def test_foreign_reason_excuses_no_released_run() -> None:
    released = report(RunOutcome.RELEASED)
    for reason, kind, expected in (
        (FailureReason.ENGINE_BUSY, JobType.LLM_INFERENCE, FailureReason.ENGINE_BUSY),
        (FailureReason.ENGINE_BUSY, JobType.RENDERING, None),
        (FailureReason.OTHER_ARCHITECTURE, JobType.RENDERING, FailureReason.OTHER_ARCHITECTURE),
        (FailureReason.OTHER_ARCHITECTURE, JobType.LLM_INFERENCE, None),
        (None, JobType.RENDERING, None),
    ):
        assert given_back(replace(released, failure_reason=reason), job(kind)) is expected
