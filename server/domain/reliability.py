"""A provider's record: which ended attempts count for it or against it, and the figure made of them.

One definition for placement, for the public list and for whoever recomputes it from the public history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from server.domain.jobs import PROVIDERS_FAULT, FailureReason
from server.domain.leases import LeaseOutcome

# How many of a provider's newest attempts make its figure.
RECORD_SIZE = 50
_NOT_RUN_TO_ITS_END = frozenset({LeaseOutcome.LOST, LeaseOutcome.RELEASED})


class Weight(StrEnum):
    """How an ended attempt counts."""

    FOR = "for"
    AGAINST = "against"
    NEITHER = "neither"


def weight(outcome: LeaseOutcome, reason: FailureReason | None) -> Weight:
    """Success counts for the provider; what was lost, given back or failed by its fault, against it.

    What its renter or an operator ended, and failures that were the job's own, count neither way.
    """
    if outcome is LeaseOutcome.SUCCEEDED:
        return Weight.FOR
    is_failure = outcome is LeaseOutcome.FAILED and reason in PROVIDERS_FAULT
    return Weight.AGAINST if is_failure or outcome in _NOT_RUN_TO_ITS_END else Weight.NEITHER


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """How many of the newest attempts count for a provider, and how many in all."""

    succeeded: int = 0
    counted: int = 0

    @property
    def reliability(self) -> float:
        """The part that counts for it; 1.0 for one that was never tried: nobody has a reason to distrust it
        yet.
        """
        return self.succeeded / self.counted if self.counted else 1.0


def track_record(newest: Iterable[tuple[LeaseOutcome, FailureReason | None]]) -> TrackRecord:
    """The record that a provider's newest attempts make."""
    weights = [weight(outcome, reason) for outcome, reason in newest]
    succeeded = weights.count(Weight.FOR)
    return TrackRecord(succeeded, succeeded + weights.count(Weight.AGAINST))
