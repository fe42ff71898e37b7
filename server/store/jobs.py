"""Jobs as rows: the request, the state, and the end. The queue of those that wait is in queue.py.

Every change of a job's state is a compare-and-set on its lease epoch and on the states that JOB_TRANSITIONS
allows; False means that the job has changed since it was read. The changes that a daemon causes are in
leases.py, with those of the lease.
"""

from __future__ import annotations

import json
from typing import Any

import peewee as pw

from server.domain import pricing
from server.domain.gpu_models import asked
from server.domain.jobs import (
    FINAL,
    JOB_TRANSITIONS,
    Bill,
    FailureReason,
    Job,
    JobEvent,
    JobRequest,
    JobState,
    JobType,
    Logprobs,
)
from server.domain.levels import Unasked
from server.domain.placement import Wants
from server.domain.pricing import Price
from server.domain.providers import AccountState
from server.store import changes, counted, spans, states
from server.store import models as db
from server.store.keys import IS_LIMITED
from server.store.prepared import PreparedQuery, PreparedRows, arg, bound, locking

_IS_RENTER_DELETED = pw.fn.EXISTS(
    db.Renter.select(db.Renter.id).where(
        db.Renter.id == db.Job.renter_id, states.is_in(db.Renter.state, AccountState.DELETED)
    )
)
_get = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id")),
    is_renter_deleted=_IS_RENTER_DELETED,
)
_get_of_renter = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id"), db.Job.renter_id == arg("renter_id")),
    is_renter_deleted=_IS_RENTER_DELETED,
)
_get_of_provider = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id"), db.Job.provider_id == arg("provider_id")),
    is_renter_deleted=_IS_RENTER_DELETED,
)
# What a list leaves in the database: a prompt can have megabytes, and a list has 200 jobs.
_UNLISTED = ("spec",)
_get_listed = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id")),
    without=_UNLISTED,
    is_renter_deleted=_IS_RENTER_DELETED,
)
_newest_of_renter = PreparedRows(
    db.Job,
    lambda rows: (
        rows.where(db.Job.renter_id == arg("renter_id"))
        .order_by(db.Job.created_ms.desc(), db.Job.job_id.desc())
        .limit(arg("limit"))
    ),
    without=_UNLISTED,
)
# A hundred whole jobs would take more time than the rest of a submit.
_newest_runs = PreparedQuery(
    lambda: (
        db.Job.select(db.Job.job_type, db.Job.model, db.Job.state, db.Job.billed_ms, db.Job.usage)
        .where(db.Job.renter_id == arg("renter_id"))
        .order_by(db.Job.created_ms.desc(), db.Job.job_id.desc())
        .limit(arg("limit"))
    )
)
_newest_of_provider = PreparedRows(
    db.Job,
    lambda rows: (
        rows.where(db.Job.provider_id == arg("provider_id"))
        .order_by(db.Job.created_ms.desc(), db.Job.job_id.desc())
        .limit(arg("limit"))
    ),
    without=_UNLISTED,
)
_by_idempotency_key = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.renter_id == arg("renter_id"), db.Job.idempotency_key == arg("key")),
)
_running_past = PreparedQuery(
    lambda: (
        db.Job.select(db.Job.job_id, db.Job.provider_id)
        .where(
            states.is_in(db.Job.state, JobState.RUNNING),
            (db.Job.started_ms + db.Job.limit_ms + arg("grace_ms") < arg("now_ms"))
            | (db.Job.cancel_requested_ms + arg("grace_ms") < arg("now_ms")),
        )
        .limit(arg("limit"))
    )
)
_unstarted = PreparedQuery(
    lambda: (
        db.Job.select(db.Job.job_id)
        .where(states.is_in(db.Job.state, JobState.QUEUED), db.Job.start_by_ms <= arg("now_ms"))
        .order_by(db.Job.start_by_ms)
        .limit(arg("limit"))
    )
)
_get_locked = PreparedRows(db.Job, lambda rows: locking(rows.where(db.Job.job_id == arg("job_id"))))
_insert = PreparedRows(
    db.Job,
    lambda _: db.Job.insert(
        bound(
            db.Job,
            "job_id",
            "renter_id",
            "job_type",
            "named_provider_id",
            "provider_id",
            "model",
            "gpu_model",
            "min_vram_mib",
            "image",
            "architecture",
            "unasked",
            "duration_ms",
            "limit_ms",
            "priority",
            "hold_micros",
            "rate_halala_per_minute",
            "price",
            "spec",
            "start_within_ms",
            "start_by_ms",
            "lost_after_ms",
            "created_ms",
            "idempotency_key",
            "request_digest",
            "key_id",
            "trace",
            state=states.first(JOB_TRANSITIONS, JobEvent.SUBMIT),
        )
    ).returning(*db.Job._meta.sorted_fields, IS_LIMITED),
    is_limited=IS_LIMITED,
)
_finish = PreparedQuery(
    lambda: db.Job.update(
        bound(
            db.Job,
            "state",
            "ended_ms",
            "billed_ms",
            "charge_micros",
            "payout_micros",
            "failure_reason",
            "failure_message",
            "content_type",
            "usage",
            "output_truncated",
        ),
        output_bytes=db.Job.output_bytes + arg("last_bytes"),
        # Kept only of the market's own jobs.
        logprobs=pw.Case(
            None,
            [
                (
                    db.Job.renter_id.in_(db.Renter.select(db.Renter.id).where(db.Renter.is_market)),
                    arg("logprobs"),
                )
            ],
        ),
    ).where(
        db.Job.job_id == arg("job_id"),
        db.Job.lease_epoch == arg("lease_epoch"),
        db.Job.state == arg("state_before"),
    )
)


