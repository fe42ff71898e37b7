"""The ledger's rules: accounts, immutable transfers, and holds that resolve once.

A transfer moves a positive amount from one account to another, so the postings always sum to zero.
A hold is money in the renter's held account, with its own row; it resolves once, by post (some or all is
taken, the rest returns) or by void (all returns). This module does not know how rows are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.domain import pricing
from server.domain.jobs import Bill, JobType
from server.domain.withdrawals import Withdrawal, WithdrawalState


class AccountKind(StrEnum):
    # The world outside, which money comes from and leaves to: only its balance may be negative.
    EXTERNAL = "external"
    RENTER = "renter"
    RENTER_HELD = "renter_held"
    PROVIDER = "provider"
    PLATFORM = "platform"
    # Amounts of withdrawal requests that were neither paid nor rejected yet.
    WITHDRAWAL = "withdrawal"


class TransferKind(StrEnum):
    CREDIT = "credit"
    TOPUP = "topup"
    HOLD = "hold"
    PAYOUT = "payout"
    FEE = "fee"
    REFUND = "refund"
    WITHDRAW = "withdraw"
    WITHDRAWAL_PAID = "withdrawal_paid"
    WITHDRAWAL_RETURNED = "withdrawal_returned"
    # The balance that a renter gave up with its account; it goes to the platform.
    FORFEIT = "forfeit"


class HoldState(StrEnum):
    OPEN = "open"
    POSTED = "posted"
    VOIDED = "voided"


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """Identifies an account; ``owner_id`` is 0 for a kind that has only one account."""

    kind: AccountKind
    owner_id: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One immutable movement of ``amount_halala`` > 0 from ``debit`` to ``credit``."""

    kind: TransferKind
    debit: Account
    credit: Account
    amount_halala: int
    job_id: str | None = None
    withdrawal_id: int | None = None
    job_type: JobType | None = None
    """Of the job that earned it; only payouts have it."""


EXTERNAL = Account(AccountKind.EXTERNAL)
PLATFORM = Account(AccountKind.PLATFORM)

# The most that one account may hold: far inside a 64-bit integer and the exact range of JSON numbers.
MAX_BALANCE_HALALA = 2**53 - 1


def renter(owner_id: int) -> Account:
    return Account(AccountKind.RENTER, owner_id)


def held(owner_id: int) -> Account:
    return Account(AccountKind.RENTER_HELD, owner_id)


def provider(owner_id: int) -> Account:
    return Account(AccountKind.PROVIDER, owner_id)


def reserved(owner_id: int) -> Account:
    """The account that holds the amount of a provider's open withdrawal request."""
    return Account(AccountKind.WITHDRAWAL, owner_id)


def withdrawal_transfer(request: Withdrawal) -> Transfer:
    """The transfer that belongs to the state of a request. ``PROCESSING`` has none: it raises KeyError."""
    kind, source, target = {
        WithdrawalState.PENDING: (
            TransferKind.WITHDRAW,
            provider(request.provider_id),
            reserved(request.provider_id),
        ),
        WithdrawalState.PAID: (TransferKind.WITHDRAWAL_PAID, reserved(request.provider_id), EXTERNAL),
        WithdrawalState.REJECTED: (
            TransferKind.WITHDRAWAL_RETURNED,
            reserved(request.provider_id),
            provider(request.provider_id),
        ),
    }[request.state]
    return Transfer(kind, source, target, request.amount_halala, withdrawal_id=request.id)


def hold_transfer(renter_id: int, amount_halala: int, job_id: str) -> Transfer:
    """Reserves the highest possible cost of a job."""
    return Transfer(TransferKind.HOLD, renter(renter_id), held(renter_id), amount_halala, job_id)


def forfeit_transfer(renter_id: int, amount_halala: int) -> Transfer:
    """Gives the balance of a deleted renter's wallet to the platform."""
    return Transfer(TransferKind.FORFEIT, renter(renter_id), PLATFORM, amount_halala)


def make_bill(hold_halala: int, rate_halala_per_minute: int, billed: int) -> Bill:
    """The bill for ``billed`` milliseconds at a rate, limited by the hold; 0 ms charges nothing."""
    charge = pricing.charge_halala(rate_halala_per_minute, billed, hold_halala)
    payout, fee = pricing.shares(charge)
    return Bill(hold_halala, charge, hold_halala - charge, payout, fee, billed)


def settlement(
    bill: Bill, renter_id: int, provider_id: int | None, job_id: str, job_type: JobType
) -> list[Transfer]:
    """The transfers that resolve a hold; together they move exactly its amount out of the held account."""
    source = held(renter_id)
    parts = [(TransferKind.REFUND, renter(renter_id), bill.refund_halala)]
    if bill.charge_halala:
        if provider_id is None:
            raise ValueError("a job was charged without a provider who earned it")
        parts += [
            (TransferKind.PAYOUT, provider(provider_id), bill.payout_halala),
            (TransferKind.FEE, PLATFORM, bill.fee_halala),
        ]
    return [
        Transfer(
            kind,
            source,
            target,
            amount,
            job_id,
            job_type=job_type if kind is TransferKind.PAYOUT else None,
        )
        for kind, target, amount in parts
        if amount
    ]
