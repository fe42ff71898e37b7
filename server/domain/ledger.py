"""The ledger's rules: accounts, immutable transfers, and holds that resolve once.

A transfer moves a positive amount from one account to another, so the postings always sum to zero.
A hold is money in the renter's held account, with its own row; it resolves once, by post (some or all is
taken, the rest returns) or by void (all returns). Amounts are micros: see server.domain.money. This module
does not know how rows are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.domain import pricing
from server.domain.errors import DomainError, Reason
from server.domain.jobs import Bill, JobType
from server.domain.money import MAX_BALANCE_HALALA
from server.domain.withdrawals import Withdrawal, WithdrawalState


class AccountKind(StrEnum):
    # The world outside, which money comes from and leaves to: its balance may be negative.
    EXTERNAL = "external"
    RENTER = "renter"
    RENTER_HELD = "renter_held"
    # What a provider can withdraw.
    PROVIDER = "provider"
    # Payouts that are not old enough to be withdrawn.
    PROVIDER_MATURING = "provider_maturing"
    # Payouts whose charge a renter disputes.
    PROVIDER_DISPUTED = "provider_disputed"
    # What a provider owes: refunds of payouts that it no longer had. Never positive.
    PROVIDER_DEBT = "provider_debt"
    PLATFORM = "platform"
    # Amounts of withdrawal requests that were neither paid nor rejected yet.
    WITHDRAWAL = "withdrawal"
    # What the market spent on checks of providers' work. Never positive.
    CANARY_BUDGET = "canary_budget"


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
    # Payouts became old enough to be withdrawn.
    MATURED = "matured"
    # A renter disputed a charge; its payout is held until an operator decides.
    DISPUTED = "disputed"
    # The held payout, or a part of it, returned to the provider.
    DISPUTE_RETURNED = "dispute_returned"
    # The provider's part of a refund after a dispute, and the platform's part.
    DISPUTE_REFUND = "dispute_refund"
    FEE_REFUND = "fee_refund"
    DEBT_REPAID = "debt_repaid"
    # The market pays for a check; it goes to the wallet of one of its own renters.
    CANARY_FUNDED = "canary_funded"
    # A renter paid for what was kept for it on a day.
    STORAGE = "storage"


# The transfers that take a job's hold apart; others that name a job do not touch its hold.
OF_HOLDS = (TransferKind.HOLD, TransferKind.PAYOUT, TransferKind.FEE, TransferKind.REFUND)
# The accounts whose balance may be negative.
MAY_BE_NEGATIVE = frozenset({AccountKind.EXTERNAL, AccountKind.PROVIDER_DEBT, AccountKind.CANARY_BUDGET})
# The accounts whose balance is never positive.
NEVER_POSITIVE = frozenset({AccountKind.PROVIDER_DEBT, AccountKind.CANARY_BUDGET})


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
    """One immutable movement of ``amount_micros`` > 0 from ``debit`` to ``credit``."""

    kind: TransferKind
    debit: Account
    credit: Account
    amount_micros: int
    job_id: str | None = None
    withdrawal_id: int | None = None
    job_type: JobType | None = None
    """Of the job that earned it; only payouts have it."""


EXTERNAL = Account(AccountKind.EXTERNAL)
PLATFORM = Account(AccountKind.PLATFORM)
CANARY_BUDGET = Account(AccountKind.CANARY_BUDGET)


@dataclass(frozen=True, slots=True)
class ProviderMoney:
    """The balances of a provider's accounts, in micros."""

    available_micros: int = 0
    """What its main account has; ``claimable_micros`` is what is left of it without the debt."""
    maturing_micros: int = 0
    disputed_micros: int = 0
    reserved_micros: int = 0
    debt_micros: int = 0
    """What the provider owes; 0 or more."""

    @property
    def claimable_micros(self) -> int:
        """What can be withdrawn now: a debt is repaid first."""
        return max(0, self.available_micros - self.debt_micros)

    @property
    def held_micros(self) -> int:
        """What waits for a decision: disputed payouts and the amounts of open withdrawal requests."""
        return self.disputed_micros + self.reserved_micros

    @property
    def repayable_micros(self) -> int:
        """How much of the debt can be repaid now."""
        return min(self.available_micros, self.debt_micros)


