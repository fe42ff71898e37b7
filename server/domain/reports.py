"""What can be true of a daemon's report about the end of a run.

A bill and a provider's record follow from these reports, and the provider gains by them. So a reason that the
job cannot have counts as the provider's failure, and counts are bounded by what the server itself stored,
relayed and clocked. This module knows neither bills nor rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.domain.jobs import CHARGED, NEED_IMAGE, FailureReason, Job, JobType
from server.domain.leases import FinishReport, RunOutcome
from server.domain.tokens import choices, is_too_long, max_tokens, most_prompt

# Only a run in a container can end so; so can nothing that a daemon reports be the server's own deadline.
_ONLY_IN_CONTAINERS = frozenset(
    {
        FailureReason.CONTAINER_EXIT,
        FailureReason.OUT_OF_MEMORY,
        FailureReason.DISK_LIMIT,
        FailureReason.PROCESS_LIMIT,
        FailureReason.IMAGE_NOT_ALLOWED,
        FailureReason.IMAGE_PULL_FAILED,
        FailureReason.CONTAINER_START_FAILED,
        FailureReason.OTHER_ARCHITECTURE,
        FailureReason.START_DEADLINE,
    }
)
# Longer text is truncated; only files and pictures can be too large.
_WRITES_TEXT = frozenset({JobType.LLM_INFERENCE, JobType.VLLM_SERVE})
# A bare prompt has no parameters that a model server could reject.
_BARE = frozenset({"model", "prompt"})
# Counts that only a lie makes greater than they can be.
_LIES = frozenset({"prompt_tokens", "cached_tokens", "tokens_per_second"})
# The server's clock begins when the start is reported, which may be later than the start.
_CLOCK_TOLERANCE_MS = 5_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server knows of a run, besides its job."""

    server_ms: int
    """From the receipt of its start to that of its end."""
    context_tokens: int = 0
    """The context of its model, as its provider announced it; 0 if that is not known."""
    written: int = 0
    """What it wrote, as the server stored it: bytes, or vectors."""
    problem: str = ""
    """Why what it wrote cannot be the result, as a sentence; empty if it can."""


@dataclass(frozen=True, slots=True)
class Belief:
    """A report without what cannot be true."""

    reason: FailureReason | None
    """Of a run that failed, or whose report counts against its provider."""
    claim: str
    """Why the report cannot be true, as a sentence; empty if it can."""
    usage: dict[str, Any] | None


def believe(report: FinishReport, job: Job, facts: Facts) -> Belief:
    """What of a report the server takes for true."""
    usage, claim = _bounded(report, job, facts)
    if report.outcome is RunOutcome.FAILED:
        reason = report.failure_reason or FailureReason.ENGINE_FAILED
        if not _is_possible(reason, job, facts):
            claim = f"its daemon reported {reason.value}, with which this job cannot end"
        return Belief(FailureReason.IMPOSSIBLE_REPORT if claim else reason, claim, usage)
    if report.outcome is RunOutcome.SUCCEEDED and facts.problem:
        claim = facts.problem
    elif report.outcome is RunOutcome.CANCELLED and not job.cancel_requested:
        claim = "its daemon cancelled it, and nobody had asked for that"
    return Belief(FailureReason.IMPOSSIBLE_REPORT if claim else None, claim, usage)


def given_back(report: FinishReport, job: Job) -> FailureReason | None:
    """Why a run was given back; None if the reason does not fit the job, which excuses nothing."""
    reason = report.failure_reason
    is_foreign = reason is FailureReason.ENGINE_BUSY and job.job_type in NEED_IMAGE
    return None if is_foreign or (reason is not None and not _fits(reason, job)) else reason


def is_charged(reason: FailureReason, job: Job) -> bool:
    """Whether a run that failed for this reason is charged: the renter's own program or limit ended it."""
    return reason in CHARGED and (reason is FailureReason.DURATION_LIMIT or job.job_type in NEED_IMAGE)


def _is_possible(reason: FailureReason, job: Job, facts: Facts) -> bool:
    if reason is FailureReason.PROMPT_TOO_LONG and facts.context_tokens:
        return is_too_long(job.spec, facts.context_tokens)
    if reason is FailureReason.BAD_PARAMS and job.job_type is JobType.LLM_INFERENCE:
        return not _params(job).keys() <= _BARE
    if reason is FailureReason.CANCELLED:
        return job.cancel_requested
    return _fits(reason, job)


def _fits(reason: FailureReason, job: Job) -> bool:
    """Whether a job of this type can end so."""
    if job.job_type in NEED_IMAGE:
        return True
    if reason is FailureReason.OUTPUT_TOO_LARGE:
        return job.job_type not in _WRITES_TEXT
    return reason not in _ONLY_IN_CONTAINERS


def _bounded(report: FinishReport, job: Job, facts: Facts) -> tuple[dict[str, Any] | None, str]:
    """The counts of a run, each cut to the most that it can be, and why they cannot be true."""
    if report.usage is None:
        return None, ""
    usage = {name: value for name, value in report.usage.items() if name != "bounded"}
    completion = int(usage.get("completion_tokens", 0))
    # A token has at least a byte, and one more ends the answer. Of a truncated output not all was relayed.
    answers = choices(job.spec)
    written = completion if report.output_truncated else facts.written + answers if answers else 0
    prompt = most_prompt(job.spec)
    most = {
        "prompt_tokens": prompt,
        "cached_tokens": min(int(usage.get("prompt_tokens", 0)), prompt),
        "completion_tokens": written,
        "first_token_ms": facts.server_ms + _CLOCK_TOLERANCE_MS,
        "tokens_per_second": 1000 * min(completion, written),
    }
    cut = [name for name, bound in most.items() if usage.get(name, 0) > bound]
    if not cut:
        return usage or None, ""
    usage |= {name: most[name] for name in cut} | {"bounded": cut}
    # What a model thinks is counted and not relayed, and a start may be reported late: these are no lies.
    is_claim = not _LIES.isdisjoint(cut) or _is_over(completion, job)
    return usage, f"its daemon counted what cannot be: {', '.join(cut)}" if is_claim else ""


def _is_over(completion: int, job: Job) -> bool:
    return "max_tokens" in _params(job) and completion > max_tokens(job.spec) + 1


def _params(job: Job) -> dict[str, Any]:
    params: dict[str, Any] = job.spec.get("params", {})
    return params
