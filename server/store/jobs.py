"""Jobs as rows: the request, the state, the queue, and the end.

Every change of a job's state is a compare-and-set on its lease epoch and on the states that JOB_TRANSITIONS
allows; False means that the job has changed since it was read. The changes that a daemon causes are in
leases.py, with those of the lease.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import peewee as pw

from common.images import likes_of
from server.domain.gpu_models import answers, asked
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
)
from server.domain.leases import LeaseOutcome
from server.domain.placement import Candidate, Obstacle, Wants, allows, owners_obstacle, vram_for_jobs_mib
from server.domain.pricing import shares
from server.domain.queue import Waiting
from server.store import models as db
from server.store import states
from server.store.leases import ENDED_ATTEMPT, not_taken
from server.store.prepared import PreparedQuery, PreparedRows, arg, bound, locking, squeezed_column

_get = PreparedRows(db.Job, lambda rows: rows.where(db.Job.job_id == arg("job_id")))
_get_of_renter = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id"), db.Job.renter_id == arg("renter_id")),
)
_get_of_provider = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.job_id == arg("job_id"), db.Job.provider_id == arg("provider_id")),
)
# What a list leaves in the database: a prompt can have megabytes, and a list has 200 jobs.
_UNLISTED = ("spec",)
_newest_of_renter = PreparedRows(
    db.Job,
    lambda rows: (
        rows.where(db.Job.renter_id == arg("renter_id"))
        .order_by(db.Job.created_ms.desc(), db.Job.job_id.desc())
        .limit(arg("limit"))
    ),
    without=_UNLISTED,
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
_count_of_renter = PreparedQuery(
    lambda: db.Job.select(pw.fn.COUNT(db.Job.job_id)).where(db.Job.renter_id == arg("renter_id"))
)
_by_idempotency_key = PreparedRows(
    db.Job,
    lambda rows: rows.where(db.Job.renter_id == arg("renter_id"), db.Job.idempotency_key == arg("key")),
)
_get_locked = PreparedRows(db.Job, lambda rows: locking(rows.where(db.Job.job_id == arg("job_id"))))
_insert = PreparedQuery(
    lambda: db.Job.insert(
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
            "duration_ms",
            "limit_ms",
            "priority",
            "hold_halala",
            "rate_halala_per_minute",
            "spec",
            "start_within_ms",
            "start_by_ms",
            "lost_after_ms",
            "created_ms",
            "idempotency_key",
            "request_digest",
            state=states.first(JOB_TRANSITIONS, JobEvent.SUBMIT),
        )
    )
)
_any_queued = PreparedQuery(
    lambda: (
        db.Job.select(db.Job.job_id)
        .where(states.is_exactly(db.Job.state, JobState.QUEUED))
        .order_by(db.Job.priority.desc(), db.Job.created_ms)  # the order of the index job_queue
        .limit(1)
    )
)
_finish = PreparedQuery(
    lambda: db.Job.update(
        bound(
            db.Job,
            "state",
            "ended_ms",
            "billed_ms",
            "charge_halala",
            "failure_reason",
            "failure_message",
            "content_type",
            "usage",
            "output_truncated",
        )
    ).where(
        db.Job.job_id == arg("job_id"),
        db.Job.lease_epoch == arg("lease_epoch"),
        db.Job.state == arg("state_before"),
    )
)


# A newer release may have stored types that this one does not know: such a job holds up no other.
_JOB_TYPES = frozenset(kind.value for kind in JobType)
PassOver = Callable[[str, Exception], object]
# The columns of Wants. The quote matters only if the job names no provider.
_QUOTED = pw.Case(None, [(db.Job.named_provider_id.is_null(), db.Job.rate_halala_per_minute)])
_NEEDS = (
    *(db.Job.job_type, db.Job.model, db.Job.gpu_model, db.Job.min_vram_mib, _QUOTED),
    *(db.Job.image, db.Job.architecture),
)


def insert(
    job_id: str,
    renter_id: int,
    request: JobRequest,
    *,
    rate_halala_per_minute: int,
    hold_halala: int,
    limit_ms: int,
    now_ms: int,
) -> int:
    """Inserts a new job in the first state of JOB_TRANSITIONS; returns the size of its request, in bytes."""
    spec = json.dumps(request.spec, ensure_ascii=False)
    _insert.run(
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
        duration_ms=request.duration_ms,
        limit_ms=limit_ms,
        priority=request.priority,
        hold_halala=hold_halala,
        rate_halala_per_minute=rate_halala_per_minute,
        spec=spec,
        start_within_ms=request.start_within_ms,
        start_by_ms=now_ms + request.start_within_ms,
        lost_after_ms=request.lost_after_ms,
        created_ms=now_ms,
        idempotency_key=request.idempotency_key,
        request_digest=request.digest,
    )
    return len(spec.encode())


def get(job_id: str) -> Job | None:
    """One job, by id."""
    row = _get.one(job_id=job_id)
    return _job(row) if row is not None else None


def get_of_renter(job_id: str, renter_id: int) -> Job | None:
    """One job, by id, if it belongs to this renter."""
    row = _get_of_renter.one(job_id=job_id, renter_id=renter_id)
    return _job(row) if row is not None else None


def get_of_provider(job_id: str, provider_id: int) -> Job | None:
    """One job, by id, if this provider runs it or ran it last."""
    row = _get_of_provider.one(job_id=job_id, provider_id=provider_id)
    return _job(row) if row is not None else None


def lock(job_id: str) -> Job | None:
    """One job, by id, locked until the transaction ends; every end of a job begins with this lock."""
    row = _get_locked.one(job_id=job_id)
    return _job(row) if row is not None else None


def by_idempotency_key(renter_id: int, key: str) -> Job | None:
    """The job that a renter submitted with an idempotency key."""
    row = _by_idempotency_key.one(renter_id=renter_id, key=key)
    return _job(row) if row is not None else None


def newest_of_renter(renter_id: int, limit: int) -> list[Job]:
    """A renter's newest jobs."""
    return [_job(row) for row in _newest_of_renter.all(renter_id=renter_id, limit=limit)]


