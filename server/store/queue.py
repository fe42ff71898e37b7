"""The queue as rows: the waiting jobs, and what they wait for. How a job changes is in jobs.py.

The index job_wanted sorts the queued jobs by the kind of provider that they wait for, then by their exact
need, then by priority and age. A provider looks only at its own kinds. There it reads the first job of each
need, asks the rules of placement which of these needs it meets, and reads further jobs only of those. So jobs
that nobody can run cost a provider nothing, however many wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any

import peewee as pw

from server.domain.jobs import FailureReason, Job, JobState, JobType
from server.domain.money import MAX_BALANCE_MICROS
from server.domain.placement import Candidate, Obstacle, Wants, can_run, owners_obstacle
from server.domain.queue import Waiting
from server.store import models as db
from server.store import states
from server.store.jobs import NEEDS, job_of, wants_of
from server.store.leases import counted_open, not_taken, open_value
from server.store.prepared import PreparedQuery, PreparedRows, arg, locking

# A newer release may have stored types that this one does not know: such a job holds up no other.
_JOB_TYPES = frozenset(kind.value for kind in JobType)
PassOver = Callable[[str, Exception], object]
# Rows of one need that are read past jobs which are not taken.
READ_PAST = 64
# Jobs of one kind that are counted.
COUNTED_LIMIT = 1000
Resolve = Callable[[Wants], Wants]

_QUEUED = f"state = {states.literal(JobState.QUEUED)}"
# The expressions of the index job_wanted, exactly as migration 0032 has them.
_PRICE = "COALESCE(price, CAST(rate_halala_per_minute AS TEXT))"
_KIND = "COALESCE('provider ' || CAST(named_provider_id AS TEXT), 'model ' || model, 'type ' || job_type)"
_NEED = (
    "(job_type || '\x1f' || COALESCE(CAST(min_vram_mib AS TEXT), '') || '\x1f'"
    f" || CASE WHEN named_provider_id IS NULL THEN {_PRICE} ELSE '' END"
    " || '\x1f' || COALESCE(gpu_model, '') || '\x1f' || COALESCE(model, '')"
    " || '\x1f' || COALESCE(image, '') || '\x1f' || COALESCE(architecture, '')"
    " || '\x1f' || COALESCE(unasked, ''))"
)


class Take(Enum):
    """Whether a provider takes a job now that it can run."""

    YES = auto()
    NO = auto()
    NO_MORE = auto()
    """Neither this one nor those of the same need behind it."""


def _take(_: Job) -> Take:
    return Take.YES


def _as_it_is(wants: Wants) -> Wants:
    return wants


def _need() -> str:
    """The expression of a job's need. In PostgreSQL it is a digest: rows of its indexes are short."""
    return f"md5{_NEED}" if db.Job._meta.database.for_update else _NEED


@cache
def _heads(need: str) -> str:
    """The first job of each need of ``kinds``: one look-up in the index for each, past all jobs between."""
    head = (
        f"(SELECT job_id FROM job WHERE {_QUEUED} AND {_KIND} = {{table}}.kind{{after}} "  # noqa: S608
        f"ORDER BY {need}, priority DESC, created_ms, job_id LIMIT 1)"
    )
    next_need = f" AND {need} > (SELECT {need} FROM job WHERE job_id = head.job_id)"  # noqa: S608
    return f"""
WITH RECURSIVE wanted(kind) AS ({{kinds}}),
head(kind, job_id) AS (
    SELECT kind, {head.format(table="wanted", after="")} FROM wanted WHERE kind IS NOT NULL
    UNION ALL
    SELECT kind, {head.format(table="head", after=next_need)} FROM head WHERE job_id IS NOT NULL
)
SELECT head.kind, {need}, priority, created_ms, job.job_id, named_provider_id, job_type, model, gpu_model,
    min_vram_mib, CASE WHEN named_provider_id IS NULL THEN {_PRICE} END, image, architecture,
    CASE WHEN named_provider_id IS NULL THEN COALESCE(unasked, 'best') END
FROM head JOIN job ON job.job_id = head.job_id
"""  # noqa: S608  (only the expressions above)


# The first kind is none, as an expression: SQLite would not use the index for a column of another affinity.
_EVERY_KIND = (
    f"SELECT COALESCE('', '') UNION ALL SELECT (SELECT {_KIND} FROM job WHERE {_QUEUED} "  # noqa: S608
    f"AND {_KIND} > wanted.kind ORDER BY {_KIND} LIMIT 1) FROM wanted WHERE kind IS NOT NULL"
)