# The columns of Wants. The quote matters only if the job names no provider.
_PRICE = pw.fn.COALESCE(db.Job.price, db.Job.rate_halala_per_minute.cast("TEXT"))
_QUOTED = pw.Case(None, [(db.Job.named_provider_id.is_null(), _PRICE)])
_UNASKED = pw.Case(
    None, [(db.Job.named_provider_id.is_null(), pw.fn.COALESCE(db.Job.unasked, Unasked.BEST.value))]
)
NEEDS = (
    *(db.Job.job_type, db.Job.model, db.Job.gpu_model, db.Job.min_vram_mib, _QUOTED),
    *(db.Job.image, db.Job.architecture, _UNASKED),
)


def insert(
    job_id: str,
    renter_id: int,
    request: JobRequest,
    *,
    price: Price,
    hold_micros: int,
    limit_ms: int,
    now_ms: int,
    key_id: int | None = None,
) -> tuple[Job, int, bool]:
    """Inserts a new job in the first state of JOB_TRANSITIONS.

    Returns it, its request's bytes, and whether the key that submitted it has limits.
    """
    spec = json.dumps(request.spec, ensure_ascii=False)
    row = _insert.one(
        job_id=job_id,
        renter_id=renter_id,
        job_type=request.job_type.value,
        named_provider_id=request.provider_id,
        provider_id=request.provider_id,
        model=request.model,
        gpu_model=str(asked(request.gpu_model)) if request.gpu_model else None,
        min_vram_mib=request.min_vram_mib,
        image=request.image,
        architecture=request.architecture,
        unasked=request.unasked.value if request.unasked is not None else None,
        duration_ms=request.duration_ms,
        limit_ms=limit_ms,
        priority=request.priority,
        hold_micros=hold_micros,
        rate_halala_per_minute=price.halala_per_minute,
        price=price.text,
        spec=spec,
        start_within_ms=request.start_within_ms,
        start_by_ms=now_ms + request.start_within_ms,
        lost_after_ms=request.lost_after_ms,
        created_ms=now_ms,
        idempotency_key=request.idempotency_key,
        request_digest=request.digest,
        key_id=key_id,
        trace=request.trace,
    )
    return job_of(row), len(spec.encode()), bool(row.is_limited)