def newest_of_provider(provider_id: int, limit: int) -> list[Job]:
    """A provider's newest jobs."""
    return [_job(row) for row in _newest_of_provider.all(provider_id=provider_id, limit=limit)]


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
    return [_job(row) for row in newest]


def count_of_renter(renter_id: int) -> int:
    """How many jobs a renter has submitted."""
    return int(_count_of_renter.value(renter_id=renter_id))


def count_ended_of_provider(provider_id: int) -> int:
    """How many runs of a provider have ended with a result: success, failure or cancellation."""
    worked = (LeaseOutcome.SUCCEEDED, LeaseOutcome.FAILED, LeaseOutcome.CANCELLED)
    query = db.Lease.select().where(
        db.Lease.provider_id == provider_id,
        ENDED_ATTEMPT,
        db.Lease.outcome.in_([outcome.value for outcome in worked]),
    )
    return int(query.count())


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


def next_queued(
    candidate: Candidate,
    limit: int,
    now_ms: int,
    refused_since_ms: int,
    pass_over: PassOver | None = None,
) -> list[Job]:
    """The queued jobs that a provider can run, by priority, then age: they name it, or no provider.

    A job that names no provider is included if its quote is at least the provider's own rate. Jobs whose
    offer this provider refused or let expire after ``refused_since_ms`` are left out, and so are jobs past
    their deadline for the start, which the sweep ends. A job whose row cannot be read is given to
    ``pass_over`` with the error, and those behind it move up; without ``pass_over``, the error is raised.
    """
    kinds, models = sorted(candidate.open_job_types), [model.name for model in candidate.models]
    if not kinds or owners_obstacle(candidate) is not Obstacle.NONE:
        return []
    gpus = sorted(answers(candidate.gpu_model, candidate.vram_mib))
    likes = _likes(candidate.image_patterns)
    query = _next_queued(len(kinds), len(models), len(gpus), None if likes is None else len(likes))
    values = {
        "provider_id": candidate.provider_id,
        # No job asks for less than 1 MiB, so unknown memory satisfies only those that do not ask.
        "vram_mib": vram_for_jobs_mib(candidate.vram_mib, candidate.vram_reserve_mib) or 0,
        "now_ms": now_ms,
        "refused_since_ms": refused_since_ms,
        "architecture": candidate.architecture,
        **{f"image{index}": like for index, like in enumerate(likes or ())},
        **{f"kind{index}": kind.value for index, kind in enumerate(kinds)},
        **{f"rate{index}": candidate.least_quote(kind) for index, kind in enumerate(kinds)},
        **{f"model{index}": name for index, name in enumerate(models)},
        **{f"gpu{index}": name for index, name in enumerate(gpus)},
    }
    asked = limit
    while True:
        rows = query.all(**values, limit=asked)
        # The patterns of the database may match a little more than those of the owner.
        fit = [row for row in rows if row.image is None or allows(candidate.image_patterns, row.image)]
        found = _readable(fit, pass_over)
        if len(found) >= limit or len(rows) < asked:
            return found[:limit]
        asked = limit + len(rows) - len(found)