def _first_queued() -> Any:
    return (
        db.Job.select(db.Job.job_id)
        .where(states.is_exactly(db.Job.state, JobState.QUEUED))
        .order_by(db.Job.priority.desc(), db.Job.created_ms)  # the order of the index job_queue
        .limit(1)
    )


_any_queued = PreparedQuery(_first_queued)
_glance = PreparedQuery(
    lambda: pw.Select(columns=[counted_open(), open_value(), _first_queued()]).bind(db.Job._meta.database)
)


def _takeable(rows: Any) -> Any:
    job = db.Job
    lately = db.Lease.select(db.Lease.job_id).where(
        db.Lease.job_id == job.job_id,
        db.Lease.provider_id == arg("provider_id"),
        (not_taken() & (db.Lease.ended_ms > arg("refused_since_ms")))
        | (db.Lease.failure_reason == FailureReason.OTHER_ARCHITECTURE.value),
    )
    query = rows.where(
        pw.SQL(_QUEUED),
        pw.SQL(_KIND) == arg("kind"),
        pw.SQL(_need()) == arg("need"),
        job.start_by_ms > arg("now_ms"),
        job.named_provider_id.is_null(False) | (job.hold_micros <= arg("value_left_micros")),
        ~pw.fn.EXISTS(lately),
    )
    ordered = query.order_by(job.priority.desc(), job.created_ms, job.job_id).limit(arg("limit"))
    return locking(ordered, "FOR UPDATE SKIP LOCKED")


_of_need = PreparedRows(db.Job, _takeable)


@dataclass(frozen=True, slots=True)
class _Need:
    """What some queued jobs have in common; ``place`` is where the first of them is in the queue."""

    kind: str
    key: str
    place: tuple[int, int, str]
    named_provider_id: int | None
    wants: Wants


@dataclass(frozen=True, slots=True)
class WaitingKind:
    """Queued jobs that wait for the same provider, model or type."""

    first_job_id: str
    named_provider_id: int | None
    wants: Wants
    """What the first of them needs."""
    jobs: int
    """At most ``COUNTED_LIMIT``."""
    oldest_ms: int | None
    """When the oldest of the counted ones was created."""


def next_queued(
    candidate: Candidate,
    limit: int,
    now_ms: int,
    refused_since_ms: int,
    pass_over: PassOver | None = None,
    resolve: Resolve = _as_it_is,
    take: Callable[[Job], Take] = _take,
) -> list[Job]:
    """The queued jobs that a provider can run, by priority, then age: they name it, or no provider.

    A job that names no provider is included if its quote is at least the provider's own rate. Jobs whose
    offer this provider refused or let expire after ``refused_since_ms`` are left out, and so are jobs past
    their deadline for the start, which the sweep ends, and those that name nobody and hold more than the
    provider's standing allows. ``resolve`` says which standing a job takes now. A job whose row cannot be
    read is given to ``pass_over`` with the error, and those behind it move up; without ``pass_over``, the
    error is raised. Those behind a job that ``take`` refuses move up, too, among ``READ_PAST`` of one need.
    """
    values = {
        "provider_id": candidate.provider_id,
        "now_ms": now_ms,
        "refused_since_ms": refused_since_ms,
        "value_left_micros": MAX_BALANCE_MICROS
        if candidate.value_left_micros is None
        else candidate.value_left_micros,
    }
    found: list[Job] = []
    for need in _met_by(candidate, resolve):
        if len(found) == limit and _place(found[-1]) < need.place:
            break
        more = _first(limit, pass_over, take, kind=need.kind, need=need.key, **values)
        found = sorted([*found, *more], key=_place)[:limit]
    return found


def has_queued_for(candidate: Candidate, resolve: Resolve = _as_it_is) -> bool:
    """Whether any job is queued that a provider can run, unless it refused that job lately."""
    return bool(_met_by(candidate, resolve))


def glance(provider_id: int) -> tuple[int, int, bool]:
    """A provider's leases that have not ended, what those hold that named no provider, and whether any job
    is queued.
    """
    used_slots, value_micros, first = _glance.one(provider_id=provider_id) or (0, 0, None)
    return int(used_slots), int(value_micros or 0), first is not None


def has_queued() -> bool:
    """Whether any job is queued."""
    return _any_queued.one() is not None


def queued_wants(limit: int) -> list[tuple[int | None, Wants]]:
    """The distinct needs of queued jobs, each with the provider that it names, in the queue's order."""
    return [(need.named_provider_id, need.wants) for need in _needs(_EVERY_KIND)[:limit]]