def get(job_id: str) -> Job | None:
    """One job, by id."""
    row = _get.one(job_id=job_id)
    return job_of(row) if row is not None else None


def get_listed(job_id: str) -> Job | None:
    """One job, by id, with an empty ``spec``."""
    row = _get_listed.one(job_id=job_id)
    return job_of(row) if row is not None else None


def get_of_renter(job_id: str, renter_id: int) -> Job | None:
    """One job, by id, if it belongs to this renter."""
    row = _get_of_renter.one(job_id=job_id, renter_id=renter_id)
    return job_of(row) if row is not None else None


def get_of_provider(job_id: str, provider_id: int) -> Job | None:
    """One job, by id, if this provider runs it or ran it last."""
    row = _get_of_provider.one(job_id=job_id, provider_id=provider_id)
    return job_of(row) if row is not None else None


def lock(job_id: str) -> Job | None:
    """One job, by id, locked until the transaction ends; every end of a job begins with this lock."""
    row = _get_locked.one(job_id=job_id)
    return job_of(row) if row is not None else None


def by_idempotency_key(renter_id: int, key: str) -> Job | None:
    """The job that a renter submitted with an idempotency key."""
    row = _by_idempotency_key.one(renter_id=renter_id, key=key)
    return job_of(row) if row is not None else None


def newest_of_renter(renter_id: int, limit: int) -> list[Job]:
    """A renter's newest jobs."""
    return [job_of(row) for row in _newest_of_renter.all(renter_id=renter_id, limit=limit)]


def newest_runs(
    renter_id: int, job_type: JobType, model: str | None, state: JobState, limit: int
) -> list[tuple[int, dict[str, Any]]]:
    """Of a renter's newest jobs, the billed time and the usage of those that ended so with this model."""
    like = (job_type.value, model, states.stored(state))
    return [
        (billed_ms, json.loads(usage) if usage else {})
        for *found, billed_ms, usage in _newest_runs.all(renter_id=renter_id, limit=limit)
        if tuple(found) == like and billed_ms is not None
    ]


def newest_of_provider(provider_id: int, limit: int) -> list[Job]:
    """A provider's newest jobs."""
    return [job_of(row) for row in _newest_of_provider.all(provider_id=provider_id, limit=limit)]


def page_of_renter(renter_id: int, state: JobState | None, before: Job | None, limit: int) -> list[Job]:
    """A renter's jobs, newest first; optionally only of one state, or older than ``before``."""
    return _page(db.Job.renter_id == renter_id, state, before, limit)


def page_of_provider(provider_id: int, state: JobState | None, before: Job | None, limit: int) -> list[Job]:
    """Jobs that a provider has or had last, newest first; optionally by state, or older than ``before``."""
    return _page(db.Job.provider_id == provider_id, state, before, limit)


def _page(whose: Any, state: JobState | None, before: Job | None, limit: int) -> list[Job]:
    query = listed().where(whose)
    if state is not None:
        query = query.where(states.is_in(db.Job.state, state))
    return newest_page(query, before, limit)


def listed() -> Any:
    """A query of jobs for a list: each has an empty ``spec``."""
    return db.Job.select(*(f for f in db.Job._meta.sorted_fields if f.name not in _UNLISTED))


def newest_page(query: Any, before: Job | None, limit: int) -> list[Job]:
    """The jobs of a query, newest first, and older than ``before`` if it is given."""
    if before is not None:
        # The redundant first condition lets the database start at this page in the index.
        older = (db.Job.created_ms < before.created_ms) | (db.Job.job_id < before.job_id)
        query = query.where(db.Job.created_ms <= before.created_ms, older)
    newest = query.order_by(db.Job.created_ms.desc(), db.Job.job_id.desc()).limit(limit)
    return [job_of(row) for row in newest]