def _readable(rows: list[Any], pass_over: PassOver | None) -> list[Job]:
    """The jobs of those rows that can be read."""
    found: list[Job] = []
    for row in rows:
        try:
            found.append(_job(row))
        except Exception as error:
            if pass_over is None:
                raise
            pass_over(row.job_id, error)
    return found


def _likes(patterns: tuple[str, ...] | None) -> list[str] | None:
    """An owner's patterns of images as those of LIKE, for full names of images; None: any image."""
    if patterns is None or "*" in patterns:
        return None
    return sorted({like for pattern in patterns for like in likes_of(pattern)})


@functools.lru_cache(maxsize=64)
def _next_queued(kinds: int, models: int, gpus: int, images: int | None) -> PreparedRows:
    """The query for a provider with N job types, models, names that its GPU satisfies, and images.

    ``images``: the number of its patterns; None if any image will do.
    """
    job = db.Job

    def where(rows: Any) -> Any:
        lately = db.Lease.select(db.Lease.job_id).where(
            db.Lease.job_id == job.job_id,
            db.Lease.provider_id == arg("provider_id"),
            (not_taken() & (db.Lease.ended_ms > arg("refused_since_ms")))
            | (db.Lease.failure_reason == FailureReason.OTHER_ARCHITECTURE.value),
        )
        is_allowed = job.image.is_null()
        for index in range(images or 0):
            is_allowed |= pw.Expression(job.image, pw.OP.ILIKE, arg(f"image{index}"))
        own_rate = pw.Case(job.job_type, [(arg(f"kind{n}"), arg(f"rate{n}")) for n in range(kinds)])
        query = rows.where(
            states.is_in(job.state, JobState.QUEUED),
            job.start_by_ms > arg("now_ms"),
            (job.named_provider_id == arg("provider_id"))
            | (job.named_provider_id.is_null() & (job.rate_halala_per_minute >= own_rate)),
            job.job_type.in_([arg(f"kind{index}") for index in range(kinds)]),
            job.model.is_null() | job.model.in_([arg(f"model{index}") for index in range(models)]),
            job.min_vram_mib.is_null() | (job.min_vram_mib <= arg("vram_mib")),
            job.gpu_model.is_null()
            | squeezed_column(job.gpu_model).in_([arg(f"gpu{index}") for index in range(gpus)]),
            job.architecture.is_null() | (job.architecture == arg("architecture")),
            ~pw.fn.EXISTS(lately),
        )
        if images is not None:
            query = query.where(is_allowed)
        ordered = query.order_by(job.priority.desc(), job.created_ms, job.job_id).limit(arg("limit"))
        return locking(ordered, "FOR UPDATE SKIP LOCKED")

    return PreparedRows(job, where)


def running_past(now_ms: int, grace_ms: int, limit: int) -> list[tuple[str, int]]:
    """Running jobs, with their providers, that exceed their limit or a requested cancel by over the grace."""
    job = db.Job
    over = (job.started_ms + job.limit_ms + grace_ms < now_ms) | (job.cancel_requested_ms + grace_ms < now_ms)
    query = job.select(job.job_id, job.provider_id).where(states.is_in(job.state, JobState.RUNNING), over)
    return [(job_id, int(provider_id)) for job_id, provider_id in db.tuples(query.limit(limit))]


def queued_wants(limit: int) -> list[tuple[int | None, Wants]]:
    """The distinct needs of queued jobs, each with the provider that it names, in the queue's order."""
    job = db.Job
    needs = (job.named_provider_id, *_NEEDS)
    query = (
        job.select(*needs)
        .where(states.is_in(job.state, JobState.QUEUED))
        .group_by(*needs)
        .order_by(pw.fn.MAX(job.priority).desc(), pw.fn.MIN(job.created_ms))
        .limit(limit)
    )
    return [
        (named_id, Wants(JobType(kind), *rest))
        for named_id, kind, *rest in db.tuples(query)
        if kind in _JOB_TYPES
    ]


