"""What asks an operator for a second look at a withdrawal request. None of it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.domain.levels import Standing
from server.domain.statements import DAY_MS

NEW_DAYS = 14
MOST_OF_ONE_PERCENT = 80


class PayoutFinding(StrEnum):
    """Why a request deserves a second look."""

    DOUBTFUL_STANDING = "DOUBTFUL_STANDING"
    NEW_ACCOUNT = "NEW_ACCOUNT"
    FEW_PAYERS = "FEW_PAYERS"
    SHARED_BANK_ACCOUNT = "SHARED_BANK_ACCOUNT"
    NEW_BANK_ACCOUNT = "NEW_BANK_ACCOUNT"
    OPEN_DISPUTES = "OPEN_DISPUTES"
    FIRST_WITHDRAWAL = "FIRST_WITHDRAWAL"


SENTENCES = {
    PayoutFinding.DOUBTFUL_STANDING: "The provider is suspect or suspended.",
    PayoutFinding.NEW_ACCOUNT: f"The provider registered less than {NEW_DAYS} days before the request.",
    PayoutFinding.FEW_PAYERS: f"More than {MOST_OF_ONE_PERCENT}% of its earnings come from one renter.",
    PayoutFinding.SHARED_BANK_ACCOUNT: "Another provider withdraws to the same bank account.",
    PayoutFinding.NEW_BANK_ACCOUNT: "Its last paid withdrawal went to another bank account.",
    PayoutFinding.OPEN_DISPUTES: "Charges of its jobs are disputed.",
    PayoutFinding.FIRST_WITHDRAWAL: "It has not been paid before.",
}


@dataclass(frozen=True, slots=True)
class PayoutFacts:
    """What is known about a request; all of it measured, or decided by others than the provider."""

    age_ms: int
    """How old the provider's account was at the request."""
    standing: Standing | None
    is_suspended: bool
    paid_micros: Sequence[int]
    """What each renter paid the provider, the most first."""
    has_shared_account: bool
    last_paid_to_same: bool | None
    """Whether the last paid request went to the same bank account; None if none was paid."""
    open_disputes: int


def findings(facts: PayoutFacts) -> list[PayoutFinding]:
    """What asks for a second look, in the order of the enum."""
    total = sum(facts.paid_micros)
    of_one = max(facts.paid_micros, default=0)
    holds = {
        PayoutFinding.DOUBTFUL_STANDING: facts.is_suspended
        or facts.standing in (Standing.SUSPECT, Standing.BANNED),
        PayoutFinding.NEW_ACCOUNT: facts.age_ms < NEW_DAYS * DAY_MS,
        PayoutFinding.FEW_PAYERS: total > 0 and of_one * 100 > total * MOST_OF_ONE_PERCENT,
        PayoutFinding.SHARED_BANK_ACCOUNT: facts.has_shared_account,
        PayoutFinding.NEW_BANK_ACCOUNT: facts.last_paid_to_same is False,
        PayoutFinding.OPEN_DISPUTES: facts.open_disputes > 0,
        PayoutFinding.FIRST_WITHDRAWAL: facts.last_paid_to_same is None,
    }
    return [finding for finding in PayoutFinding if holds[finding]]