def accounts_of(provider_id: int) -> tuple[Account, ...]:
    """The accounts of a provider, in the order of the fields of ``ProviderMoney``."""
    kinds = (provider, maturing, disputed, reserved, debt)
    return tuple(kind(provider_id) for kind in kinds)


def too_large() -> DomainError:
    """The refusal of an amount with which an account would hold more than it can."""
    return DomainError(
        Reason.AMOUNT_TOO_LARGE,
        f"amount_halala: an account holds at most {MAX_BALANCE_HALALA} halala; send less",
        field="amount_halala",
    )


def renter(owner_id: int) -> Account:
    return Account(AccountKind.RENTER, owner_id)


def held(owner_id: int) -> Account:
    return Account(AccountKind.RENTER_HELD, owner_id)


def provider(owner_id: int) -> Account:
    return Account(AccountKind.PROVIDER, owner_id)


def maturing(owner_id: int) -> Account:
    """The account of a provider's payouts that cannot be withdrawn yet."""
    return Account(AccountKind.PROVIDER_MATURING, owner_id)


def disputed(owner_id: int) -> Account:
    """The account that holds a provider's payouts while their charges are disputed."""
    return Account(AccountKind.PROVIDER_DISPUTED, owner_id)


def debt(owner_id: int) -> Account:
    """The account of what a provider owes, as a negative balance."""
    return Account(AccountKind.PROVIDER_DEBT, owner_id)


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
    return Transfer(kind, source, target, request.amount_micros, withdrawal_id=request.id)


def matured_transfer(provider_id: int, amount_micros: int) -> Transfer:
    """Makes payouts that are old enough claimable."""
    return Transfer(TransferKind.MATURED, maturing(provider_id), provider(provider_id), amount_micros)


def repayment(provider_id: int, money: ProviderMoney) -> list[Transfer]:
    """Repays a provider's debt with what it could withdraw otherwise; nothing if there is no debt."""
    amount = money.repayable_micros
    source, target = provider(provider_id), debt(provider_id)
    return [Transfer(TransferKind.DEBT_REPAID, source, target, amount)] if amount else []


def hold_transfer(renter_id: int, amount_micros: int, job_id: str) -> Transfer:
    """Reserves the highest possible cost of a job."""
    return Transfer(TransferKind.HOLD, renter(renter_id), held(renter_id), amount_micros, job_id)


def forfeit_transfer(renter_id: int, amount_micros: int) -> Transfer:
    """Gives the balance of a deleted renter's wallet to the platform."""
    return Transfer(TransferKind.FORFEIT, renter(renter_id), PLATFORM, amount_micros)


def storage_transfer(renter_id: int, amount_micros: int) -> Transfer:
    """Pays the platform for what it keeps for a renter."""
    return Transfer(TransferKind.STORAGE, renter(renter_id), PLATFORM, amount_micros)


def funding(renter_id: int, amount_micros: int) -> Transfer:
    """Pays for a check, to the wallet of one of the market's own renters."""
    return Transfer(TransferKind.CANARY_FUNDED, CANARY_BUDGET, renter(renter_id), amount_micros)


def make_bill(hold_micros: int, cost_micros: int, billed: int) -> Bill:
    """The bill for a run that cost so much and lasted ``billed`` milliseconds; the hold limits the charge."""
    charge = min(hold_micros, cost_micros)
    payout, fee = pricing.shares(charge)
    return Bill(hold_micros, charge, hold_micros - charge, payout, fee, billed)


def settlement(
    bill: Bill, renter_id: int, provider_id: int | None, job_id: str, job_type: JobType, *, matures: bool
) -> list[Transfer]:
    """The transfers that resolve a hold; together they move exactly its amount out of the held account.

    ``matures``: the payout cannot be withdrawn before it is old enough.
    """
    source = held(renter_id)
    parts = [(TransferKind.REFUND, renter(renter_id), bill.refund_micros)]
    if bill.charge_micros:
        if provider_id is None:
            raise ValueError("a job was charged without a provider who earned it")
        parts += [
            (
                TransferKind.PAYOUT,
                maturing(provider_id) if matures else provider(provider_id),
                bill.payout_micros,
            ),
            (TransferKind.FEE, PLATFORM, bill.fee_micros),
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
