"""The one way that a job ends: state, bill and money change together or not at all.

Runs inside its caller's transaction.
"""

from __future__ import annotations

import logging
from typing import Any

from server.domain import ledger as rules
from server.domain.jobs import INFERENCE, FailureReason, Job, JobEvent
from server.services import outbox
from server.store import artifacts, jobs, ledger

log = logging.getLogger(__name__)


def settle(
    job: Job,
    event: JobEvent,
    now_ms: int,
    *,
    billed_ms: int = 0,
    failure_reason: FailureReason | None = None,
    failure_message: str | None = None,
    content_type: str = "",
    usage: dict[str, Any] | None = None,
    output_truncated: bool = False,
) -> bool:
    """Ends ``job`` as it was read and resolves its hold; False when it has moved on since.

    ``billed_ms`` of 0 voids the hold: the renter gets all of it back. So does an inference that sent no
    output: whatever ended it, the renter got nothing to pay for.
    """
    if job.job_type in INFERENCE and not job.output_bytes:
        billed_ms = 0
    bill = rules.make_bill(job.hold_halala, job.rate_halala_per_minute, billed_ms)
    ended = jobs.finish(
        job,
        event,
        bill,
        now_ms,
        failure_reason=failure_reason,
        failure_message=failure_message,
        content_type=content_type,
        usage=usage,
        output_truncated=output_truncated,
    )
    if not ended:
        return False
    ledger.resolve_hold(job.job_id, bill.charge_halala, now_ms)
    ledger.apply(rules.settlement(bill, job.renter_id, job.provider_id, job.job_id), now_ms)
    _settle_artifacts(job, failure_reason, now_ms)
    outbox.job_ended(job, event, bill, failure_reason, now_ms)
    log.info(
        "settled job_id=%s attempt=%d lease_epoch=%d provider_id=%s event=%s charge_halala=%d",
        job.job_id,
        job.attempt,
        job.lease_epoch,
        job.provider_id,
        event,
        bill.charge_halala,
    )
    return True


# What ended these is that nobody came back from them: what they left is no result.
_LOST = (FailureReason.PROVIDER_LOST, FailureReason.PROVIDER_DRAINED)


def _settle_artifacts(job: Job, failure_reason: FailureReason | None, now_ms: int) -> None:
    """The files of the attempt that ended the job can be downloaded now, unless it was lost."""
    if not job.artifact_count:
        return
    if failure_reason in _LOST:
        artifacts.disown(job)
    else:
        artifacts.publish(job, now_ms)
