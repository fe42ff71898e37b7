"""Jobs, leases and output as rows.

Every write that follows a daemon's word is a compare-and-set on job, lease epoch, provider, session
and state. It answers False when no row matched: stale, and nothing changed.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import peewee as pw

from server.domain.jobs import (
    FINAL,
    Bill,
    FailureReason,
    Job,
    JobEvent,
    JobRequest,
    JobState,
    JobType,
    next_state,
    sources,
)
from server.domain.leases import Lease, LeaseOutcome, LeaseRef, LeaseState, Offer, Stream, secret_digest
from server.domain.placement import Candidate, Wants
from server.domain.pricing import shares
from server.store import models as db
from server.store.statements import Rows, Statement, arg, locking


def _held(*states: LeaseState) -> Any:
    """The guard of each write that follows a daemon's word: this lease, of this session, in such a state."""
    lease = db.Lease
    return (
        (lease.job_id == arg("job_id"))
        & (lease.lease_epoch == arg("lease_epoch"))
        & (lease.secret_sha256 == arg("secret"))
        & (lease.provider_id == arg("provider_id"))
        & (lease.session_epoch == arg("session_epoch"))
        & lease.state.in_([state.value for state in states])
    )


def _in_epoch(state: JobState) -> Any:
    """The guard of a job's moves: in this state, and leased in this epoch."""
    job = db.Job
    return (
        (job.job_id == arg("job_id")) & (job.lease_epoch == arg("lease_epoch")) & (job.state == state.value)
    )


def _places(model: type[pw.Model], *names: str, **fixed: Any) -> dict[Any, Any]:
    """Columns with the places of their values, or with fixed ones."""
    return {
        **{getattr(model, name): arg(name) for name in names},
        **{getattr(model, name): value for name, value in fixed.items()},
    }


def _advance(column: Any) -> Statement:
    return Statement(
        lambda: db.Lease.update({column: arg("seq")}).where(
            _held(LeaseState.ACCEPTED, LeaseState.RUNNING) & (column == arg("before"))
        )
    )


