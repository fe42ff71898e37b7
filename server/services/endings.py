"""Every way in which a lease or a job ends, and the money that moves with it.

Only this module ends leases, ends jobs, puts jobs back into the queue, and settles them; a test in
tests/architecture looks for others. A job ends in one of these ways:

    the daemon reports a result           record_finish     completed, failed or cancelled; queued if released
    the attempt gives no result           give_up           queued; failed after the last attempt
    its daemon breaks the protocol        break_off         as give_up
    its renter or an operator cancels it  cancel            cancelled, or the daemon is to end the run first
    an operator requeues it               take_back         queued
    its provider is suspended             take_back_offers  queued
    its run exceeds its limit             end_overrun       failed, or cancelled if that was requested
    no provider starts it in time         end_unstarted     failed

If a cancel was requested, ``give_up`` cancels the job instead of queueing it again. Everything here runs
inside a transaction of the caller, who locks the job first where these functions do not. This module does
not know who may request an end, and sends nothing: its callers notify the daemons after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from common import embeddings as vectors
from server.domain import chats, embeddings, pricing, tokens
from server.domain import ledger as rules
from server.domain.artifacts import UPLOAD_GRACE_SECONDS
from server.domain.batches import LOST_ATTEMPTS, PRIORITY
from server.domain.jobs import FINAL, INFERENCE, LEAVE_FILES, FailureReason, Job, JobEvent, JobState, Logprobs
from server.domain.leases import (
    LEASE_TRANSITIONS,
    MARKER_BYTES,
    MAX_ATTEMPTS,
    OVERRUN_GRACE_SECONDS,
    Channel,
    Disposition,
    FinishReport,
    Lease,
    LeaseEvent,
    LeaseOutcome,
    LeaseState,
    RunOutcome,
)
from server.domain.messages import LeaseAction, LeaseDirective, ResultAck
from server.domain.money import text
from server.domain.pricing import TimePrice
from server.domain.reports import Facts, believe, given_back, is_charged
from server.services import outbox, outputs
from server.store import artifacts, budgets, jobs, leases, ledger, providers

log = logging.getLogger(__name__)

# Tolerated difference between the server's and the daemon's measure of whether a run reached its limit.
LIMIT_TOLERANCE_MS = 5_000
OVERRUN_GRACE_MS = int(OVERRUN_GRACE_SECONDS * 1000)
UPLOAD_GRACE_MS = int(UPLOAD_GRACE_SECONDS * 1000)
# Why daemons give an attempt back, where the attempt is recorded with the cause.
_GIVEN_BACK: dict[FailureReason | None, str] = {
    FailureReason.GPU_FAILED: "its GPU failed",
    FailureReason.ENGINE_BUSY: "its model server was busy",
    FailureReason.OTHER_ARCHITECTURE: "the image is for another processor",
    FailureReason.IMAGE_PULL_FAILED: "its disk has no room for the image",
}
# After these ends the attempt's files are deleted, because they may be incomplete.
WITHOUT_FILES = (FailureReason.PROVIDER_LOST, FailureReason.PROVIDER_DRAINED)


# The daemon reports a result.


def record_finish(
    report: FinishReport, provider_id: int, now_ms: int, *, matures: bool = True
) -> ResultAck | LeaseDirective:
    """Ends the run's lease and, depending on the outcome, settles its job or queues it again.

    The lease's secret identifies the run. The result may arrive through any session of the provider: a run
    has only one result, and refusing it would bill the renter regardless of what happened.
    """
    ref = report.lease
    job = jobs.lock(ref.job_id)
    lease = leases.get(ref.job_id, ref.lease_epoch)
    if job is None or lease is None or not lease.matches(ref) or lease.provider_id != provider_id:
        return ResultAck(ref, Disposition.STALE)
    if lease.state is LeaseState.ENDED:
        same = lease.outcome is not None and lease.outcome.value == report.outcome.value
        return ResultAck(ref, Disposition.ALREADY if same else Disposition.STALE)
    resend = LeaseDirective(ref, LeaseAction.RESEND, lease.output_through_seq, lease.log_through_seq)
    last = _last_output(report, job, lease)
    if last and report.outcome is RunOutcome.RELEASED and not _store(last, report, lease, now_ms):
        last = b""
    if last:
        job = replace(job, output_bytes=job.output_bytes + len(last))
        first_ms = now_ms if lease.first_output_ms is None else lease.first_output_ms
        lease = replace(lease, output_through_seq=report.last_output_seq, first_output_ms=first_ms)
    if report.last_output_seq > lease.output_through_seq:
        note_run(job, lease, report.run_ms)
        return resend
    if report.outcome is RunOutcome.RELEASED:
        has_ended = _release(lease, report, given_back(report, job), now_ms)
    else:
        has_ended = _end_run(job, lease, report, now_ms, matures, last)
    return ResultAck(ref, Disposition.ACCEPTED) if has_ended else resend


def _last_output(report: FinishReport, job: Job, lease: Lease) -> bytes:
    """The chunk that a result carries; empty if there is none, or if it may not be stored.

    Like the result, it counts through any session of the provider.
    """
    is_next = report.last_output_seq == lease.output_through_seq + 1
    is_allowed = LEASE_TRANSITIONS.next_state(lease.state, LeaseEvent.WRITE) is not None
    fits = job.output_bytes + len(report.last_output) <= lease.output_limit_bytes + MARKER_BYTES
    return report.last_output if is_next and is_allowed and fits else b""


def _store(data: bytes, report: FinishReport, lease: Lease, now_ms: int) -> bool:
    holder = (lease.provider_id, lease.session_epoch)
    return leases.store_chunk(report.lease, *holder, Channel.OUTPUT, report.last_output_seq, data, now_ms)


def note_run(job: Job, lease: Lease, run_ms: int) -> None:
    """Stores how long an ended run took by its daemon's word, while its result has not fully arrived.

    If it never does, a cancelled job is billed no longer than that: see ``give_up``.
    """
    leases.note_run_ms(lease, pricing.billed_ms(run_ms, run_ms, job.limit_ms))


def _release(lease: Lease, report: FinishReport, reason: FailureReason | None, now_ms: int) -> bool:
    """The daemon gave the attempt back: it drains, its GPU failed, or its model server is busy.

    False: the lease has changed meanwhile, and nothing else.
    """
    # A model server that has begun to answer is not busy with others.
    if reason not in _GIVEN_BACK or (reason is FailureReason.ENGINE_BUSY and lease.output_through_seq):
        return break_off(lease, now_ms, "the daemon gave it back", LeaseOutcome.RELEASED)
    detail = f"{_GIVEN_BACK[reason]}; the daemon gave it back"
    return break_off(lease, now_ms, detail, LeaseOutcome.RELEASED, reason=reason)


def _end_run(
    job: Job, lease: Lease, report: FinishReport, now_ms: int, matures: bool, last_output: bytes
) -> bool:
    """Ends a run as its daemon reports it; False, and nothing changed, if the lease has changed meanwhile.

    ``last_output``: the end of what it wrote, which ``job`` and ``lease`` count and which is not stored yet.
    """
    server_ms = now_ms - lease.started_ms if lease.started_ms is not None else 0
    billed = pricing.billed_ms(report.run_ms, server_ms, job.limit_ms)
    output = outputs.written(job) + last_output if _is_read_for_the_bill(job) else b""
    problem = _problem(job, report, output)
    outcome = RunOutcome.FAILED if problem else report.outcome
    failed = outcome is RunOutcome.FAILED
    wrote = _Wrote(_written(job, output), len(last_output))
    facts = Facts(server_ms, _context_tokens(report, job, lease.provider_id), wrote.counted, problem)
    belief = believe(report, job, facts)
    reason = belief.reason or FailureReason.ENGINE_FAILED
    message = belief.claim or report.failure_message or reason.value.lower().replace("_", " ")
    if belief.claim:
        log.warning(
            "a report cannot be true job_id=%s lease_epoch=%d provider_id=%d: %s",
            job.job_id,
            lease.lease_epoch,
            lease.provider_id,
            belief.claim,
        )
    if not leases.end(
        lease,
        LeaseOutcome(outcome.value),
        now_ms,
        detail=message if failed else belief.claim,
        failure_reason=belief.reason,
        run_ms=billed,
        image_digest=report.image_digest,
        last_output=last_output,
        trace=job.trace,
    ):
        return False
    if outcome is RunOutcome.SUCCEEDED and job.state is JobState.RUNNING:
        settle(
            job,
            JobEvent.COMPLETE,
            now_ms,
            billed_ms=billed,
            content_type=report.content_type,
            usage=belief.usage,
            output_truncated=report.output_truncated,
            logprobs=report.logprobs,
            matures=matures,
            wrote=wrote,
        )
    elif report.outcome is RunOutcome.CANCELLED and job.cancel_requested:
        _settle_cancelled(job, "cancelled while it ran", now_ms, billed, matures, belief.usage, wrote)
    else:
        charged_ms = _charged_ms(reason, billed, job)
        _settle_failed(job, reason, message, now_ms, charged_ms, matures, belief.usage, wrote)
    return True


def _charged_ms(reason: FailureReason, billed_ms: int, job: Job) -> int:
    """How much of a failed run is charged to its renter."""
    # A limit that was not reached does not justify a charge, whatever the daemon reports.
    at_limit = billed_ms + LIMIT_TOLERANCE_MS >= job.limit_ms
    is_due = is_charged(reason, job) and (reason is not FailureReason.DURATION_LIMIT or at_limit)
    return billed_ms if is_due else 0


def _context_tokens(report: FinishReport, job: Job, provider_id: int) -> int:
    """The context of the job's model, which only a prompt that is said to be too long depends on."""
    if report.failure_reason is not FailureReason.PROMPT_TOO_LONG or job.model is None:
        return 0
    served = providers.models_of([provider_id])[provider_id]
    return next((model.context_tokens for model in served if model.name == job.model), 0)


