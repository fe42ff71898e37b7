"""The platform's rates as rows: those that operators changed. Without a row, a rate has its initial value."""

from __future__ import annotations

from server.domain.jobs import JobType
from server.domain.pricing import RATE_HALALA_PER_MINUTE
from server.store.models import JobRate, tuples
from server.store.prepared import PreparedQuery, arg, locking

_of = PreparedQuery(
    lambda: JobRate.select(JobRate.halala_per_minute).where(JobRate.job_type == arg("job_type"))
)


def of(kind: JobType) -> int:
    """The rate of a job type, in halala per minute."""
    return int(_of.value(job_type=kind.value) or RATE_HALALA_PER_MINUTE[kind])


def card() -> dict[JobType, int]:
    """The rates of all job types, in halala per minute."""
    changed = dict(tuples(JobRate.select(JobRate.job_type, JobRate.halala_per_minute)))
    return {kind: int(changed.get(kind.value, rate)) for kind, rate in RATE_HALALA_PER_MINUTE.items()}


def change(kind: JobType, halala_per_minute: int) -> int:
    """Sets a rate and returns the previous one; concurrent changes of it wait for this transaction."""
    JobRate.insert(
        job_type=kind.value, halala_per_minute=RATE_HALALA_PER_MINUTE[kind]
    ).on_conflict_ignore().execute()
    before = locking(JobRate.select().where(JobRate.job_type == kind.value)).get().halala_per_minute
    JobRate.update(halala_per_minute=halala_per_minute).where(JobRate.job_type == kind.value).execute()
    return int(before)