_get = Rows(db.Job, lambda rows: rows.where(db.Job.job_id == arg("job_id")))
_get_locked = Rows(db.Job, lambda rows: locking(rows.where(db.Job.job_id == arg("job_id"))))
_get_lease = Rows(
    db.Lease,
    lambda rows: rows.where(db.Lease.job_id == arg("job_id"), db.Lease.lease_epoch == arg("lease_epoch")),
)
_insert = Statement(
    lambda: db.Job.insert(
        _places(
            db.Job,
            "job_id",
            "renter_id",
            "job_type",
            "named_provider_id",
            "provider_id",
            "model",
            "gpu_model",
            "min_vram_mib",
            "duration_ms",
            "limit_ms",
            "priority",
            "hold_halala",
            "rate_halala_per_minute",
            "spec",
            "created_ms",
            "idempotency_key",
            "request_digest",
            state=JobState.QUEUED.value,
        )
    )
)
_any_queued = Statement(
    lambda: db.Job.select(db.Job.job_id).where(db.Job.state == JobState.QUEUED.value).limit(1)
)
_count_open_leases = Statement(
    lambda: db.Lease.select(pw.fn.COUNT(db.Lease.job_id)).where(
        db.Lease.provider_id == arg("provider_id"), db.Lease.state != LeaseState.ENDED.value
    )
)
# NO KEY: a job that was just stored refers to its provider, and two such submits would deadlock on it.
_lock_provider = Statement(
    lambda: locking(
        db.Provider.select(db.Provider.session_epoch).where(
            db.Provider.id == arg("provider_id"), db.Provider.state == "active", ~db.Provider.draining
        ),
        "FOR NO KEY UPDATE",
    )
)
_pend = Statement(
    lambda: db.Job.update(
        {
            db.Job.state: JobState.PENDING.value,
            db.Job.lease_epoch: arg("epoch"),
            db.Job.provider_id: arg("provider_id"),
        }
    ).where(
        db.Job.job_id == arg("job_id"),
        db.Job.state == JobState.QUEUED.value,
        db.Job.lease_epoch == arg("before"),
    )
)
_insert_lease = Statement(
    lambda: db.Lease.insert(
        _places(
            db.Lease,
            "job_id",
            "lease_epoch",
            "provider_id",
            "session_epoch",
            "secret_sha256",
            "offered_ms",
            state=LeaseState.OFFERED.value,
        )
    )
)
_accept_job = Statement(
    lambda: db.Job.update({db.Job.state: JobState.ASSIGNED.value, db.Job.attempt: db.Job.attempt + 1}).where(
        _in_epoch(JobState.PENDING)
    )
)
_accept_lease = Statement(
    lambda: db.Lease.update(
        {
            db.Lease.state: LeaseState.ACCEPTED.value,
            db.Lease.accepted_ms: arg("now_ms"),
            db.Lease.attempt: db.Job.select(db.Job.attempt + 1).where(db.Job.job_id == arg("job_id")),
        }
    ).where(_held(LeaseState.OFFERED))
)
_start_job = Statement(
    lambda: db.Job.update({db.Job.state: JobState.RUNNING.value, db.Job.started_ms: arg("now_ms")}).where(
        _in_epoch(JobState.ASSIGNED)
    )
)
_start_lease = Statement(
    lambda: db.Lease.update(
        {db.Lease.state: LeaseState.RUNNING.value, db.Lease.started_ms: arg("now_ms")}
    ).where(_held(LeaseState.ACCEPTED))
)
_advance_stream = {
    Stream.OUTPUT: _advance(db.Lease.output_through_seq),
    Stream.LOG: _advance(db.Lease.log_through_seq),
}
_insert_chunk = Statement(
    lambda: db.Chunk.insert(_places(db.Chunk, "job_id", "lease_epoch", "stream", "seq", "data"))
)
_count_output = Statement(
    lambda: db.Job.update({db.Job.output_bytes: db.Job.output_bytes + arg("size")}).where(
        db.Job.job_id == arg("job_id")
    )
)
_end_lease = Statement(
    lambda: db.Lease.update(
        {
            db.Lease.state: LeaseState.ENDED.value,
            db.Lease.outcome: arg("outcome"),
            db.Lease.detail: arg("detail"),
            db.Lease.run_ms: arg("run_ms"),
            db.Lease.ended_ms: arg("now_ms"),
        }
    ).where(
        db.Lease.job_id == arg("job_id"),
        db.Lease.lease_epoch == arg("lease_epoch"),
        db.Lease.session_epoch == arg("session_epoch"),
        db.Lease.state != LeaseState.ENDED.value,
    )
)
_finish = Statement(
    lambda: db.Job.update(
        _places(
            db.Job,
            "state",
            "ended_ms",
            "billed_ms",
            "charge_halala",
            "failure_reason",
            "failure_message",
            "content_type",
            "usage",
        )
    ).where(
        db.Job.job_id == arg("job_id"),
        db.Job.lease_epoch == arg("lease_epoch"),
        db.Job.state == arg("before"),
    )
)
_read_stream = Statement(
    lambda: (
        db.Chunk.select(db.Chunk.data)
        .where(
            db.Chunk.job_id == arg("job_id"),
            db.Chunk.lease_epoch == arg("lease_epoch"),
            db.Chunk.stream == arg("stream"),
        )
        .order_by(db.Chunk.seq)
    )
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
) -> None:
    """A new job, queued."""
    _insert.run(
        job_id=job_id,
        renter_id=renter_id,
        job_type=request.job_type.value,
        named_provider_id=request.provider_id,
        provider_id=request.provider_id,
        model=request.model,
        gpu_model=request.gpu_model,
        min_vram_mib=request.min_vram_mib,
        duration_ms=request.duration_ms,
        limit_ms=limit_ms,
        priority=request.priority,
        hold_halala=hold_halala,
        rate_halala_per_minute=rate_halala_per_minute,
        spec=json.dumps(request.spec, ensure_ascii=False),
        created_ms=now_ms,
        idempotency_key=request.idempotency_key,
        request_digest=request.digest,
    )


