"""Leases as rows, and the output and logs of their runs.

Every write that a daemon asks for is a compare-and-set on job, lease epoch, secret, provider, session and
on the states that LEASE_TRANSITIONS allows. It returns False if no row matched: the lease is stale, and
nothing changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.jobs import JOB_TRANSITIONS, FailureReason, Job, JobEvent, JobType
from server.domain.leases import (
    LEASE_TRANSITIONS,
    Channel,
    Lease,
    LeaseEvent,
    LeaseOutcome,
    LeaseRef,
    LeaseState,
    Offer,
    public_number,
    secret_digest,
)
from server.store import changes, counted, spans, states
from server.store import models as db
from server.store.prepared import PreparedQuery, PreparedRows, arg, bound

MOST_CHUNKS = 512
"""Most chunks that are read at once."""


def _held(*events: LeaseEvent) -> Any:
    """The guard of a write that a daemon asked for: this session has the lease, and its state allows it."""
    lease = db.Lease
    return (
        (lease.job_id == arg("job_id"))
        & (lease.lease_epoch == arg("lease_epoch"))
        & (lease.secret_sha256 == arg("secret"))
        & (lease.provider_id == arg("provider_id"))
        & (lease.session_epoch == arg("session_epoch"))
        & states.may(lease.state, LEASE_TRANSITIONS, *events)
    )


def _leased(*events: JobEvent) -> Any:
    """The guard of a job's change: its lease has this epoch, and its state allows these events."""
    job = db.Job
    return (
        (job.job_id == arg("job_id"))
        & (job.lease_epoch == arg("lease_epoch"))
        & states.may(job.state, JOB_TRANSITIONS, *events)
    )


def _advance(column: Any, **also: Any) -> PreparedQuery:
    return PreparedQuery(
        lambda: db.Lease.update({column: arg("seq"), **also}).where(
            _held(LeaseEvent.WRITE) & (column == arg("before"))
        )
    )


def _silent(heard: Collection[int] = ()) -> PreparedRows:
    """The open leases that were not renewed within their ``lost_after_ms``, but for those of ``heard``."""
    renewed_ms = pw.fn.COALESCE(db.Provider.renewed_ms, 0)
    return PreparedRows(
        db.Lease,
        lambda rows: (
            rows.join(db.Provider, on=(db.Provider.id == db.Lease.provider_id))
            .join(db.Job, on=(db.Job.job_id == db.Lease.job_id))
            .where(
                states.is_not(db.Lease.state, LeaseState.ENDED),
                db.Job.lost_after_ms <= arg("awake_ms"),
                renewed_ms + db.Job.lost_after_ms < arg("now_ms"),
                *([db.Lease.provider_id.not_in(list(heard))] if heard else []),
            )
            .order_by(db.Lease.offered_ms)
            .limit(arg("limit"))
        ),
        last_renewed_ms=renewed_ms,
    )


_get_lease = PreparedRows(
    db.Lease,
    lambda rows: rows.where(db.Lease.job_id == arg("job_id"), db.Lease.lease_epoch == arg("lease_epoch")),
)
_open_of = PreparedRows(
    db.Lease,
    lambda rows: rows.where(
        db.Lease.provider_id == arg("provider_id"), states.is_not(db.Lease.state, LeaseState.ENDED)
    ).order_by(db.Lease.offered_ms),
)
_offers_before = PreparedRows(
    db.Lease,
    lambda rows: (
        rows.where(states.is_in(db.Lease.state, LeaseState.OFFERED), db.Lease.offered_ms < arg("before_ms"))
        .order_by(db.Lease.offered_ms)
        .limit(arg("limit"))
    ),
)
_silent_with_any_provider = _silent()
_preparing_since = PreparedRows(
    db.Lease,
    lambda rows: rows.where(
        states.is_in(db.Lease.state, LeaseState.ACCEPTED), db.Lease.accepted_ms < arg("before_ms")
    ).limit(arg("limit")),
)


def counted_open() -> Any:
    """A query of how many leases of ``arg("provider_id")`` have not ended."""
    return db.Lease.select(pw.fn.COUNT(db.Lease.job_id)).where(
        db.Lease.provider_id == arg("provider_id"), states.is_not(db.Lease.state, LeaseState.ENDED)
    )


