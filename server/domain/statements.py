"""Statements as plain values: the lines of a renter's wallet, and what jobs moved day by day.

Money is in halala. Days and weeks are those of UTC; a week begins on Monday, as in ISO 8601.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from server.domain.jobs import JobType
from server.domain.ledger import TransferKind


@dataclass(frozen=True, slots=True)
class Line:
    """One change of what a renter can spend; ``charged_halala`` is told of a hold that was resolved."""

    id: int
    at_ms: int
    kind: TransferKind
    amount_halala: int
    balance_halala: int
    charged_halala: int | None
    job_id: str | None
    job_type: JobType | None
    model: str | None

    @property
    def description(self) -> str:
        """What happened, for a person."""
        if self.job_type is None:
            return _TOLD.get(self.kind, self.kind.value)
        return _TOLD_OF_JOB.get(self.kind, "{kind} of a {job_type} job").format(
            kind=self.kind.value, job_type=self.job_type.value
        )


_TOLD = {
    TransferKind.CREDIT: "credited by the operator",
    TransferKind.TOPUP: "topped up with play money",
    TransferKind.FORFEIT: "given up with the account",
}
_TOLD_OF_JOB = {
    TransferKind.HOLD: "held for a {job_type} job",
    TransferKind.REFUND: "returned from the hold of a {job_type} job",
}


DAY_MS = 24 * 60 * 60 * 1000


def day_of(at_ms: int) -> int:
    """The day since 1970 in which a time lies."""
    return at_ms // DAY_MS


def first_day_of_week(day: int) -> int:
    """The Monday of a day's week; the first day of 1970 was a Thursday."""
    return day - (day + 3) % 7


@dataclass(slots=True)
class JobMoney:
    """What a number of jobs moved together: what their renter was charged, or what their provider earned."""

    jobs: int = 0
    by_job_type: Counter[JobType] = field(default_factory=Counter)

    @property
    def total_halala(self) -> int:
        """The sum over all job types."""
        return self.by_job_type.total()

    def add(self, kind: JobType, jobs: int, amount_halala: int) -> None:
        """Counts jobs of one type."""
        self.jobs += jobs
        self.by_job_type[kind] += amount_halala
