"""The spans of a job and its attempts: derived from the trace that it was submitted in, and from its rows.

A job is worked on in many calls and streams, of several servers and through restarts. So its row keeps the
traceparent of the call that submitted it, the ids of its spans follow from it, and a span is noted when its
end is stored, by the server that stores it; `counted` has it sent after the commit.
"""

from __future__ import annotations

from common.tracing import Link, Past, Value, parse
from server.domain.jobs import FailureReason, Job
from server.domain.leases import Lease, LeaseOutcome
from server.store import counted


def offered_in(job: Job, lease_epoch: int) -> str:
    """The traceparent of an attempt, for its daemon; empty for a job that is not traced."""
    link = parse(job.trace) if job.trace else None
    return _of_job(link, job.job_id).derived(lease_epoch).header if link is not None else ""


def note_attempt(
    trace: str, lease: Lease, outcome: LeaseOutcome, reason: FailureReason | None, now_ms: int
) -> None:
    """Notes the span of an attempt that ends, of a job with this trace."""
    link = parse(trace) if trace else None
    if link is None:
        return
    above = _of_job(link, lease.job_id)
    steps = (
        ("accepted", lease.accepted_ms),
        ("started", lease.started_ms),
        ("first output", lease.first_output_ms),
    )
    attributes: dict[str, Value] = {
        "dcp.job_id": lease.job_id,
        "dcp.lease_epoch": lease.lease_epoch,
        "dcp.provider_id": lease.provider_id,
        "dcp.outcome": outcome.value,
    }
    if reason is not None:
        attributes["error.type"] = reason.value
    counted.note_span(
        Past(
            "attempt",
            above.derived(lease.lease_epoch),
            above,
            lease.offered_ms,
            now_ms,
            attributes,
            [(name, at_ms) for name, at_ms in steps if at_ms is not None],
            is_error=outcome in (LeaseOutcome.FAILED, LeaseOutcome.LOST),
        )
    )


def note_job(job: Job, state: str, reason: FailureReason | None, now_ms: int) -> None:
    """Notes the span of a job that ends in a state, and is settled with that."""
    link = parse(job.trace) if job.trace else None
    if link is None:
        return
    attributes: dict[str, Value] = {
        "dcp.job_id": job.job_id,
        "dcp.job_type": job.job_type.value,
        "dcp.state": state,
        "dcp.attempts": job.attempt,
    }
    if reason is not None:
        attributes["error.type"] = reason.value
    counted.note_span(
        Past(
            "job",
            _of_job(link, job.job_id),
            link,
            job.created_ms,
            now_ms,
            attributes,
            [("settled", now_ms)],
            is_error=reason not in (None, FailureReason.CANCELLED),
        )
    )


def _of_job(link: Link, job_id: str) -> Link:
    return link.derived(job_id)