def waiting_kinds(limit: int) -> tuple[list[WaitingKind], bool]:
    """What waits, by the provider, model or type that it waits for, and whether more does.

    In the queue's order.
    """
    first: dict[str, _Need] = {}
    for need in _needs(_EVERY_KIND):
        first.setdefault(need.kind, need)
    job, found = db.Job, []
    for need in list(first.values())[:limit]:
        of_kind = job.select(job.created_ms).where(pw.SQL(_QUEUED), pw.SQL(_KIND) == need.kind)
        counted = of_kind.limit(COUNTED_LIMIT)
        query = pw.Select([counted], [pw.fn.COUNT(pw.SQL("*")), pw.fn.MIN(counted.c.created_ms)])
        ((jobs, oldest_ms),) = db.tuples(query.bind(job._meta.database))
        found.append(WaitingKind(need.place[-1], need.named_provider_id, need.wants, int(jobs), oldest_ms))
    return found, len(first) > limit


def some_wants(limit: int) -> list[tuple[int | None, Wants]]:
    """Distinct needs of queued jobs, like ``queued_wants``, at most ``limit``: no more is read."""
    return [(need.named_provider_id, need.wants) for need in _needs(_EVERY_KIND, most=limit)]


def queue_through(job_id: str, limit: int) -> tuple[Waiting, list[Waiting]] | None:
    """A queued job, and those before it in the queue; None if it is not among the first ``limit``."""
    job = db.Job
    columns = (job.job_id, job.named_provider_id, job.limit_ms, *NEEDS)
    query = job.select(*columns).where(states.is_in(job.state, JobState.QUEUED))
    before: list[Waiting] = []
    for found, named_id, limit_ms, kind, *rest in db.tuples(
        query.order_by(job.priority.desc(), job.created_ms, job.job_id).limit(limit)
    ):
        if kind not in _JOB_TYPES:
            continue
        waiting = Waiting(found, named_id, wants_of(kind, *rest), limit_ms)
        if found == job_id:
            return waiting, before
        before.append(waiting)
    return None


def _met_by(candidate: Candidate, resolve: Resolve) -> list[_Need]:
    """The needs of queued jobs that a provider meets, in the queue's order."""
    if not candidate.open_job_types or owners_obstacle(candidate) is not Obstacle.NONE:
        return []
    kinds = [
        f"provider {candidate.provider_id}",
        *(f"model {model.name}" for model in candidate.models),
        *(f"type {kind.value}" for kind in candidate.open_job_types),
    ]
    kinds = list(dict.fromkeys(kinds))
    rows = f"VALUES {', '.join([f'({db.Job._meta.database.param})'] * len(kinds))}"
    return [need for need in _needs(rows, kinds) if can_run(candidate, resolve(need.wants))]


def _needs(kinds: str, values: Sequence[str] = (), most: int | None = None) -> list[_Need]:
    """The needs of the queued jobs of these kinds, in the queue's order; the first ``most`` that are met."""
    query = _heads(_need()).format(kinds=kinds) + (f"LIMIT {most:d}" if most is not None else "")
    rows = db.Job._meta.database.execute_sql(query, list(values)).fetchall()
    needs = [
        _Need(kind, key, (-priority, created_ms, job_id), named_id, wants_of(job_type, *rest))
        for kind, key, priority, created_ms, job_id, named_id, job_type, *rest in rows
        if job_type in _JOB_TYPES
    ]
    return sorted(needs, key=lambda need: need.place)


def _place(job: Job) -> tuple[int, int, str]:
    return -job.priority, job.created_ms, job.job_id


def _first(limit: int, pass_over: PassOver | None, take: Callable[[Job], Take], **values: Any) -> list[Job]:
    """The first jobs of a need whose rows can be read, and that are taken."""
    asked = limit
    while True:
        rows = _of_need.all(**values, limit=asked)
        readable = _readable(rows, pass_over)
        takes = [take(job) for job in readable]
        found = [job for job, taken in zip(readable, takes, strict=True) if taken is Take.YES]
        if len(found) >= limit or len(rows) < asked or Take.NO_MORE in takes:
            return found[:limit]
        refused, unreadable = len(readable) - len(found), len(rows) - len(readable)
        most = max(limit, READ_PAST) + unreadable
        if asked >= most:
            return found
        # Twice as many each time, so that what is read again stays in proportion.
        asked = min(2 * asked, most) if refused else limit + unreadable


def _readable(rows: list[Any], pass_over: PassOver | None) -> list[Job]:
    """The jobs of those rows that can be read."""
    found: list[Job] = []
    for row in rows:
        try:
            found.append(job_of(row))
        except Exception as error:
            if pass_over is None:
                raise
            pass_over(row.job_id, error)
    return found
