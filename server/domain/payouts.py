"""When payouts mature: how old one must be before its provider can withdraw it.

Maturing payouts are in an account of their own, and move to the claimable account in the order of their
transfers. Each provider's cursor is the last transfer that matured. This module does not know how rows are
stored, nor how a provider proves itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

HOUR_MS = 3_600_000
# The payouts of one provider that one look may move.
BATCH = 1000
# PostgreSQL's ids are not in the order of commits: a payout that is younger than this may still be followed
# by one with a smaller id, which a cursor behind it would leave out.
SETTLED_MS = 60_000
# A provider is looked at again after this time at the latest, since its period may have become shorter.
LOOK_AGAIN_MS = HOUR_MS

# How long a provider's payouts mature now, in milliseconds; None: not while it is as it is now. It is called
# inside a transaction.
Period: TypeAlias = Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class PayoutTerms:
    """How long payouts mature, and how long a charge can be disputed."""

    proven_hours: int = 24
    new_hours: int = 168
    dispute_days: int = 7

    @property
    def is_immediate(self) -> bool:
        """Whether no payout matures: settlements then credit the claimable account."""
        return not (self.proven_hours or self.new_hours)

    def period_ms(self, *, is_proven: bool) -> int:
        """How long the payouts of a provider mature."""
        return HOUR_MS * (self.proven_hours if is_proven else self.new_hours)

    def everybody_is_new(self, provider_id: int) -> int | None:
        """The period of a market in which no provider can prove itself."""
        return self.period_ms(is_proven=False)


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout as its transfer says."""

    id: int
    """The id of the transfer."""
    amount_micros: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class Matured:
    """What one look found."""

    through_id: int
    """The last payout that matured; the cursor as it was if none did."""
    amount_micros: int
    due_ms: int
    """When to look again."""


def matured(payouts: Iterable[Payout], through_id: int, period_ms: int | None, now_ms: int) -> Matured:
    """The payouts after a cursor, by id, that are old enough; at most ``BATCH`` are given."""
    latest_ms = now_ms + LOOK_AGAIN_MS
    if period_ms is None:
        return Matured(through_id, 0, latest_ms)
    wait_ms, amount, count = max(period_ms, SETTLED_MS), 0, 0
    for payout in payouts:
        if payout.created_ms + wait_ms > now_ms:
            return Matured(through_id, amount, min(payout.created_ms + wait_ms, latest_ms))
        through_id, amount, count = payout.id, amount + payout.amount_micros, count + 1
    # Whatever arrives from now on is not old enough before the whole period has passed.
    return Matured(through_id, amount, now_ms if count == BATCH else min(now_ms + wait_ms, latest_ms))