def failed_pulls(renter_id: int, since_ms: int, limit: int) -> int:
    """How many of a renter's jobs since a time failed to get their image, up to a limit."""
    failed = (
        db.Job.select(db.Job.job_id)
        .where(
            db.Job.renter_id == renter_id,
            db.Job.created_ms > since_ms,
            db.Job.failure_reason == FailureReason.IMAGE_PULL_FAILED.value,
        )
        .limit(limit)
    )
    return sum(1 for _ in db.tuples(failed))


def running_past(now_ms: int, grace_ms: int, limit: int) -> list[tuple[str, int]]:
    """Running jobs, with their providers, that exceed their limit or a requested cancel by over the grace."""
    rows = _running_past.all(now_ms=now_ms, grace_ms=grace_ms, limit=limit)
    return [(job_id, int(provider_id)) for job_id, provider_id in rows]


def cancelled_runs() -> list[tuple[str, int, int, bool]]:
    """The runs that have not ended since their cancel was requested.

    Job, provider, lease epoch, and whether its files are kept.
    """
    job = db.Job
    query = job.select(job.job_id, job.provider_id, job.lease_epoch, job.keeps_files).where(
        states.is_in(job.state, JobState.RUNNING), job.cancel_requested_ms.is_null(False)
    )
    return [
        (job_id, int(provider_id), int(epoch), bool(keeps))
        for job_id, provider_id, epoch, keeps in db.tuples(query)
    ]


def wants(job_id: str) -> Wants:
    """What a job requires of its provider."""
    ((kind, *rest),) = db.tuples(db.Job.select(*NEEDS).where(db.Job.job_id == job_id))
    return wants_of(kind, *rest)


def wants_of(kind: str, *needs: Any) -> Wants:
    """The needs of a job from the columns ``NEEDS``."""
    model, gpu_model, min_vram_mib, quoted, image, architecture, unasked = needs
    return Wants(
        JobType(kind),
        model,
        gpu_model,
        min_vram_mib,
        pricing.parse(quoted) if quoted is not None else None,
        image,
        architecture,
        Unasked(unasked) if unasked is not None else None,
    )


def rename_gpus() -> None:
    """Brings the GPU names that queued jobs want into the catalogue's form, as providers.rename_gpus does."""
    is_queued = states.is_in(db.Job.state, JobState.QUEUED)
    wanted = db.Job.select(db.Job.gpu_model).where(is_queued, db.Job.gpu_model.is_null(False)).distinct()
    for (name,) in list(db.tuples(wanted)):
        if (known := str(asked(name))) != name:
            db.Job.update(gpu_model=known).where(is_queued, db.Job.gpu_model == name).execute()


def unstarted(now_ms: int, limit: int) -> list[str]:
    """Queued jobs whose deadline for the start has passed."""
    return [job_id for (job_id,) in _unstarted.all(now_ms=now_ms, limit=limit)]


def requeue(job: Job, start_by_ms: int) -> bool:
    """Queues a job again after its attempt; the attempt's output and files no longer count."""
    changes.note(job.job_id)
    changed = (
        db.Job.update(
            state=states.after(JOB_TRANSITIONS, JobEvent.REQUEUE),
            provider_id=job.named_provider_id,
            start_by_ms=start_by_ms,
            started_ms=None,
            output_bytes=0,
            artifact_count=0,
            artifact_bytes=0,
        )
        .where(_guard(job, JobEvent.REQUEUE))
        .execute()
    )
    return bool(changed)