# The attempt gives no result.


def give_up(
    lease: Lease,
    now_ms: int,
    detail: str,
    outcome: LeaseOutcome = LeaseOutcome.LOST,
    *,
    renewed_ms: int = 0,
    reason: FailureReason | None = None,
    matures: bool = True,
) -> bool:
    """Ends a lease without a result: its job is queued again, or fails when no attempt is left.

    False, and nothing changed, if the lease has changed since it was read.

    An offer that was never accepted does not count as an attempt: its job keeps its deadline for the start.
    A job whose cancel was requested is cancelled; its renter pays for the run until ``renewed_ms``, the last
    acknowledged heartbeat of a daemon that went silent, and by default nothing. ``reason`` is the cause of
    the end, if more is known than the outcome says.
    """
    job = jobs.lock(lease.job_id)
    trace = job.trace if job is not None else ""
    if not leases.end(lease, outcome, now_ms, detail=detail, failure_reason=reason, trace=trace):
        return False
    if job is None or job.lease_epoch != lease.lease_epoch or job.state in FINAL:
        return True
    if job.cancel_requested:
        message = "cancelled; its provider went silent before it answered"
        _settle_cancelled(job, message, now_ms, _proven_ms(job, lease, renewed_ms), matures)
    elif _was_attempt(lease) and job.attempt >= _most_attempts(job, outcome):
        is_released = outcome is LeaseOutcome.RELEASED
        usual = FailureReason.PROVIDER_DRAINED if is_released else FailureReason.PROVIDER_LOST
        _settle_failed(job, reason or usual, f"{job.attempt} attempts were lost; submit it again", now_ms)
    else:
        _requeue(job, lease, now_ms)
    return True


