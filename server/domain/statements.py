"""Statements as plain values: the lines of a renter's wallet, and the money of jobs by day.

Money is in micros. Days and weeks are those of UTC; a week begins on Monday, as in ISO 8601.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from server.domain.jobs import JobType
from server.domain.ledger import TransferKind


@dataclass(frozen=True, slots=True)
class Line:
    """One change of a renter's balance; ``charged_micros`` is set on the line of a hold that was resolved."""

    id: int
    at_ms: int
    kind: TransferKind
    amount_micros: int
    balance_micros: int
    charged_micros: int | None
    job_id: str | None
    job_type: JobType | None
    model: str | None

    @property
    def description(self) -> str:
        """The line's description, for a person."""
        if self.job_type is None:
            return _DESCRIPTIONS.get(self.kind, self.kind.value)
        return _JOB_DESCRIPTIONS.get(self.kind, "{kind} of a {job_type} job").format(
            kind=self.kind.value, job_type=self.job_type.value
        )


_DESCRIPTIONS = {
    TransferKind.CREDIT: "credited by the operator",
    TransferKind.TOPUP: "topped up with play money",
    TransferKind.FORFEIT: "given up with the account",
    TransferKind.STORAGE: "paid for what was kept on a day",
}
_JOB_DESCRIPTIONS = {
    TransferKind.HOLD: "held for a {job_type} job",
    TransferKind.REFUND: "returned from the hold of a {job_type} job",
    TransferKind.DISPUTE_REFUND: "refunded by the provider after a dispute about a {job_type} job",
    TransferKind.FEE_REFUND: "refunded by the platform after a dispute about a {job_type} job",
}


DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Period:
    """From the first day to the last one, as far as they are set."""

    first_day: int | None = None
    last_day: int | None = None


EVER = Period()


def day_of(at_ms: int) -> int:
    """The number of the day that contains a time, counted from 0 on 1 January 1970."""
    return at_ms // DAY_MS


def first_day_of_week(day: int) -> int:
    """The Monday of a day's week; day 0 was a Thursday."""
    return day - (day + 3) % 7


@dataclass(slots=True)
class JobMoney:
    """The number of some jobs, and what their renter was charged or their provider earned, by job type."""

    jobs: int = 0
    by_job_type: Counter[JobType] = field(default_factory=Counter)

    @property
    def total_micros(self) -> int:
        """The sum over all job types."""
        return self.by_job_type.total()

    def add(self, kind: JobType, jobs: int, amount_micros: int) -> None:
        """Adds jobs of one type and their amount."""
        self.jobs += jobs
        self.by_job_type[kind] += amount_micros
