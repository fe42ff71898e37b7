"""The ledger's rules: accounts, immutable transfers, holds that resolve once, and the proof.

A transfer moves a positive amount from one account to another, so the postings always sum to zero.
A hold is money in the renter's held account, with its own row; it resolves once, by post (some or all is
taken, the rest returns) or by void (all returns). This module does not know how rows are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain import pricing
from server.domain.jobs import Bill
from server.domain.withdrawals import OPEN as OPEN_WITHDRAWALS
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


def settlement(bill: Bill, renter_id: int, provider_id: int | None, job_id: str) -> list[Transfer]:
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
    return [Transfer(kind, source, target, amount, job_id) for kind, target, amount in parts if amount]


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as stored, and whether its job has ended."""

    job_id: str
    renter_id: int
    amount_halala: int
    state: HoldState
    job_is_final: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a replay; ``discrepancies`` are sentences, and empty if everything agrees."""

    transfers: int
    postings_sum_halala: int
    open_holds: int
    open_holds_halala: int
    discrepancies: tuple[str, ...]
    open_withdrawals: int = 0
    open_withdrawals_halala: int = 0


def prove(
    balances: dict[Account, int],
    transfers: Iterable[Transfer],
    holds: Iterable[StoredHold],
    withdrawals: Iterable[Withdrawal] = (),
    deleted_renters: Iterable[int] = (),
) -> Proof:
    """Replays all transfers from empty accounts and compares balances, holds, withdrawals and deletions."""
    replay, requests = _replay(transfers), list(withdrawals)
    hold_faults, held, open_holds = _prove_holds(holds, replay.held)
    open_requests = [request for request in requests if request.state in OPEN_WITHDRAWALS]
    reserved: Counter[int] = Counter()
    for request in open_requests:
        reserved[request.provider_id] += request.amount_halala
    in_holds = "renter {} has {} halala held and open holds of {}"
    in_requests = "provider {} has {} halala reserved and open withdrawals of {}"
    wrong = [
        *replay.wrong,
        *_balance_discrepancies(balances, replay.balances),
        *_deletion_discrepancies(set(deleted_renters), replay.forfeits, replay.balances),
        *hold_faults,
        *_reserve_discrepancies(AccountKind.RENTER_HELD, in_holds, replay.balances, held),
        *_withdrawal_discrepancies(requests, replay.withdrawn),
        *_reserve_discrepancies(AccountKind.WITHDRAWAL, in_requests, replay.balances, reserved),
    ]
    return Proof(
        replay.count,
        sum(replay.balances.values()),
        open_holds,
        sum(held.values()),
        tuple(wrong),
        len(open_requests),
        sum(reserved.values()),
    )


@dataclass(slots=True)
class _Replay:
    """The sums that all transfers produce."""

    count: int = 0
    balances: Counter[Account] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    """The remaining amount of each job's hold."""
    withdrawn: Counter[tuple[int, TransferKind]] = field(default_factory=Counter)
    forfeits: list[Account] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def _replay(transfers: Iterable[Transfer]) -> _Replay:
    replay = _Replay()
    for transfer in transfers:
        replay.count += 1
        amount = transfer.amount_halala
        if amount <= 0:
            replay.wrong.append(f"a {transfer.kind} transfer moves {amount} halala")
        replay.balances[transfer.debit] -= amount
        replay.balances[transfer.credit] += amount
        if transfer.job_id is not None:
            replay.held[transfer.job_id] += amount if transfer.kind is TransferKind.HOLD else -amount
        if transfer.withdrawal_id is not None:
            replay.withdrawn[transfer.withdrawal_id, transfer.kind] += amount
        if transfer.kind is TransferKind.FORFEIT:
            replay.forfeits.append(transfer.debit)
    return replay


def _prove_holds(holds: Iterable[StoredHold], moved: Counter[str]) -> tuple[list[str], Counter[int], int]:
    """An open hold has its full amount, a resolved hold has none; a hold is open exactly while its job is.

    Returns the discrepancies, the open holds of each renter in halala, and the number of open holds.
    ``moved`` is what the transfers left of each job's hold.
    """
    wrong: list[str] = []
    held: Counter[int] = Counter()
    open_count = 0
    for hold in holds:
        is_open = hold.state is HoldState.OPEN
        remaining = moved.pop(hold.job_id, 0)
        if is_open:
            open_count += 1
            held[hold.renter_id] += hold.amount_halala
        if remaining != (hold.amount_halala if is_open else 0):
            wrong.append(f"the hold of {hold.job_id} is {hold.state} and {remaining} halala of it remain")
        if is_open == hold.job_is_final:
            wrong.append(f"the hold of {hold.job_id} is {hold.state} though its job is not")
    wrong += [f"{job_id} moved money without a hold" for job_id, left in moved.items() if left]
    return wrong, held, open_count


def _withdrawal_discrepancies(
    requests: Iterable[Withdrawal], withdrawn: Counter[tuple[int, TransferKind]]
) -> list[str]:
    """Each request reserved its amount once; one that ended was also paid or returned once, by its state."""
    expected: Counter[tuple[int, TransferKind]] = Counter()
    for request in requests:
        expected[request.id, TransferKind.WITHDRAW] = request.amount_halala
        if request.state not in OPEN_WITHDRAWALS:
            expected[request.id, withdrawal_transfer(request).kind] = request.amount_halala
    return [
        f"withdrawal {key[0]} moved {withdrawn[key]} halala by {key[1]} and should have moved {expected[key]}"
        for key in sorted({*expected, *withdrawn})
        if withdrawn[key] != expected[key]
    ]


def _deletion_discrepancies(
    deleted: set[int], forfeits: list[Account], replayed: Counter[Account]
) -> list[str]:
    """A deleted renter's wallet is empty; only a deleted renter gave up its wallet, and only once."""
    wrong = [
        f"renter {owner} is deleted and its wallet has {replayed[renter(owner)]} halala"
        for owner in sorted(deleted)
        if replayed[renter(owner)]
    ]
    for account, times in sorted(Counter(forfeits).items()):
        if times > 1 or account.kind is not AccountKind.RENTER or account.owner_id not in deleted:
            name = f"{account.kind} {account.owner_id}"
            wrong.append(f"{name} was given up {times} times; only a deleted renter's wallet is, once")
    return wrong


def _balance_discrepancies(balances: dict[Account, int], replayed: Counter[Account]) -> list[str]:
    wrong = []
    for account in sorted({*balances, *replayed}):
        stored = balances.get(account, 0)
        name = f"{account.kind} {account.owner_id}"
        if stored != replayed[account]:
            wrong.append(f"{name} is stored as {stored} halala and replays to {replayed[account]}")
        if replayed[account] < 0 and account.kind is not AccountKind.EXTERNAL:
            wrong.append(f"{name} is negative: {replayed[account]} halala")
    return wrong


def _reserve_discrepancies(
    kind: AccountKind, template: str, replayed: Counter[Account], open_by_owner: Counter[int]
) -> list[str]:
    """Each account that reserves money contains exactly the sum of its owner's open holds or requests."""
    owners = {account.owner_id for account in replayed if account.kind is kind} | set(open_by_owner)
    return [
        template.format(owner, replayed[Account(kind, owner)], open_by_owner[owner])
        for owner in sorted(owners)
        if replayed[Account(kind, owner)] != open_by_owner[owner]
    ]