def break_off(
    lease: Lease,
    now_ms: int,
    detail: str,
    outcome: LeaseOutcome = LeaseOutcome.LOST,
    *,
    reason: FailureReason | None = None,
) -> bool:
    """Ends a lease as ``give_up`` because of a message of its daemon, which is connected.

    An offer that was not accepted counts as refused: its daemon would get it again at once, without end.
    """
    ends_as = outcome if _was_attempt(lease) else LeaseOutcome.REFUSED
    return give_up(lease, now_ms, detail, ends_as, reason=reason)


def _proven_ms(job: Job, lease: Lease, renewed_ms: int) -> int:
    """The proven length of a run whose daemon went silent.

    If its daemon said that the run had ended and how long it took, later heartbeats prove no more than that.
    """
    if job.started_ms is None:
        return 0
    server_ms = renewed_ms - job.started_ms
    return pricing.billed_ms(server_ms if lease.run_ms is None else lease.run_ms, server_ms, job.limit_ms)


def _requeue(job: Job, lease: Lease, now_ms: int) -> None:
    """Queues the job again. After an attempt, its deadline for the start begins anew."""
    jobs.requeue(job, now_ms + job.start_within_ms if _was_attempt(lease) else job.start_by_ms)


def _most_attempts(job: Job, outcome: LeaseOutcome) -> int:
    """After how many attempts a job fails: a line of a batch that may be what ends daemons, sooner."""
    may_end_daemons = job.priority == PRIORITY and outcome is LeaseOutcome.LOST
    return LOST_ATTEMPTS if may_end_daemons else MAX_ATTEMPTS


def _was_attempt(lease: Lease) -> bool:
    """Whether the lease, as it was read, had been accepted."""
    return lease.state is not LeaseState.OFFERED


# Its renter or an operator decides that it ends.