def open_value() -> Any:
    """A query of the holds of the open leases of ``arg("provider_id")`` whose jobs named no provider."""
    return (
        db.Lease.select(pw.fn.SUM(db.Job.hold_micros))
        .join(db.Job, on=(db.Job.job_id == db.Lease.job_id))
        .where(
            db.Lease.provider_id == arg("provider_id"),
            states.is_not(db.Lease.state, LeaseState.ENDED),
            db.Job.named_provider_id.is_null(),
        )
    )


_count_open_leases = PreparedQuery(counted_open)


def _counted_by_provider() -> Any:
    return (
        db.Lease.select(
            db.Lease.provider_id,
            pw.fn.COUNT(db.Lease.job_id),
            pw.fn.SUM(pw.Case(None, [(db.Job.named_provider_id.is_null(), db.Job.hold_micros)], 0)),
        )
        .join(db.Job, on=(db.Job.job_id == db.Lease.job_id))
        .where(states.is_not(db.Lease.state, LeaseState.ENDED))
        .group_by(db.Lease.provider_id)
    )


_open_by_provider = PreparedQuery(_counted_by_provider)
_pend = PreparedQuery(
    lambda: db.Job.update(
        {
            db.Job.state: states.after(JOB_TRANSITIONS, JobEvent.OFFER),
            db.Job.lease_epoch: arg("epoch"),
            db.Job.provider_id: arg("provider_id"),
        }
    ).where(
        db.Job.job_id == arg("job_id"),
        states.may(db.Job.state, JOB_TRANSITIONS, JobEvent.OFFER),
        db.Job.lease_epoch == arg("before"),
    )
)
_insert_lease = PreparedQuery(
    lambda: db.Lease.insert(
        bound(
            db.Lease,
            "job_id",
            "lease_epoch",
            "provider_id",
            "session_epoch",
            "secret_sha256",
            "offered_ms",
            "output_limit_bytes",
            "number",
            state=states.first(LEASE_TRANSITIONS, LeaseEvent.OFFER),
        )
    )
)


def _move_job(*events: JobEvent, **columns: Any) -> PreparedQuery:
    return PreparedQuery(
        lambda: db.Job.update(state=states.after(JOB_TRANSITIONS, *events), **columns).where(_leased(*events))
    )


def _move_lease(*events: LeaseEvent, **columns: Any) -> PreparedQuery:
    return PreparedQuery(
        lambda: db.Lease.update(state=states.after(LEASE_TRANSITIONS, *events), **columns).where(
            _held(*events)
        )
    )


_accepted_job = {"attempt": db.Job.attempt + 1}
_accepted_lease = {
    "accepted_ms": arg("now_ms"),
    "attempt": db.Job.select(db.Job.attempt + 1).where(db.Job.job_id == arg("job_id")),
}
_started = {"started_ms": arg("now_ms")}
_accept_job = _move_job(JobEvent.ACCEPT, **_accepted_job)
_accept_lease = _move_lease(LeaseEvent.ACCEPT, **_accepted_lease)
_start_job = _move_job(JobEvent.START, **_started)
_start_lease = _move_lease(LeaseEvent.START, **_started)
_accept_started_job = _move_job(JobEvent.ACCEPT, JobEvent.START, **_accepted_job, **_started)
_accept_started_lease = _move_lease(LeaseEvent.ACCEPT, LeaseEvent.START, **_accepted_lease, **_started)
_FIRST_OUTPUT_MS = pw.fn.COALESCE(db.Lease.first_output_ms, arg("now_ms"))
_advance_stream = {
    Channel.OUTPUT: _advance(db.Lease.output_through_seq, first_output_ms=_FIRST_OUTPUT_MS),
    Channel.LOG: _advance(db.Lease.log_through_seq),
}
_insert_chunk = PreparedQuery(
    lambda: db.Chunk.insert(bound(db.Chunk, "job_id", "lease_epoch", "stream", "seq", "data"))
)
_count_output = PreparedQuery(
    lambda: db.Job.update({db.Job.output_bytes: db.Job.output_bytes + arg("size")}).where(
        db.Job.job_id == arg("job_id")
    )
)


