"""How many jobs there are in each state, without reading those of past days: these are counted once, by day.

A job that has ended never changes its state. Runs inside its caller's transaction.
"""

from __future__ import annotations

from collections import Counter

import peewee as pw

from server.domain.jobs import FINAL, JobState
from server.domain.statements import DAY_MS
from server.store import states
from server.store.models import Job, JobTally, tuples
from server.store.operators.operations import OPEN_JOBS

# SQL text instead of a parameter: PostgreSQL treats two parameters with one value as different expressions.
_DAY = Job.ended_ms / pw.SQL(str(DAY_MS))
_COUNT = pw.fn.COUNT(pw.SQL("*"))


def jobs_by_state() -> dict[JobState, int]:
    """How many jobs are in each state."""
    open_ = Job.select(Job.state, _COUNT).where(OPEN_JOBS).group_by(Job.state)
    past = JobTally.select(JobTally.state, pw.fn.SUM(JobTally.jobs)).group_by(JobTally.state)
    later = Job.select(Job.state, _COUNT).where(Job.ended_ms >= first_uncounted() * DAY_MS)
    counts = Counter[JobState]()
    for query in (open_, past, later.group_by(Job.state)):
        for state, number in tuples(query):
            counts[JobState(state)] += int(number)
    return {state: counts[state] for state in JobState}


def open_jobs() -> list[tuple[str, str, int, int]]:
    """State and type of the jobs that have not ended, how many there are, and when the oldest was created."""
    query = Job.select(Job.state, Job.job_type, _COUNT, pw.fn.MIN(Job.created_ms)).where(OPEN_JOBS)
    return [
        (str(state), str(kind), int(number), int(oldest_ms))
        for state, kind, number, oldest_ms in tuples(query.group_by(Job.state, Job.job_type))
    ]


def first_uncounted() -> int:
    """The first day, since 1970, that has not been counted."""
    last = JobTally.select(pw.fn.MAX(JobTally.day)).scalar()
    return 0 if last is None else int(last) + 1


def count_before(day: int) -> None:
    """Counts the jobs that ended on days before ``day``, on which no job may end later.

    Later days were counted while a clock was wrong: they are counted again when they have passed.
    """
    JobTally.delete().where(JobTally.day >= day).execute()
    first = first_uncounted()
    if first >= day:
        return
    ended = Job.select(_DAY, Job.state, _COUNT).where(
        Job.ended_ms >= first * DAY_MS, Job.ended_ms < day * DAY_MS
    )
    # The last day has rows even if no job ended on it, which say that it was counted.
    counts = {(day - 1, states.stored(state)): 0 for state in FINAL}
    counts |= {
        (int(ended_day), state): number
        for ended_day, state, number in tuples(ended.group_by(_DAY, Job.state))
    }
    fields = [JobTally.day, JobTally.state, JobTally.jobs]
    rows = [(*key, number) for key, number in counts.items()]
    JobTally.insert_many(rows, fields).on_conflict_ignore().execute()