def cancel(job: Job, now_ms: int, *, keeps_files: bool = False) -> None:
    """Cancels a job that does not run. A running job is marked; it ends when its daemon reports the end.

    ``keeps_files``: its daemon first sends the files that it has written.
    """
    if job.state is JobState.RUNNING:
        jobs.request_cancel(job, now_ms, keeps_files=keeps_files and job.job_type in LEAVE_FILES)
        return
    if lease := leases.get(job.job_id, job.lease_epoch):
        leases.end(lease, LeaseOutcome.CANCELLED, now_ms, trace=job.trace)
    _settle_cancelled(job, "cancelled before it ran", now_ms)


def take_back(job: Job, detail: str, now_ms: int) -> Lease:
    """Takes a leased job back from its provider, without a charge, and returns the lease as it was."""
    lease = leases.get(job.job_id, job.lease_epoch)
    assert lease is not None
    leases.end(lease, LeaseOutcome.REVOKED, now_ms, detail=detail, trace=job.trace)
    _requeue(job, lease, now_ms)
    return lease


def take_back_offers(provider_id: int, now_ms: int) -> None:
    """Ends the offers that a suspended provider has not accepted; the jobs that it accepted continue."""
    for lease in leases.open_of(provider_id):
        if lease.state is LeaseState.OFFERED:
            give_up(lease, now_ms, "its provider was suspended", LeaseOutcome.EXPIRED)


# Its time limit has passed.


def end_overrun(job_id: str, now_ms: int, *, matures: bool = True) -> Lease | None:
    """Ends a run that its connected daemon should have ended. The charge covers the time until then.

    Returns None if the run has ended already, or while its files still arrive.
    """
    job = jobs.lock(job_id)
    if job is None or job.state is not JobState.RUNNING or _still_sends(job, now_ms):
        return None
    lease = leases.get(job_id, job.lease_epoch)
    assert lease is not None
    assert lease.started_ms is not None
    is_cancel = job.cancel_requested_ms is not None
    due_ms = job.limit_ms if job.cancel_requested_ms is None else job.cancel_requested_ms - lease.started_ms
    billed = pricing.billed_ms(due_ms, now_ms - lease.started_ms, job.limit_ms)
    message = "cancelled while it ran" if is_cancel else "it reached its duration limit"
    if not leases.end(
        lease,
        LeaseOutcome.CANCELLED if is_cancel else LeaseOutcome.FAILED,
        now_ms,
        detail=f"{message}; ended by the server",
        failure_reason=None if is_cancel else FailureReason.DURATION_LIMIT,
        run_ms=billed,
        trace=job.trace,
    ):
        return None
    if is_cancel:
        _settle_cancelled(job, message, now_ms, billed, matures)
    else:
        _settle_failed(job, FailureReason.DURATION_LIMIT, message, now_ms, billed, matures)
    return lease


def _still_sends(job: Job, now_ms: int) -> bool:
    """Whether files of a finished run still arrive. The wait is limited and free of charge."""
    assert job.started_ms is not None
    over_ms = min(job.started_ms + job.limit_ms, job.cancel_requested_ms or now_ms)
    if now_ms - over_ms >= UPLOAD_GRACE_MS:
        return False
    return artifacts.is_arriving(job.job_id, job.lease_epoch, now_ms - OVERRUN_GRACE_MS)


def end_unstarted(job_id: str, now_ms: int, why: str) -> None:
    """Fails a job that no provider started in time; the whole hold returns to its renter.

    ``why`` ends the sentence that the renter reads: the last obstacle and the remedy.
    """
    job = jobs.lock(job_id)
    if job is None or job.state is not JobState.QUEUED or job.start_by_ms > now_ms:
        return
    within = job.start_within_ms // 1000
    message = f"no provider started it within {within} s; {why}"
    _settle_failed(job, FailureReason.START_DEADLINE, message, now_ms)