def get(job_id: str) -> Job | None:
    """One job, by id."""
    row = _get.one(job_id=job_id)
    return _job(row) if row is not None else None


def lock(job_id: str) -> Job | None:
    """One job, by id, that nobody else changes until the transaction ends: what ends a job begins here."""
    row = _get_locked.one(job_id=job_id)
    return _job(row) if row is not None else None


def by_idempotency_key(renter_id: int, key: str) -> Job | None:
    """The job that a renter submitted under a key."""
    row = db.Job.get_or_none(db.Job.renter_id == renter_id, db.Job.idempotency_key == key)
    return _job(row) if row is not None else None


def newest_of_renter(renter_id: int, limit: int) -> list[Job]:
    """A renter's newest jobs."""
    query = db.Job.select().where(db.Job.renter_id == renter_id)
    return [_job(row) for row in query.order_by(db.Job.created_ms.desc(), db.Job.job_id).limit(limit)]


def newest_of_provider(provider_id: int, limit: int) -> list[Job]:
    """A provider's newest jobs."""
    query = db.Job.select().where(db.Job.provider_id == provider_id)
    return [_job(row) for row in query.order_by(db.Job.created_ms.desc(), db.Job.job_id).limit(limit)]


def count_of_renter(renter_id: int) -> int:
    """How many jobs a renter has submitted."""
    return int(db.Job.select().where(db.Job.renter_id == renter_id).count())


def count_ended_of_provider(provider_id: int) -> int:
    """How many jobs a provider has run to an end, whatever the end."""
    worked = (LeaseOutcome.SUCCEEDED, LeaseOutcome.FAILED, LeaseOutcome.CANCELLED)
    query = db.Lease.select().where(
        db.Lease.provider_id == provider_id,
        db.Lease.attempt > 0,
        db.Lease.outcome.in_([outcome.value for outcome in worked]),
    )
    return int(query.count())


def count_by_state() -> dict[JobState, int]:
    """How many jobs are in each state."""
    query = db.Job.select(db.Job.state, pw.fn.COUNT(db.Job.job_id)).group_by(db.Job.state)
    counts = {state: int(count) for state, count in db.tuples(query)}
    return {state: counts.get(state.value, 0) for state in JobState}


# The queue.


def open_leases(provider_id: int) -> list[Lease]:
    """The leases of a provider that have not ended, oldest first."""
    query = db.Lease.select().where(
        db.Lease.provider_id == provider_id, db.Lease.state != LeaseState.ENDED.value
    )
    return [_lease(row) for row in query.order_by(db.Lease.offered_ms)]


def count_open_leases(provider_id: int) -> int:
    """How many leases of a provider have not ended."""
    return int(_count_open_leases.value(provider_id=provider_id))


def lock_provider(provider_id: int) -> int | None:
    """The provider's session epoch; nobody else leases to it until the transaction ends."""
    epoch = _lock_provider.value(provider_id=provider_id)
    return int(epoch) if epoch is not None else None


def next_queued(candidate: Candidate, limit: int, before_ms: int) -> list[Job]:
    """The queued jobs that a provider can run: those that name it or nobody, by priority, then age.

    A job whose last offer this same provider refused or let expire after ``before_ms`` is left for later.
    """
    kinds, models = sorted(candidate.job_types), [model.name for model in candidate.models]
    rows = _next_queued(len(kinds), len(models)).all(
        provider_id=candidate.provider_id,
        vram_mib=candidate.vram_mib,
        gpu_model=candidate.gpu_model.lower(),
        before_ms=before_ms,
        limit=limit,
        **{f"kind{index}": kind.value for index, kind in enumerate(kinds)},
        **{f"model{index}": name for index, name in enumerate(models)},
    )
    return [_job(row) for row in rows]


