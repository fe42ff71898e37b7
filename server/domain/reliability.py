"""A provider's reliability: which ended attempts count for or against it, and the share that succeeded.

Placement, the public list and anyone who recomputes it from the public history use this definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from server.domain.jobs import PROVIDERS_FAULT, FailureReason
from server.domain.leases import LeaseOutcome

# Reliability is calculated from this number of a provider's newest attempts.
RECORD_SIZE = 50
# The quantile of the normal distribution for a two-sided bound of 95 %.
Z = 1.96
_UNFINISHED = frozenset({LeaseOutcome.LOST, LeaseOutcome.RELEASED})


class Weight(StrEnum):
    """How an ended attempt counts."""

    FOR = "for"
    AGAINST = "against"
    NEITHER = "neither"


def weight(outcome: LeaseOutcome, reason: FailureReason | None) -> Weight:
    """Success counts for the provider; attempts that were lost, released or failed by its fault, against it.

    So does every attempt whose report cannot be true, whatever its outcome.

    Attempts that the renter or an operator ended, failures that the job caused, and attempts that were given
    back because the model server was busy, do not count.
    """
    if outcome is LeaseOutcome.RELEASED and reason is FailureReason.ENGINE_BUSY:
        return Weight.NEITHER
    if reason is FailureReason.IMPOSSIBLE_REPORT:
        return Weight.AGAINST
    if outcome is LeaseOutcome.SUCCEEDED:
        return Weight.FOR
    if outcome is LeaseOutcome.RELEASED and reason is FailureReason.OTHER_ARCHITECTURE:
        return Weight.NEITHER  # the renter's image is for another processor
    is_failure = outcome is LeaseOutcome.FAILED and reason in PROVIDERS_FAULT
    return Weight.AGAINST if is_failure or outcome in _UNFINISHED else Weight.NEITHER


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """How many of the newest attempts succeeded, and how many count for or against the provider."""

    succeeded: int = 0
    counted: int = 0

    def plus(self, weight: Weight, count: int) -> TrackRecord:
        """With so many attempts more."""
        counted = 0 if weight is Weight.NEITHER else count
        return TrackRecord(self.succeeded + (count if weight is Weight.FOR else 0), self.counted + counted)

    @property
    def reliability(self) -> float | None:
        """The share that succeeded, for people to read beside ``counted``; None of nothing.

        What decides is ``lower``.
        """
        return self.succeeded / self.counted if self.counted else None

    @property
    def lower(self) -> float:
        """The lower bound of the share, by Wilson's score interval at 95 %; 0 of nothing."""
        return _wilson(self.succeeded, self.counted, -1.0) if self.counted else 0.0

    @property
    def upper(self) -> float:
        """The upper bound of the share; 1 of nothing."""
        return _wilson(self.succeeded, self.counted, 1.0) if self.counted else 1.0


@lru_cache(maxsize=10_000)
def _wilson(succeeded: int, counted: int, sign: float) -> float:
    share, spread = succeeded / counted, Z * Z / counted
    middle = share + spread / 2
    width = Z * math.sqrt(share * (1 - share) / counted + spread / (4 * counted))
    return min(1.0, max(0.0, (middle + sign * width) / (1 + spread)))


NO_RECORD = TrackRecord()


def track_record(newest: Iterable[tuple[LeaseOutcome, FailureReason | None]]) -> TrackRecord:
    """The track record of a provider with these newest attempts."""
    weights = [weight(outcome, reason) for outcome, reason in newest]
    succeeded = weights.count(Weight.FOR)
    return TrackRecord(succeeded, succeeded + weights.count(Weight.AGAINST))