# The job's end itself: state, bill and money change together or not at all.


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
    logprobs: Logprobs = (),
    matures: bool = True,
    wrote: _Wrote | None = None,
) -> bool:
    """Ends ``job`` as it was read and resolves its hold; False if the job has changed since.

    ``billed_ms`` of 0 voids the hold of a job that did not complete: the renter gets all of it back. An
    inference without output is never billed, however it ended, because the renter received nothing. Unless a
    market pays at once, the payout ``matures`` before it can be withdrawn. ``wrote``: what the run wrote, by
    default what is stored.
    """
    written, last_bytes = wrote or _Wrote(_written(job))
    is_silent = job.job_type in INFERENCE and not written
    is_due = not is_silent and (billed_ms > 0 or event is JobEvent.COMPLETE)
    cost = _cost_micros(job, billed_ms, usage, written) if is_due else 0
    is_carried = tokens.carried(job.spec) is not None
    if is_carried or content_type == chats.CONTENT_TYPE:
        content_type = chats.CONTENT_TYPE if is_carried else ""
    bill = rules.make_bill(job.hold_micros, cost, 0 if is_silent else billed_ms)
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
        logprobs=logprobs,
        last_bytes=last_bytes,
    )
    if not ended:
        return False
    parties = (job.renter_id, job.provider_id, job.job_id, job.job_type)
    # The accounts are locked first: whether the key has budgets cannot change from then on.
    ledger.apply(rules.settlement(bill, *parties, matures=matures), now_ms)
    resolved = ledger.resolve_hold(job.job_id, bill.charge_micros, now_ms)
    _settle_artifacts(job, failure_reason, now_ms)
    if resolved.has_webhook:
        outbox.job_ended(
            job, event, bill, now_ms, failure_reason=failure_reason, failure_message=failure_message
        )
    if resolved.has_budget and job.key_id is not None and bill.refund_micros:
        budgets.give_back(job.key_id, bill.refund_micros, job.created_ms)
    log.info(
        "settled job_id=%s attempt=%d lease_epoch=%d provider_id=%s event=%s charge_halala=%s",
        job.job_id,
        job.attempt,
        job.lease_epoch,
        job.provider_id,
        event,
        text(bill.charge_micros),
    )
    return True


class _Wrote(NamedTuple):
    """What a run wrote."""

    counted: int
    """As ``_written`` counts it."""
    last_bytes: int = 0
    """Of these the bytes that its job does not count yet."""


def _is_read_for_the_bill(job: Job) -> bool:
    """Whether what a run wrote is billed by what it says."""
    return bool(job.output_bytes) and tokens.carried(job.spec) is not None


def _written(job: Job, output: bytes | None = None) -> int:
    """What a run wrote: its bytes, of a chat those of what its chunks say; of texts to embed, its vectors."""
    if not _is_read_for_the_bill(job):
        return job.output_bytes
    output = outputs.written(job) if output is None else output
    return chats.written_bytes(output) if chats.is_chat(job.spec) else len(vectors.written(output))


def _problem(job: Job, report: FinishReport, output: bytes) -> str:
    """Why what a run wrote cannot be the result that its daemon reports; empty if it can."""
    if report.outcome is not RunOutcome.SUCCEEDED or embeddings.asked(job.spec) is None:
        return ""
    return embeddings.problem(job.spec, output)


def _cost_micros(job: Job, billed_ms: int, usage: Mapping[str, Any] | None, written: int) -> int:
    """What a run costs. Parts of a micro are carried to the renter's next run that is paid by tokens."""
    if isinstance(job.price, TimePrice):
        return job.price.cost_micros(billed_ms)
    parts = job.price.cost_parts(tokens.billed(job.spec, usage, written))
    whole, rest = divmod(parts, pricing.PARTS)
    # The hold has room for one carried micro; more than the hold is not charged, so nothing of it is carried.
    return whole + ledger.carry(job.renter_id, rest) if whole < job.hold_micros else job.hold_micros


def _settle_cancelled(
    job: Job,
    message: str,
    now_ms: int,
    billed_ms: int = 0,
    matures: bool = True,
    usage: dict[str, Any] | None = None,
    wrote: _Wrote | None = None,
) -> None:
    settle(
        job,
        JobEvent.CANCEL,
        now_ms,
        billed_ms=billed_ms,
        matures=matures,
        usage=usage,
        wrote=wrote,
        failure_reason=FailureReason.CANCELLED,
        failure_message=message,
    )


def _settle_failed(
    job: Job,
    reason: FailureReason,
    message: str,
    now_ms: int,
    billed_ms: int = 0,
    matures: bool = True,
    usage: dict[str, Any] | None = None,
    wrote: _Wrote | None = None,
) -> None:
    settle(
        job,
        JobEvent.FAIL,
        now_ms,
        billed_ms=billed_ms,
        matures=matures,
        usage=usage,
        wrote=wrote,
        failure_reason=reason,
        failure_message=message,
    )


def _settle_artifacts(job: Job, failure_reason: FailureReason | None, now_ms: int) -> None:
    """Publishes the files of the attempt that ended the job, unless the attempt was lost."""
    if not job.artifact_count:
        return
    if failure_reason in WITHOUT_FILES:
        artifacts.clear_totals(job)
    else:
        artifacts.publish(job, now_ms)