@functools.lru_cache(maxsize=64)
def _next_queued(kinds: int, models: int) -> Rows:
    """The statement for a provider with so many kinds of job and so many models."""
    job, refused = db.Job, (LeaseOutcome.REFUSED.value, LeaseOutcome.EXPIRED.value)

    def where(rows: Any) -> Any:
        lately = db.Lease.select(db.Lease.job_id).where(
            db.Lease.job_id == job.job_id,
            db.Lease.provider_id == arg("provider_id"),
            db.Lease.outcome.in_(refused),
            db.Lease.ended_ms > arg("before_ms"),
        )
        query = rows.where(
            job.state == JobState.QUEUED.value,
            job.named_provider_id.is_null() | (job.named_provider_id == arg("provider_id")),
            job.job_type.in_([arg(f"kind{index}") for index in range(kinds)]),
            job.model.is_null() | job.model.in_([arg(f"model{index}") for index in range(models)]),
            job.min_vram_mib.is_null() | (job.min_vram_mib <= arg("vram_mib")),
            job.gpu_model.is_null() | _contains(arg("gpu_model"), job.gpu_model),
            ~pw.fn.EXISTS(lately),
        )
        ordered = query.order_by(job.priority.desc(), job.created_ms, job.job_id).limit(arg("limit"))
        return locking(ordered, "FOR UPDATE SKIP LOCKED")

    return Rows(job, where)


def _contains(text: Any, part: pw.Field) -> Any:
    position = "strpos" if db.Job._meta.database.for_update else "instr"
    return getattr(pw.fn, position)(text, pw.fn.LOWER(part)) > 0


def offer(job: Job, provider_id: int, session_epoch: int, secret: bytes, now_ms: int) -> Offer | None:
    """Leases a queued job to a session and returns the offer; None when it is not queued any more."""
    epoch = job.lease_epoch + 1
    if _pend.run(job_id=job.job_id, provider_id=provider_id, epoch=epoch, before=job.lease_epoch) != 1:
        return None
    _insert_lease.run(
        job_id=job.job_id,
        lease_epoch=epoch,
        provider_id=provider_id,
        session_epoch=session_epoch,
        secret_sha256=secret_digest(secret),
        offered_ms=now_ms,
    )
    ref = LeaseRef(job.job_id, epoch, secret)
    return Offer(ref, provider_id, session_epoch, job.attempt + 1, job.job_type, job.limit_ms, job.spec)


# Leases.


def lease(job_id: str, lease_epoch: int) -> Lease | None:
    """One lease, by job and epoch."""
    row = _get_lease.one(job_id=job_id, lease_epoch=lease_epoch)
    return _lease(row) if row is not None else None


def accept(ref: LeaseRef, provider_id: int, session_epoch: int, now_ms: int) -> bool:
    """The daemon takes the offer: the job is assigned and its attempt counts."""
    moved = _accept_lease.run(**_key(ref, provider_id, session_epoch), now_ms=now_ms)
    return bool(moved and _accept_job.run(job_id=ref.job_id, lease_epoch=ref.lease_epoch))


def start(ref: LeaseRef, provider_id: int, session_epoch: int, now_ms: int) -> bool:
    """The run has started: the meter runs from ``now_ms``."""
    moved = _start_lease.run(**_key(ref, provider_id, session_epoch), now_ms=now_ms)
    return bool(moved and _start_job.run(job_id=ref.job_id, lease_epoch=ref.lease_epoch, now_ms=now_ms))