def _end(*events: LeaseEvent, also: Mapping[str, Any], where: Sequence[Any] = ()) -> PreparedQuery:
    return PreparedQuery(
        lambda: db.Lease.update(
            bound(db.Lease, "outcome", "failure_reason", "detail", "run_ms", "image_digest"),
            state=states.after(LEASE_TRANSITIONS, *events),
            ended_ms=arg("now_ms"),
            **also,
        ).where(
            db.Lease.job_id == arg("job_id"),
            db.Lease.lease_epoch == arg("lease_epoch"),
            db.Lease.session_epoch == arg("session_epoch"),
            states.may(db.Lease.state, LEASE_TRANSITIONS, *events),
            *where,
        )
    )


_end_lease = _end(LeaseEvent.END, also={})
_write_and_end_lease = _end(
    LeaseEvent.WRITE,
    LeaseEvent.END,
    also={"output_through_seq": arg("seq"), "first_output_ms": _FIRST_OUTPUT_MS},
    where=[db.Lease.output_through_seq == arg("seq") - 1],
)
_read_stream = PreparedQuery(
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

_chunk_sizes = PreparedQuery(
    lambda: (
        db.Chunk.select(db.Chunk.seq, pw.fn.LENGTH(db.Chunk.data))
        .where(
            db.Chunk.job_id == arg("job_id"),
            db.Chunk.lease_epoch == arg("lease_epoch"),
            db.Chunk.stream == arg("stream"),
            db.Chunk.seq >= arg("first"),
        )
        .order_by(db.Chunk.seq)
        .limit(MOST_CHUNKS)
    )
)
_chunks_between = PreparedQuery(
    lambda: (
        db.Chunk.select(db.Chunk.seq, db.Chunk.data)
        .where(
            db.Chunk.job_id == arg("job_id"),
            db.Chunk.lease_epoch == arg("lease_epoch"),
            db.Chunk.stream == arg("stream"),
            db.Chunk.seq >= arg("first"),
            db.Chunk.seq <= arg("last"),
        )
        .order_by(db.Chunk.seq)
    )
)


# The condition of the partial index lease_record; PostgreSQL would not use the index with parameters.
ENDED_ATTEMPT = pw.SQL(f"state = {states.literal(LeaseState.ENDED)} AND attempt > 0")


ENDED_OFFER = pw.SQL(f"state = {states.literal(LeaseState.ENDED)} AND attempt = 0")
# A newer release may have stored types that this one does not know.
_JOB_TYPES = frozenset(kind.value for kind in JobType)


def not_taken() -> Any:
    """The condition on leases after which their job is not offered to the same provider for a while."""
    outcomes = (LeaseOutcome.REFUSED.value, LeaseOutcome.EXPIRED.value, LeaseOutcome.REVOKED.value)
    given_back = (FailureReason.ENGINE_BUSY.value, FailureReason.IMAGE_PULL_FAILED.value)
    return db.Lease.outcome.in_(outcomes) | db.Lease.failure_reason.in_(given_back)


@dataclass(frozen=True, slots=True)
class MissedOffer:
    """An offer that ended before it was accepted. Times are in ms since 1970."""

    job_id: str
    job_type: JobType
    outcome: LeaseOutcome
    detail: str
    offered_ms: int
    ended_ms: int


def missed_offers(provider_id: int, limit: int) -> list[MissedOffer]:
    """The newest offers that a provider's daemon did not take, newest first."""
    lease = db.Lease
    kind = db.Job.select(db.Job.job_type).where(db.Job.job_id == lease.job_id)
    query = lease.select(
        lease.job_id, kind.alias("job_type"), lease.outcome, lease.detail, lease.offered_ms, lease.ended_ms
    ).where(lease.provider_id == provider_id, ENDED_OFFER)
    newest = query.order_by(lease.ended_ms.desc()).limit(limit)
    return [
        MissedOffer(job_id, JobType(kind), LeaseOutcome(outcome), *rest)
        for job_id, kind, outcome, *rest in db.tuples(newest)
        if kind in _JOB_TYPES
    ]


def open_of(provider_id: int) -> list[Lease]:
    """The leases of a provider that have not ended, oldest first."""
    return [_lease(row) for row in _open_of.all(provider_id=provider_id)]


def open_by_provider(provider_ids: Sequence[int] | None = None) -> dict[int, tuple[int, int]]:
    """The open leases of each provider that has any, and the holds of those whose jobs named no provider.

    Of these providers alone, or of all.
    """
    rows = (
        _open_by_provider.all()
        if provider_ids is None
        else db.tuples(_counted_by_provider().where(db.Lease.provider_id.in_(list(provider_ids))))
    )
    return {int(id_): (int(count), int(value or 0)) for id_, count, value in rows}


def count_open(provider_id: int) -> int:
    """How many leases of a provider have not ended."""
    return int(_count_open_leases.value(provider_id=provider_id))


def offer(
    job: Job, provider_id: int, session_epoch: int, secret: bytes, now_ms: int, output_limit_bytes: int
) -> Offer | None:
    """Leases a queued job to a session and returns the offer; None if it is not queued any more."""
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
        output_limit_bytes=output_limit_bytes,
        number=public_number(secret),
    )
    changes.note(job.job_id)
    ref = LeaseRef(job.job_id, epoch, secret)
    return Offer(
        lease=ref,
        provider_id=provider_id,
        session_epoch=session_epoch,
        attempt=job.attempt + 1,
        job_type=job.job_type,
        limit_ms=job.limit_ms,
        lost_after_ms=job.lost_after_ms,
        output_limit_bytes=output_limit_bytes,
        spec=job.spec,
        trace=spans.offered_in(job, epoch),
    )


