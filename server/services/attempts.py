"""How attempts end in the store: by a result, or without one. What follows for their job and its money.

Everything here runs inside a transaction of the caller's, and locks the job first.
"""

from __future__ import annotations

from server.domain import pricing
from server.domain.jobs import CHARGED, FINAL, FailureReason, Job, JobEvent, JobState
from server.domain.leases import (
    MAX_ATTEMPTS,
    Disposition,
    FinishReport,
    Lease,
    LeaseOutcome,
    LeaseState,
    RunOutcome,
)
from server.domain.messages import LeaseAction, LeaseDirective, ResultAck
from server.services.settlement import settle
from server.store import jobs, leases

# How far the two clocks may differ on whether a run reached its limit.
LIMIT_TOLERANCE_MS = 5_000


def record_finish(report: FinishReport, provider_id: int, now_ms: int) -> ResultAck | LeaseDirective:
    """Ends the run's lease and, by how it went, settles its job or queues it again. Inside a transaction.

    The lease's secret proves whose run it was. By which session the result comes does not matter: a run
    has one, and to refuse it would be to bill by what the server does not want to know.
    """
    ref = report.lease
    job = jobs.lock(ref.job_id)
    lease = leases.get(ref.job_id, ref.lease_epoch)
    if job is None or lease is None or not lease.matches(ref) or lease.provider_id != provider_id:
        return ResultAck(ref, Disposition.STALE)
    if lease.state is LeaseState.ENDED:
        same = lease.outcome is not None and lease.outcome.value == report.outcome.value
        return ResultAck(ref, Disposition.ALREADY if same else Disposition.STALE)
    if report.last_output_seq > lease.output_through_seq:
        return LeaseDirective(ref, LeaseAction.RESEND, lease.output_through_seq, lease.log_through_seq)
    _end_run(job, lease, report, now_ms)
    return ResultAck(ref, Disposition.ACCEPTED)


def _end_run(job: Job, lease: Lease, report: FinishReport, now_ms: int) -> None:
    outcome = LeaseOutcome(report.outcome.value)
    reason = report.failure_reason or FailureReason.ENGINE_FAILED
    if report.outcome is RunOutcome.RELEASED:
        is_fault = report.failure_reason is FailureReason.GPU_FAILED
        give_up(
            lease,
            now_ms,
            "its GPU failed; the daemon gave it back" if is_fault else "the daemon gave it back",
            outcome,
            reason=FailureReason.GPU_FAILED if is_fault else None,
        )
        return
    server_ms = now_ms - lease.started_ms if lease.started_ms is not None else 0
    billed = pricing.billed_ms(report.run_ms, server_ms, job.limit_ms)
    failed = outcome is LeaseOutcome.FAILED
    message = report.failure_message or reason.value.lower().replace("_", " ")
    leases.end(
        lease,
        outcome,
        now_ms,
        detail=message if failed else "",
        failure_reason=reason if failed else None,
        run_ms=billed,
        image_digest=report.image_digest,
    )
    if report.outcome is RunOutcome.SUCCEEDED and job.state is JobState.RUNNING:
        settle(
            job,
            JobEvent.COMPLETE,
            now_ms,
            billed_ms=billed,
            content_type=report.content_type,
            usage=report.usage,
            output_truncated=report.output_truncated,
        )
    elif report.outcome is RunOutcome.CANCELLED and job.cancel_requested:
        settle(
            job,
            JobEvent.CANCEL,
            now_ms,
            billed_ms=billed,
            failure_reason=FailureReason.CANCELLED,
            failure_message="cancelled while it ran",
        )
    else:
        # A limit that was not reached is no reason to charge, whatever the daemon says.
        at_limit = billed + LIMIT_TOLERANCE_MS >= job.limit_ms
        charged = reason in CHARGED and (reason is not FailureReason.DURATION_LIMIT or at_limit)
        settle(
            job,
            JobEvent.FAIL,
            now_ms,
            billed_ms=billed if charged else 0,
            failure_reason=reason,
            failure_message=message,
        )


def give_up(
    lease: Lease,
    now_ms: int,
    detail: str,
    outcome: LeaseOutcome = LeaseOutcome.LOST,
    *,
    renewed_ms: int = 0,
    reason: FailureReason | None = None,
) -> None:
    """Ends a lease without a result: its job waits again, or fails when no attempt is left.

    Inside a transaction.

    An offer that was never accepted was no attempt: its job keeps the time that it had to start. A job
    whose cancel was asked for is cancelled, at the price of its run until ``renewed_ms``, the last
    acknowledged heartbeat of a daemon that went silent; by default without a charge. ``reason`` is what
    ended the attempt, where that is known better than by its outcome.
    """
    job = jobs.lock(lease.job_id)
    if not leases.end(lease, outcome, now_ms, detail=detail, failure_reason=reason):
        return
    if job is None or job.lease_epoch != lease.lease_epoch or job.state in FINAL:
        return
    if job.cancel_requested:
        settle(
            job,
            JobEvent.CANCEL,
            now_ms,
            billed_ms=_proven_ms(job, renewed_ms),
            failure_reason=FailureReason.CANCELLED,
            failure_message="cancelled; its provider went silent before it answered",
        )
    elif lease.state is not LeaseState.OFFERED and job.attempt >= MAX_ATTEMPTS:
        drained = outcome is LeaseOutcome.RELEASED
        usual = FailureReason.PROVIDER_DRAINED if drained else FailureReason.PROVIDER_LOST
        settle(
            job,
            JobEvent.FAIL,
            now_ms,
            failure_reason=reason or usual,
            failure_message=f"{MAX_ATTEMPTS} attempts were lost; submit it again",
        )
    else:
        was_attempt = lease.state is not LeaseState.OFFERED
        jobs.requeue(job, now_ms + job.start_within_ms if was_attempt else job.start_by_ms)


def _proven_ms(job: Job, renewed_ms: int) -> int:
    """How long a run of a daemon that went silent is proved to have taken."""
    if job.started_ms is None:
        return 0
    proven = renewed_ms - job.started_ms
    return pricing.billed_ms(proven, proven, job.limit_ms)