def wants(job_id: str) -> Wants:
    """What a job requires of its provider."""
    ((kind, *rest),) = db.tuples(db.Job.select(*_NEEDS).where(db.Job.job_id == job_id))
    return Wants(JobType(kind), *rest)


def queue_through(job_id: str, limit: int) -> tuple[Waiting, list[Waiting]] | None:
    """A queued job, and those before it in the queue; None if it is not among the first ``limit``."""
    job = db.Job
    columns = (job.job_id, job.named_provider_id, job.limit_ms, *_NEEDS)
    query = job.select(*columns).where(states.is_in(job.state, JobState.QUEUED))
    before: list[Waiting] = []
    for found, named_id, limit_ms, kind, *rest in db.tuples(
        query.order_by(job.priority.desc(), job.created_ms, job.job_id).limit(limit)
    ):
        if kind not in _JOB_TYPES:
            continue
        waiting = Waiting(found, named_id, Wants(JobType(kind), *rest), limit_ms)
        if found == job_id:
            return waiting, before
        before.append(waiting)
    return None


def rename_gpus() -> None:
    """Brings the GPU names that queued jobs want into the catalogue's form, as providers.rename_gpus does."""
    is_queued = states.is_in(db.Job.state, JobState.QUEUED)
    wanted = db.Job.select(db.Job.gpu_model).where(is_queued, db.Job.gpu_model.is_null(False)).distinct()
    for (name,) in list(db.tuples(wanted)):
        if (known := str(asked(name))) != name:
            db.Job.update(gpu_model=known).where(is_queued, db.Job.gpu_model == name).execute()


def has_queued() -> bool:
    """Whether any job is queued."""
    return _any_queued.one() is not None


def unstarted(now_ms: int, limit: int) -> list[str]:
    """Queued jobs whose deadline for the start has passed."""
    query = db.Job.select(db.Job.job_id).where(
        states.is_in(db.Job.state, JobState.QUEUED), db.Job.start_by_ms <= now_ms
    )
    return [job_id for (job_id,) in db.tuples(query.order_by(db.Job.start_by_ms).limit(limit))]


def requeue(job: Job, start_by_ms: int) -> bool:
    """Queues a job again after its attempt; the attempt's output and files no longer count."""
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
) -> bool:
    """Ends a job once; False if its state or lease epoch has changed since ``job`` was read."""
    state = JOB_TRANSITIONS.next_state(job.state, event)
    if state not in FINAL:
        return False
    changed = _finish.run(
        job_id=job.job_id,
        lease_epoch=job.lease_epoch,
        state_before=states.stored(job.state),
        state=states.stored(state),
        ended_ms=now_ms,
        billed_ms=bill.billed_ms,
        charge_halala=bill.charge_halala,
        failure_reason=failure_reason.value if failure_reason else None,
        failure_message=failure_message,
        content_type=content_type,
        usage=json.dumps(usage) if usage else None,
        output_truncated=output_truncated,
    )
    return bool(changed)


def request_cancel(job: Job, now_ms: int) -> bool:
    """Records when the cancel of a running job was first requested."""
    changed = (
        db.Job.update(cancel_requested_ms=pw.fn.COALESCE(db.Job.cancel_requested_ms, now_ms))
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


def _job(row: Any) -> Job:
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
        hold_halala=row.hold_halala,
        rate_halala_per_minute=row.rate_halala_per_minute,
        lease_epoch=row.lease_epoch,
        attempt=row.attempt,
        start_within_ms=row.start_within_ms,
        start_by_ms=row.start_by_ms,
        lost_after_ms=row.lost_after_ms,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cancel_requested_ms=row.cancel_requested_ms,
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
    )


def _bill(row: Any) -> Bill | None:
    if row.charge_halala is None:
        return None
    payout, fee = shares(row.charge_halala)
    refund = row.hold_halala - row.charge_halala
    assert row.billed_ms is not None
    return Bill(row.hold_halala, row.charge_halala, refund, payout, fee, row.billed_ms)