def get(job_id: str, lease_epoch: int) -> Lease | None:
    """One lease, by job and epoch."""
    row = _get_lease.one(job_id=job_id, lease_epoch=lease_epoch)
    return _lease(row) if row is not None else None


def was_of(job_id: str, provider_id: int) -> bool:
    """Whether a job was ever offered to a provider."""
    return bool(
        db.Lease.select().where(db.Lease.job_id == job_id, db.Lease.provider_id == provider_id).exists()
    )


def accept(ref: LeaseRef, provider_id: int, session_epoch: int, now_ms: int) -> bool:
    """The daemon accepted the offer: the job is assigned, and the attempt counts."""
    changes.note(ref.job_id)
    moved = _accept_lease.run(**_key(ref, provider_id, session_epoch), now_ms=now_ms)
    return bool(moved and _accept_job.run(job_id=ref.job_id, lease_epoch=ref.lease_epoch))


def start(ref: LeaseRef, provider_id: int, session_epoch: int, now_ms: int) -> bool:
    """The run started: it is metered from ``now_ms``."""
    changes.note(ref.job_id)
    moved = _start_lease.run(**_key(ref, provider_id, session_epoch), now_ms=now_ms)
    return bool(moved and _start_job.run(job_id=ref.job_id, lease_epoch=ref.lease_epoch, now_ms=now_ms))


def accept_started(ref: LeaseRef, provider_id: int, session_epoch: int, now_ms: int) -> bool:
    """The daemon accepted the offer, and the run has started: as ``accept`` and ``start``, in one."""
    changes.note(ref.job_id)
    moved = _accept_started_lease.run(**_key(ref, provider_id, session_epoch), now_ms=now_ms)
    job = {"job_id": ref.job_id, "lease_epoch": ref.lease_epoch, "now_ms": now_ms}
    return bool(moved and _accept_started_job.run(**job))


def store_chunk(
    ref: LeaseRef,
    provider_id: int,
    session_epoch: int,
    stream: Channel,
    seq: int,
    data: bytes,
    now_ms: int,
) -> bool:
    """Stores the next chunk of a channel; False if the lease is stale or ``seq`` is not the next number.

    ``now_ms``: when it arrived.
    """
    key = _key(ref, provider_id, session_epoch)
    if _advance_stream[stream].run(**key, seq=seq, before=seq - 1, now_ms=now_ms) != 1:
        return False
    _insert_output(ref.job_id, ref.lease_epoch, stream, seq, data)
    changes.note_text(ref.job_id)
    if stream is Channel.OUTPUT:
        _count_output.run(job_id=ref.job_id, size=len(data))
    return True


def _insert_output(job_id: str, lease_epoch: int, stream: Channel, seq: int, data: bytes) -> None:
    _insert_chunk.run(job_id=job_id, lease_epoch=lease_epoch, stream=stream.value, seq=seq, data=data)


