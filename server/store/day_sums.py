"""What each account did on past days: added up once, by day, so that its own pages read days instead of jobs.

Only facts that are final are added up, and only of days on which none can follow: a sum does not change. What
followed is added from the facts themselves. Runs inside its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.leases import WORKED, LeaseState
from server.domain.ledger import HoldState, TransferKind
from server.domain.statements import DAY_MS, day_of
from server.store import states
from server.store.ledger import PAYOUT_KINDS, of_kind
from server.store.models import Account, DaySum, Hold, Job, Lease, Provider, Transfer, tuples
from server.store.prepared import PreparedQuery, arg

_COUNT, _NOTHING, _NO_PART = pw.fn.COUNT(pw.SQL("*")), pw.SQL("0"), pw.SQL("''")
# SQL text instead of a parameter: PostgreSQL treats two parameters with one value as different expressions.
_DAY_MS = pw.SQL(str(DAY_MS))
# The owner of the row which says that a day was added up, and of what the whole market did.
NOBODY = 0
# Literals, as in the condition of the partial index lease_record.
_HAS_ENDED = states.is_exactly(Lease.state, LeaseState.ENDED) & (Lease.attempt > pw.SQL("0"))
_HAS_WORKED = _HAS_ENDED & Lease.outcome.in_(sorted(outcome.value for outcome in WORKED))
_FIELDS = (DaySum.what, DaySum.day, DaySum.owner_id, DaySum.part, DaySum.number, DaySum.micros)


@dataclass(frozen=True, slots=True)
class Source:
    """Facts that are added up by day."""

    what: str
    at_ms: Any
    """The column with the time of a fact."""
    rows: Callable[..., Any]
    """Facts by owner and part, their number and sum; its arguments are selected before them."""
    earliest: Callable[[], Any] = lambda: Job.select(pw.fn.MIN(Job.created_ms))
    """The time before which there is no fact."""


def _spent(*also: Any) -> Any:
    # A job ends when its hold is resolved, and there is an index of these times for jobs only.
    part = _type_of(Hold.job_type)
    return (
        Job.select(*also, Hold.renter_id, part, _COUNT, pw.fn.SUM(Hold.charge_micros))
        .join(Hold, on=(Hold.job_id == Job.job_id))
        .where(states.is_in(Hold.state, HoldState.POSTED))
        .group_by(Hold.renter_id, part)
    )


def _earned(*also: Any) -> Any:
    part = _type_of(Transfer.job_type)
    return (
        Transfer.select(*also, Account.owner_id, part, _COUNT, pw.fn.SUM(Transfer.amount_micros))
        .join(Account, on=(Account.id == Transfer.credit_account_id))
        .join(Job, pw.JOIN.LEFT_OUTER, on=(Job.job_id == Transfer.job_id))
        .where(of_kind(TransferKind.PAYOUT))
        .group_by(Account.owner_id, part)
    )


def _submitted(*also: Any) -> Any:
    return Job.select(*also, Job.renter_id, _NO_PART, _COUNT, _NOTHING).group_by(Job.renter_id)


def _ran(*also: Any) -> Any:
    # There is an index of the ends of leases by provider only: SQLite follows the order of a CROSS JOIN.
    return (
        Provider.select(*also, Provider.id, _NO_PART, _COUNT, _NOTHING)
        .join(Lease, pw.JOIN.CROSS)
        .where(Lease.provider_id == Provider.id, _HAS_WORKED)
        .group_by(Provider.id)
    )


def _moved(*also: Any) -> Any:
    kinds = ", ".join(f"'{kind.value}'" for kind in MOVED_KINDS)
    # SQL text, for the index transfer_amount_of_kind.
    return (
        Transfer.select(*also, pw.SQL(str(NOBODY)), Transfer.kind, _COUNT, pw.fn.SUM(Transfer.amount_micros))
        .where(Transfer.kind.in_(pw.SQL(f"({kinds})")))
        .group_by(Transfer.kind)
    )


def _type_of(column: Any) -> Any:
    """A job type; that of the job where a server of before schema 0016 stored none."""
    return pw.fn.COALESCE(pw.fn.NULLIF(column, _NO_PART), Job.job_type)


SPENT = Source("spent", Job.ended_ms, _spent)
EARNED = Source("earned", Transfer.created_ms, _earned)
SUBMITTED = Source("submitted", Job.created_ms, _submitted)
RAN = Source("ran", Lease.ended_ms, _ran)
MOVED_KINDS = (
    TransferKind.PAYOUT,
    TransferKind.FEE,
    TransferKind.WITHDRAWAL_PAID,
    TransferKind.CREDIT,
    TransferKind.TOPUP,
    TransferKind.DISPUTE_REFUND,
    TransferKind.FEE_REFUND,
)
"""The transfers of the whole market that are added up, by kind."""
MOVED = Source(
    "moved",
    Transfer.created_ms,
    _moved,
    lambda: Transfer.select(Transfer.created_ms).where(
        Transfer.id == Transfer.alias().select(pw.fn.MIN(pw.SQL("id")))
    ),
)
SOURCES = (SPENT, EARNED, SUBMITTED, RAN, MOVED)


def first_uncounted(source: Source) -> int:
    """The first day, since 1970, that has not been added up."""
    last = DaySum.select(pw.fn.MAX(DaySum.day)).where(*_marks(source)).scalar()
    return 0 if last is None else int(last) + 1


def add_next_day(source: Source, before: int) -> None:
    """Adds up the next of the days before ``before``, on which no fact may follow.

    Later days were added up while a clock was wrong: they are added up again when they have passed.
    """
    first = first_uncounted(source)
    if first > before:
        DaySum.delete().where(DaySum.what == source.what, DaySum.day >= before).execute()
        first = first_uncounted(source)
    if first == 0:
        earliest_ms = source.earliest().scalar()
        first = before - 1 if earliest_ms is None else day_of(int(earliest_ms))
    day = min(first, before - 1)
    rows = source.rows(pw.Value(source.what), pw.Value(day)).where(
        source.at_ms >= day * DAY_MS, source.at_ms < (day + 1) * DAY_MS
    )
    DaySum.insert_from(rows, _FIELDS).on_conflict_ignore().execute()
    mark = {"what": source.what, "day": day, "owner_id": NOBODY, "part": "", "number": 0, "micros": 0}
    DaySum.insert(mark).on_conflict_ignore().execute()


def _marks(source: Source) -> tuple[Any, ...]:
    return DaySum.what == source.what, DaySum.owner_id == NOBODY


def _since_ms(source: Source) -> Any:
    """The time since which nothing was added up, as an expression."""
    days = DaySum.select(pw.fn.COALESCE(pw.fn.MAX(DaySum.day) + 1, 0) * _DAY_MS)
    return days.where(*_marks(source))


def added_up(source: Source, owner_id: int, since_day: int) -> list[tuple[int, str, int, int]]:
    """The days of an owner that were added up: the day, the part, the number of facts, and their sum."""
    query = DaySum.select(DaySum.day, DaySum.part, DaySum.number, DaySum.micros).where(
        DaySum.what == source.what, DaySum.owner_id == owner_id, DaySum.day >= since_day
    )
    return [(int(day), part, int(number), int(amount)) for day, part, number, amount in tuples(query)]


def _all_days(column: Any) -> PreparedQuery:
    return PreparedQuery(
        lambda: DaySum.select(pw.fn.SUM(column)).where(
            DaySum.what == arg("what"), DaySum.owner_id == arg("owner_id")
        )
    )


_number, _micros = _all_days(DaySum.number), _all_days(DaySum.micros)
_spent_later = PreparedQuery(
    lambda: Hold.select(pw.fn.SUM(Hold.charge_micros)).where(
        Hold.renter_id == arg("owner_id"),
        states.is_exactly(Hold.state, HoldState.POSTED),
        Hold.resolved_ms >= _since_ms(SPENT),
    )
)
_earned_later = PreparedQuery(
    lambda: Transfer.select(pw.fn.SUM(Transfer.amount_micros)).where(
        Transfer.credit_account_id.in_(
            Account.select(Account.id).where(
                Account.kind.in_(PAYOUT_KINDS), Account.owner_id == arg("owner_id")
            )
        ),
        of_kind(TransferKind.PAYOUT),
        Transfer.created_ms >= _since_ms(EARNED),
    )
)
_submitted_later = PreparedQuery(
    lambda: Job.select(_COUNT).where(Job.renter_id == arg("owner_id"), Job.created_ms >= _since_ms(SUBMITTED))
)
_ran_later = PreparedQuery(
    lambda: Lease.select(_COUNT).where(
        Lease.provider_id == arg("owner_id"), _HAS_WORKED, Lease.ended_ms >= _since_ms(RAN)
    )
)


def submitted(renter_id: int) -> int:
    """How many jobs a renter has submitted."""
    return _in_all(SUBMITTED, _submitted_later, renter_id)


def ran(provider_id: int) -> int:
    """How many runs of a provider have ended with a result: success, failure or cancellation."""
    return _in_all(RAN, _ran_later, provider_id)


def spent(renter_id: int) -> int:
    """The sum of the charges of a renter's ended jobs, in micros."""
    return _in_all(SPENT, _spent_later, renter_id, _micros)


def earned(provider_id: int) -> int:
    """The sum of a provider's payouts, in micros."""
    return _in_all(EARNED, _earned_later, provider_id, _micros)


def _in_all(source: Source, later: PreparedQuery, owner_id: int, added_up: PreparedQuery = _number) -> int:
    before = added_up.value(what=source.what, owner_id=owner_id)
    return int(before or 0) + int(later.value(owner_id=owner_id) or 0)