def store_chunk(
    ref: LeaseRef, provider_id: int, session_epoch: int, stream: Stream, seq: int, data: bytes
) -> bool:
    """Stores the next chunk of a stream; False when the lease is stale or the number is not the next."""
    key = _key(ref, provider_id, session_epoch)
    if _advance_stream[stream].run(**key, seq=seq, before=seq - 1) != 1:
        return False
    _insert_chunk.run(job_id=ref.job_id, lease_epoch=ref.lease_epoch, stream=stream.value, seq=seq, data=data)
    if stream is Stream.OUTPUT:
        _count_output.run(job_id=ref.job_id, size=len(data))
    return True


def end_lease(
    lease: Lease, outcome: LeaseOutcome, now_ms: int, *, detail: str = "", run_ms: int | None = None
) -> bool:
    """Ends a lease once; False when it had ended."""
    changed = _end_lease.run(
        job_id=lease.job_id,
        lease_epoch=lease.lease_epoch,
        session_epoch=lease.session_epoch,
        outcome=outcome.value,
        detail=detail,
        run_ms=run_ms,
        now_ms=now_ms,
    )
    return bool(changed)


def restamp(lease: Lease, session_epoch: int) -> None:
    """The lease goes on under a newer session of the same provider."""
    db.Lease.update(session_epoch=session_epoch).where(
        db.Lease.job_id == lease.job_id, db.Lease.lease_epoch == lease.lease_epoch
    ).execute()


def offers_before(before_ms: int, limit: int) -> list[Lease]:
    """Offers that nobody answered, made before a time."""
    query = db.Lease.select().where(
        db.Lease.state == LeaseState.OFFERED.value, db.Lease.offered_ms < before_ms
    )
    return [_lease(row) for row in query.order_by(db.Lease.offered_ms).limit(limit)]


def leases_of_silent(before_ms: int, limit: int) -> list[Lease]:
    """Leases of providers whose last heartbeat was before a time."""
    query = (
        db.Lease.select()
        .join(db.Provider, on=(db.Provider.id == db.Lease.provider_id))
        .where(
            db.Lease.state != LeaseState.ENDED.value,
            pw.fn.COALESCE(db.Provider.last_heartbeat_ms, 0) < before_ms,
        )
        .order_by(db.Lease.offered_ms)
        .limit(limit)
    )
    return [_lease(row) for row in query]


def running_past(now_ms: int, grace_ms: int, limit: int) -> list[tuple[str, int]]:
    """Running jobs, with their providers, past their limit or a wish to cancel by more than the grace."""
    job = db.Job
    over = (job.started_ms + job.limit_ms + grace_ms < now_ms) | (job.cancel_requested_ms + grace_ms < now_ms)
    query = job.select(job.job_id, job.provider_id).where(job.state == JobState.RUNNING.value, over)
    return [(job_id, int(provider_id)) for job_id, provider_id in db.tuples(query.limit(limit))]


def preparing_since(before_ms: int, limit: int) -> list[Lease]:
    """Leases that were accepted before a time and have not started."""
    query = db.Lease.select().where(
        db.Lease.state == LeaseState.ACCEPTED.value, db.Lease.accepted_ms < before_ms
    )
    return [_lease(row) for row in query.limit(limit)]


def queued_wants(limit: int) -> list[tuple[int | None, Wants]]:
    """The different needs of the jobs that wait, each with the provider that it names, in their order."""
    job = db.Job
    needs = (job.named_provider_id, job.job_type, job.model, job.gpu_model, job.min_vram_mib)
    query = (
        job.select(*needs)
        .where(job.state == JobState.QUEUED.value)
        .group_by(*needs)
        .order_by(pw.fn.MAX(job.priority).desc(), pw.fn.MIN(job.created_ms))
        .limit(limit)
    )
    return [(named_id, Wants(JobType(kind), *rest)) for named_id, kind, *rest in db.tuples(query)]


def has_queued() -> bool:
    """Whether any job waits."""
    return _any_queued.one() is not None


# Ends.