def end(
    lease: Lease,
    outcome: LeaseOutcome,
    now_ms: int,
    *,
    detail: str = "",
    failure_reason: FailureReason | None = None,
    run_ms: int | None = None,
    image_digest: str = "",
    last_output: bytes = b"",
    trace: str = "",
) -> bool:
    """Ends a lease once; False if it has ended or moved to another session. ``detail`` is for a person.

    ``last_output``: the chunk with which the run's output ends, whose number ``lease`` has already; then it
    is also False if other output was stored since ``lease`` was read. Its bytes count for the job when that
    ends (``jobs.finish``). ``trace``: the job's.
    """
    values: dict[str, Any] = {
        "job_id": lease.job_id,
        "lease_epoch": lease.lease_epoch,
        "session_epoch": lease.session_epoch,
        "outcome": outcome.value,
        "detail": detail,
        "failure_reason": failure_reason.value if failure_reason else None,
        "run_ms": run_ms,
        "image_digest": image_digest,
        "now_ms": now_ms,
    }
    if last_output:
        changed = _write_and_end_lease.run(**values, seq=lease.output_through_seq)
    else:
        changed = _end_lease.run(**values)
    if changed and last_output:
        _insert_output(lease.job_id, lease.lease_epoch, Channel.OUTPUT, lease.output_through_seq, last_output)
    if changed:
        counted.note("dcp_leases_ended_total", outcome.value)
        spans.note_attempt(trace, lease, outcome, failure_reason, now_ms)
    return bool(changed)


def move_to_session(lease: Lease, session_epoch: int) -> None:
    """Moves a lease to a newer session of the same provider."""
    db.Lease.update(session_epoch=session_epoch).where(
        db.Lease.job_id == lease.job_id,
        db.Lease.lease_epoch == lease.lease_epoch,
        states.may(db.Lease.state, LEASE_TRANSITIONS, LeaseEvent.RESUME),
    ).execute()


def note_run_ms(lease: Lease, run_ms: int) -> None:
    """Stores how long the lease's run took, in case its result never arrives. The lease stays open."""
    db.Lease.update(run_ms=run_ms).where(
        db.Lease.job_id == lease.job_id,
        db.Lease.lease_epoch == lease.lease_epoch,
        states.is_not(db.Lease.state, LeaseState.ENDED),
    ).execute()


def offers_before(before_ms: int, limit: int) -> list[Lease]:
    """Unanswered offers from before a time."""
    return [_lease(row) for row in _offers_before.all(before_ms=before_ms, limit=limit)]


def of_silent(now_ms: int, awake_ms: int, limit: int, heard: Collection[int] = ()) -> list[tuple[Lease, int]]:
    """Leases that were not renewed within their job's ``lost_after_ms``, each with its last renewal.

    Leases with a longer ``lost_after_ms`` than ``awake_ms``, the time since the server started, are left out:
    before its start, the server could not receive heartbeats. So are those of the providers ``heard``.
    """
    # Providers are heard and not renewed only while heartbeats cannot be stored.
    query = _silent(heard) if heard else _silent_with_any_provider
    rows = query.all(now_ms=now_ms, awake_ms=awake_ms, limit=limit)
    return [(_lease(row), int(row.last_renewed_ms)) for row in rows]


def preparing_since(before_ms: int, limit: int) -> list[Lease]:
    """Leases that were accepted before a time and have not started."""
    return [_lease(row) for row in _preparing_since.all(before_ms=before_ms, limit=limit)]


def of_job(job_id: str, limit: int) -> list[Lease]:
    """The leases of a job, at most the newest ``limit``, oldest first."""
    query = db.Lease.select().where(db.Lease.job_id == job_id)
    newest = query.order_by(db.Lease.lease_epoch.desc()).limit(limit)
    return [_lease(row) for row in newest][::-1]


def time_left(provider_ids: Sequence[int], now_ms: int) -> dict[int, list[int]]:
    """The remaining time of each provider's open leases, in ms; the full limit before the start."""
    query = (
        db.Lease.select(db.Lease.provider_id, db.Lease.started_ms, db.Job.limit_ms)
        .join(db.Job, on=(db.Job.job_id == db.Lease.job_id))
        .where(db.Lease.provider_id.in_(list(provider_ids)), states.is_not(db.Lease.state, LeaseState.ENDED))
    )
    left: dict[int, list[int]] = {provider_id: [] for provider_id in provider_ids}
    for provider_id, started_ms, limit_ms in db.tuples(query):
        end_ms = (now_ms if started_ms is None else started_ms) + limit_ms
        left[provider_id].append(max(0, end_ms - now_ms))
    return left


