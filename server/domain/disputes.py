"""Disputes: a renter contests the charge of an ended job, and an operator decides once.

    (none) --open--> open --uphold--> upheld
                     open --reject--> rejected

While a dispute is open, the job's payout is held as far as its provider still has it. Upholding refunds the
renter; the provider's part comes from what is held, then from what matures, then from what is claimable, and
the rest becomes a debt of the provider. No transfer is ever reversed: each step has transfers of its own,
which name the job. This module does not know how rows are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from server.domain import ledger, pricing
from server.domain.ledger import PLATFORM, Account, ProviderMoney, Transfer, TransferKind
from server.domain.transitions import Transitions

# Open disputes of one renter.
MAX_OPEN_DISPUTES = 20
DAY_MS = 24 * 3_600_000
# The bytes of output and of log that an operator sees beside a dispute; the job's own routes have all of it.
EVIDENCE_BYTES = 64 * 1024
# Checks of a provider's work that an operator sees, and how far from the job's end.
EVIDENCE_CANARIES, NEAR_MS = 50, 7 * DAY_MS
# A provider's ended attempts that an operator sees: this number of those that ended up to the job's end.
EVIDENCE_ATTEMPTS = 50


class DisputeState(StrEnum):
    OPEN = "open"
    UPHELD = "upheld"
    REJECTED = "rejected"


class DisputeEvent(StrEnum):
    OPEN = "open"
    UPHOLD = "uphold"
    REJECT = "reject"


DISPUTE_TRANSITIONS: Transitions[DisputeState, DisputeEvent] = Transitions(
    {
        (None, DisputeEvent.OPEN): DisputeState.OPEN,
        (DisputeState.OPEN, DisputeEvent.UPHOLD): DisputeState.UPHELD,
        (DisputeState.OPEN, DisputeEvent.REJECT): DisputeState.REJECTED,
    }
)
# The transfers that belong to disputes.
OF_DISPUTES = (
    TransferKind.DISPUTED,
    TransferKind.DISPUTE_RETURNED,
    TransferKind.DISPUTE_REFUND,
    TransferKind.FEE_REFUND,
)


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as stored. Money in micros, times in milliseconds since 1970."""

    id: int
    job_id: str
    renter_id: int
    provider_id: int
    state: DisputeState
    reason: str
    charge_micros: int
    payout_micros: int
    payout_id: int
    """The transfer of the payout."""
    held_micros: int
    """How much of the payout was held when the dispute opened."""
    maturing_micros: int
    """How much of that was maturing then."""
    created_ms: int
    refund_micros: int | None = None
    note: str | None = None
    decided_ms: int | None = None

    @property
    def fee_micros(self) -> int:
        """The platform's share of the charge."""
        return self.charge_micros - self.payout_micros

    def provider_part(self, refund_micros: int) -> int:
        """How much of a refund the provider bears: its share of it, as in the charge."""
        share = pricing.shares(refund_micros)[0]
        return min(self.payout_micros, max(share, refund_micros - self.fee_micros))


def opening(
    job_id: str, provider_id: int, payout_micros: int, money: ProviderMoney, is_matured: bool
) -> list[Transfer]:
    """Holds a payout as far as the provider has it; what is reserved for a withdrawal is not touched."""
    maturing = (ledger.maturing(provider_id), 0 if is_matured else money.maturing_micros)
    claimable = (ledger.provider(provider_id), money.available_micros)
    target = ledger.disputed(provider_id)
    return [
        Transfer(TransferKind.DISPUTED, source, target, amount, job_id)
        for source, amount in _taken(payout_micros, (maturing, claimable))
    ]


def upholding(dispute: Dispute, refund_micros: int, money: ProviderMoney) -> list[Transfer]:
    """Refunds a part of the charge, and returns the rest of what is held to the provider."""
    provider_id, wallet = dispute.provider_id, ledger.renter(dispute.renter_id)
    part = dispute.provider_part(refund_micros)
    purses = (
        (ledger.disputed(provider_id), dispute.held_micros),
        (ledger.maturing(provider_id), money.maturing_micros),
        (ledger.provider(provider_id), money.available_micros),
        (ledger.debt(provider_id), part),
    )
    moves = [
        *((TransferKind.DISPUTE_REFUND, source, wallet, amount) for source, amount in _taken(part, purses)),
        (TransferKind.FEE_REFUND, PLATFORM, wallet, refund_micros - part),
        _return(provider_id, dispute.held_micros - min(part, dispute.held_micros)),
    ]
    return [Transfer(*move, dispute.job_id) for move in moves if move[3]]


def rejecting(dispute: Dispute) -> list[Transfer]:
    """Returns what is held to the provider, who can withdraw it then."""
    kind, source, target, amount = _return(dispute.provider_id, dispute.held_micros)
    return [Transfer(kind, source, target, amount, dispute.job_id)] if amount else []


def forfeiting(dispute: Dispute, refund_micros: int) -> Transfer:
    """Gives the refund of a renter that deleted its account to the platform."""
    return Transfer(
        TransferKind.FORFEIT, ledger.renter(dispute.renter_id), PLATFORM, refund_micros, dispute.job_id
    )


def expected(dispute: Dispute) -> Counter[TransferKind]:
    """What the transfers of a dispute have to add up to, by kind; kinds that moved nothing are left out."""
    sums = Counter({TransferKind.DISPUTED: dispute.held_micros})
    if dispute.state is not DisputeState.OPEN:
        refund = dispute.refund_micros or 0
        part = dispute.provider_part(refund) if refund else 0
        sums[TransferKind.DISPUTE_REFUND] = part
        sums[TransferKind.FEE_REFUND] = refund - part
        sums[TransferKind.DISPUTE_RETURNED] = dispute.held_micros - min(part, dispute.held_micros)
    return +sums


def _return(provider_id: int, amount: int) -> tuple[TransferKind, Account, Account, int]:
    return TransferKind.DISPUTE_RETURNED, ledger.disputed(provider_id), ledger.provider(provider_id), amount


def _taken(amount: int, purses: Iterable[tuple[Account, int]]) -> list[tuple[Account, int]]:
    """Takes an amount from accounts, in order, each as far as it has it; parts of nothing are left out."""
    parts = []
    for account, most in purses:
        if part := min(amount, most):
            parts.append((account, part))
            amount -= part
    return parts