def finish(
    job: Job,
    event: JobEvent,
    bill: Bill,
    now_ms: int,
    *,
    failure_reason: FailureReason | None = None,
    failure_message: str | None = None,
    content_type: str = "",
    usage: dict[str, Any] | None = None,
    output_truncated: bool = False,
    logprobs: Logprobs = (),
    last_bytes: int = 0,
) -> bool:
    """Ends a job once; False if its state or lease epoch has changed since ``job`` was read.

    ``last_bytes``: of the output that was stored with the end of its lease.
    """
    state = JOB_TRANSITIONS.next_state(job.state, event)
    if state not in FINAL:
        return False
    changes.note(job.job_id)
    changed = _finish.run(
        job_id=job.job_id,
        lease_epoch=job.lease_epoch,
        state_before=states.stored(job.state),
        state=states.stored(state),
        ended_ms=now_ms,
        billed_ms=bill.billed_ms,
        charge_micros=bill.charge_micros,
        payout_micros=bill.payout_micros,
        failure_reason=failure_reason.value if failure_reason else None,
        failure_message=failure_message,
        content_type=content_type,
        usage=json.dumps(usage) if usage else None,
        output_truncated=output_truncated,
        logprobs=json.dumps(logprobs) if logprobs else None,
        last_bytes=last_bytes,
    )
    if changed:
        reason = failure_reason.value if failure_reason else ""
        counted.note("dcp_jobs_ended_total", job.job_type.value, states.stored(state), reason)
        spans.note_job(job, states.stored(state), failure_reason, now_ms)
    return bool(changed)


def request_cancel(job: Job, now_ms: int, *, keeps_files: bool = False) -> bool:
    """Records when the cancel of a running job was first requested, and whether its files are kept."""
    changes.note(job.job_id)
    changed = (
        db.Job.update(
            cancel_requested_ms=pw.fn.COALESCE(db.Job.cancel_requested_ms, now_ms), keeps_files=keeps_files
        )
        .where(_guard(job, JobEvent.REQUEST_CANCEL))
        .execute()
    )
    return bool(changed)


def _guard(job: Job, event: JobEvent) -> Any:
    """The guard of a write: the job has no newer lease, and its state allows ``event``."""
    return (
        (db.Job.job_id == job.job_id)
        & (db.Job.lease_epoch == job.lease_epoch)
        & states.may(db.Job.state, JOB_TRANSITIONS, event)
    )


def job_of(row: Any) -> Job:
    """The job of a row."""
    return Job(
        job_id=row.job_id,
        renter_id=row.renter_id,
        job_type=JobType(row.job_type),
        state=JobState(row.state),
        named_provider_id=row.named_provider_id,
        provider_id=row.provider_id,
        model=row.model,
        duration_ms=row.duration_ms,
        limit_ms=row.limit_ms,
        priority=row.priority,
        hold_micros=row.hold_micros,
        price=pricing.parse(row.price or str(row.rate_halala_per_minute)),
        lease_epoch=row.lease_epoch,
        attempt=row.attempt,
        start_within_ms=row.start_within_ms,
        start_by_ms=row.start_by_ms,
        lost_after_ms=row.lost_after_ms,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cancel_requested_ms=row.cancel_requested_ms,
        keeps_files=row.keeps_files,
        output_bytes=row.output_bytes,
        output_truncated=bool(row.output_truncated),
        content_type=row.content_type,
        bill=_bill(row),
        failure_reason=FailureReason(row.failure_reason) if row.failure_reason else None,
        failure_message=row.failure_message,
        usage=json.loads(row.usage) if row.usage else None,
        spec=json.loads(row.spec) if row.spec is not None else {},
        request_digest=row.request_digest,
        artifact_count=row.artifact_count,
        artifact_bytes=row.artifact_bytes,
        texts_removed_ms=row.texts_removed_ms,
        logprobs=tuple(map(tuple, json.loads(row.logprobs))) if row.logprobs else (),
        key_id=row.key_id,
        trace=row.trace,
        is_renter_deleted=bool(row.is_renter_deleted) if hasattr(row, "is_renter_deleted") else None,
    )


def _bill(row: Any) -> Bill | None:
    if row.charge_micros is None:
        return None
    hold, charge, payout = row.hold_micros, row.charge_micros, row.payout_micros
    assert row.billed_ms is not None
    return Bill(hold, charge, hold - charge, payout, charge - payout, row.billed_ms)