def requeue(job: Job) -> bool:
    """The attempt is over and the job waits again; what the attempt wrote no longer counts."""
    changed = (
        db.Job.update(
            state=JobState.QUEUED.value,
            provider_id=job.named_provider_id,
            started_ms=None,
            output_bytes=0,
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
) -> bool:
    """Ends a job once; False when it is not in the state and epoch that ``job`` was read in."""
    state = next_state(job.state, event)
    if state not in FINAL:
        return False
    changed = _finish.run(
        job_id=job.job_id,
        lease_epoch=job.lease_epoch,
        before=job.state.value,
        state=state.value,
        ended_ms=now_ms,
        billed_ms=bill.billed_ms,
        charge_halala=bill.charge_halala,
        failure_reason=failure_reason.value if failure_reason else None,
        failure_message=failure_message,
        content_type=content_type,
        usage=json.dumps(usage) if usage else None,
    )
    return bool(changed)


def request_cancel(job: Job, now_ms: int) -> bool:
    """Notes when a running job was asked to end; the first time counts."""
    changed = (
        db.Job.update(cancel_requested_ms=pw.fn.COALESCE(db.Job.cancel_requested_ms, now_ms))
        .where(
            db.Job.job_id == job.job_id,
            db.Job.lease_epoch == job.lease_epoch,
            db.Job.state == JobState.RUNNING.value,
        )
        .execute()
    )
    return bool(changed)


def read_stream(job_id: str, lease_epoch: int, stream: Stream) -> bytes:
    """Everything that one attempt wrote to a stream, in order."""
    rows = _read_stream.all(job_id=job_id, lease_epoch=lease_epoch, stream=stream.value)
    return b"".join(bytes(data) for (data,) in rows)


def stream_bytes(job_id: str, lease_epoch: int, stream: Stream) -> int:
    """How many bytes of a stream are stored."""
    query = db.Chunk.select(pw.fn.SUM(pw.fn.LENGTH(db.Chunk.data))).where(
        db.Chunk.job_id == job_id, db.Chunk.lease_epoch == lease_epoch, db.Chunk.stream == stream.value
    )
    return int(query.scalar() or 0)


def _guard(job: Job, event: JobEvent) -> Any:
    return (
        (db.Job.job_id == job.job_id)
        & (db.Job.lease_epoch == job.lease_epoch)
        & db.Job.state.in_([state.value for state in sources(event)])
    )


def _key(ref: LeaseRef, provider_id: int, session_epoch: int) -> dict[str, Any]:
    """The whole of a lease, as the guards of ``_held`` name it."""
    return {
        "job_id": ref.job_id,
        "lease_epoch": ref.lease_epoch,
        "secret": secret_digest(ref.secret),
        "provider_id": provider_id,
        "session_epoch": session_epoch,
    }


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
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cancel_requested_ms=row.cancel_requested_ms,
        output_bytes=row.output_bytes,
        content_type=row.content_type,
        bill=_bill(row),
        failure_reason=FailureReason(row.failure_reason) if row.failure_reason else None,
        failure_message=row.failure_message,
        usage=json.loads(row.usage) if row.usage else None,
        spec=json.loads(row.spec),
        request_digest=row.request_digest,
    )


def _bill(row: Any) -> Bill | None:
    if row.charge_halala is None:
        return None
    payout, fee = shares(row.charge_halala)
    refund = row.hold_halala - row.charge_halala
    assert row.billed_ms is not None
    return Bill(row.hold_halala, row.charge_halala, refund, payout, fee, row.billed_ms)


def _lease(row: Any) -> Lease:
    return Lease(
        job_id=row.job_id,
        lease_epoch=row.lease_epoch,
        provider_id=row.provider_id,
        session_epoch=row.session_epoch,
        secret_sha256=bytes(row.secret_sha256),
        state=LeaseState(row.state),
        attempt=row.attempt,
        offered_ms=row.offered_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        outcome=LeaseOutcome(row.outcome) if row.outcome else None,
        output_through_seq=row.output_through_seq,
        log_through_seq=row.log_through_seq,
    )
