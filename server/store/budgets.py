"""What the jobs of a key with budgets come to, by window: one row for each day, each month and the total.

Only keys with budgets have rows. A row is the sum of the holds and charges of the jobs that its key submitted
in its window; ``wrong`` compares. Whoever changes rows has locked the accounts of the renter first. Every
function runs inside its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import peewee as pw

from server.domain.budgets import Period, end_ms, windows
from server.domain.money import text
from server.domain.statements import DAY_MS, day_of
from server.store.models import BudgetUse, Job, tuples

# Rows of days and months that ended before this many days are dropped: no job is open for so long.
KEPT_DAYS = 40
_KEY = [BudgetUse.key_id, BudgetUse.period, BudgetUse.start_day]
_USED = pw.fn.COALESCE(Job.charge_micros, Job.hold_micros)
# Whether the key of a hold's job has rows, for the statement that resolves the hold.
HAS_BUDGET = pw.SQL(
    "EXISTS (SELECT 1 FROM job JOIN budget_use ON budget_use.key_id = job.key_id"
    " WHERE job.job_id = hold.job_id)"
)


def reserve(key_id: int, amount: int, at_ms: int) -> tuple[dict[Period, int], frozenset[Period]]:
    """Counts the hold of a new job; returns what each window uses then, and which were reported."""
    rows = [
        {"key_id": key_id, "period": period.value, "start_day": start, "used_micros": amount}
        for period, start in windows(at_ms).items()
    ]
    query = BudgetUse.insert_many(rows).on_conflict(
        conflict_target=_KEY,
        update={BudgetUse.used_micros: BudgetUse.used_micros + pw.EXCLUDED.used_micros},
    )
    found = list(query.returning(BudgetUse.period, BudgetUse.used_micros, BudgetUse.is_reported).tuples())
    used = {Period(period): int(amount) for period, amount, _ in found}
    if used[Period.DAY] == amount:
        _drop_old(key_id, day_of(at_ms) - KEPT_DAYS)
    return used, frozenset(Period(period) for period, _, is_reported in found if is_reported)


def give_back(key_id: int, amount: int, submitted_ms: int) -> None:
    """Subtracts what was held and not charged from the windows in which the job was submitted."""
    # Never below zero: the end of a job must not fail because of a count.
    rest = pw.Case(None, [(BudgetUse.used_micros > amount, BudgetUse.used_micros - amount)], 0)
    own = BudgetUse.key_id == key_id, _in(windows(submitted_ms).items())
    BudgetUse.update({BudgetUse.used_micros: rest}).where(*own).execute()


def begin(key_id: int, renter_id: int, at_ms: int) -> None:
    """Counts the jobs that a key submitted before it got its first budget.

    Also those of the day before: the clock of another server may still be in it.
    """
    for period, start in {*windows(at_ms).items(), *windows(at_ms - DAY_MS).items()}:
        jobs = Job.select(pw.fn.COALESCE(pw.fn.SUM(_USED), 0)).where(
            Job.renter_id == renter_id, Job.key_id == key_id, Job.created_ms >= start * DAY_MS
        )
        if (end := end_ms(period, start * DAY_MS)) is not None:
            jobs = jobs.where(Job.created_ms < end)
        row = {"key_id": key_id, "period": period.value, "start_day": start}
        BudgetUse.insert(**row, used_micros=int(jobs.scalar())).execute()


def forget(key_id: int) -> None:
    """Forgets a key that has no budgets any more."""
    BudgetUse.delete().where(BudgetUse.key_id == key_id).execute()


def forget_reports(key_id: int) -> None:
    """Lets the events about a key's budgets be added again: its budgets have changed."""
    BudgetUse.update(is_reported=False).where(BudgetUse.key_id == key_id, BudgetUse.is_reported).execute()


def note_reported(key_id: int, period: Period, at_ms: int) -> bool:
    """Notes that the event about a window was added; False if it was noted before."""
    row = {"key_id": key_id, "period": period.value, "start_day": windows(at_ms)[period]}
    BudgetUse.insert(**row, used_micros=0).on_conflict_ignore().execute()
    this = [getattr(BudgetUse, name) == value for name, value in row.items()]
    return bool(BudgetUse.update(is_reported=True).where(*this, ~BudgetUse.is_reported).execute())


def used(key_ids: Sequence[int], at_ms: int) -> dict[int, dict[Period, int]]:
    """What these keys use of the windows of a time."""
    own = BudgetUse.key_id.in_(list(key_ids)), _in(windows(at_ms).items())
    query = BudgetUse.select(BudgetUse.key_id, BudgetUse.period, BudgetUse.used_micros).where(*own)
    found: dict[int, dict[Period, int]] = {key_id: dict.fromkeys(Period, 0) for key_id in key_ids}
    for key_id, period, amount in tuples(query):
        found[key_id][Period(period)] = int(amount)
    return found


def wrong() -> Iterator[str]:
    """The rows that differ from the sums of their keys' jobs, as sentences."""
    day, keys = Job.created_ms / pw.SQL(str(DAY_MS)), BudgetUse.select(BudgetUse.key_id)
    jobs = Job.select(Job.key_id, day, pw.fn.SUM(_USED)).where(Job.key_id.in_(keys)).group_by(Job.key_id, day)
    sums: dict[tuple[int, str, int], int] = {}
    for key_id, submitted_day, amount in tuples(jobs):
        for period, start in windows(int(submitted_day) * DAY_MS).items():
            row = (key_id, period.value, start)
            sums[row] = sums.get(row, 0) + int(amount)
    rows = BudgetUse.select(BudgetUse.key_id, BudgetUse.period, BudgetUse.start_day, BudgetUse.used_micros)
    for key_id, name, start, amount in tuples(rows):
        if amount != (of_jobs := sums.get((key_id, name, start), 0)):
            yield f"key {key_id} uses {text(amount)} halala ({name} {start}) and its jobs {text(of_jobs)}"


def _in(found: Iterable[tuple[Period, int]]) -> Any:
    rows = [pw.Tuple(period.value, start) for period, start in found]
    return pw.Tuple(BudgetUse.period, BudgetUse.start_day).in_(rows)


def _drop_old(key_id: int, before_day: int) -> None:
    BudgetUse.delete().where(
        BudgetUse.key_id == key_id,
        BudgetUse.period != Period.TOTAL.value,
        BudgetUse.start_day < before_day,
    ).execute()