def unfit_for(job_id: str) -> set[int]:
    """The providers that gave a job back because its image is for another processor."""
    query = db.Lease.select(db.Lease.provider_id).where(
        db.Lease.job_id == job_id, db.Lease.failure_reason == FailureReason.OTHER_ARCHITECTURE.value
    )
    return {int(provider_id) for (provider_id,) in db.tuples(query)}


def refused_by(job_id: str, since_ms: int) -> set[int]:
    """The providers that did not take a job after a time, or gave it back because they are busy."""
    query = db.Lease.select(db.Lease.provider_id).where(
        db.Lease.job_id == job_id, not_taken(), db.Lease.ended_ms > since_ms
    )
    return {int(provider_id) for (provider_id,) in db.tuples(query)}


def was_unanswered(lease: Lease) -> bool:
    """Whether an earlier offer of the job to the same provider was lost before an answer."""
    query = db.Lease.select(db.Lease.lease_epoch).where(
        db.Lease.job_id == lease.job_id,
        db.Lease.provider_id == lease.provider_id,
        db.Lease.outcome == LeaseOutcome.LOST.value,
        db.Lease.accepted_ms.is_null(),
    )
    return bool(query.exists())


def read_stream(job_id: str, lease_epoch: int, stream: Channel) -> bytes:
    """Everything that one attempt wrote to a channel, in order."""
    rows = _read_stream.all(job_id=job_id, lease_epoch=lease_epoch, stream=stream.value)
    return b"".join(bytes(data) for (data,) in rows)


def read_after(job_id: str, lease_epoch: int, stream: Channel, after_seq: int) -> tuple[bytes, int]:
    """What one attempt wrote to a channel after a chunk, and the number of the last stored chunk."""
    query = db.Chunk.select(db.Chunk.seq, db.Chunk.data).where(
        db.Chunk.job_id == job_id,
        db.Chunk.lease_epoch == lease_epoch,
        db.Chunk.stream == stream.value,
        db.Chunk.seq > after_seq,
    )
    rows = list(db.tuples(query.order_by(db.Chunk.seq)))
    return b"".join(bytes(data) for _, data in rows), int(rows[-1][0]) if rows else after_seq


def chunks_from(
    job_id: str, lease_epoch: int, stream: Channel, first: int, most_bytes: int
) -> list[tuple[int, bytes]]:
    """Chunks of a channel with their numbers: the first one, and more as long as all have ``most_bytes``."""
    key = {"job_id": job_id, "lease_epoch": lease_epoch, "stream": stream.value, "first": first}
    last, total = 0, 0
    for seq, size in _chunk_sizes.all(**key):
        total += int(size)
        if last and total > most_bytes:
            break
        last = int(seq)
    return [(int(seq), bytes(data)) for seq, data in _chunks_between.all(**key, last=last)] if last else []


def stream_bytes(job_id: str, lease_epoch: int, stream: Channel) -> int:
    """How many bytes of a channel are stored."""
    query = db.Chunk.select(pw.fn.SUM(pw.fn.LENGTH(db.Chunk.data))).where(
        db.Chunk.job_id == job_id, db.Chunk.lease_epoch == lease_epoch, db.Chunk.stream == stream.value
    )
    return int(query.scalar() or 0)


def _key(ref: LeaseRef, provider_id: int, session_epoch: int) -> dict[str, Any]:
    """The arguments of ``_held`` that identify a lease."""
    return {
        "job_id": ref.job_id,
        "lease_epoch": ref.lease_epoch,
        "secret": secret_digest(ref.secret),
        "provider_id": provider_id,
        "session_epoch": session_epoch,
    }


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
        accepted_ms=row.accepted_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        outcome=LeaseOutcome(row.outcome) if row.outcome else None,
        failure_reason=FailureReason(row.failure_reason) if row.failure_reason else None,
        detail=row.detail,
        run_ms=row.run_ms,
        image_digest=row.image_digest,
        output_through_seq=row.output_through_seq,
        log_through_seq=row.log_through_seq,
        output_limit_bytes=row.output_limit_bytes,
        first_output_ms=row.first_output_ms,
    )
