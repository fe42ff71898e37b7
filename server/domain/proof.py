"""The proof of the ledger: what the transfers add up to, compared with what is stored.

The sums come from a full replay (``Sums.add`` for each transfer) or from a checkpoint and the database's own
sums since then; the comparison is the same. A checkpoint holds the sums up to one transfer. Its digest covers
them, the transfers since the checkpoint before it, and that checkpoint's digest. This module does not know
how rows are stored.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain.disputes import OF_DISPUTES, Dispute, DisputeState, expected
from server.domain.ledger import (
    CANARY_BUDGET,
    MAY_BE_NEGATIVE,
    NEVER_POSITIVE,
    OF_HOLDS,
    Account,
    AccountKind,
    HoldState,
    Transfer,
    TransferKind,
    renter,
    withdrawal_transfer,
)
from server.domain.money import text
from server.domain.withdrawals import OPEN as OPEN_WITHDRAWALS
from server.domain.withdrawals import Withdrawal

# Further discrepancies are only noted to exist: a broken ledger must not fill the memory.
MAX_DISCREPANCIES = 1000
NO_DIGEST = b""


class Extent(StrEnum):
    """What a proof read."""

    # The transfers since the newest checkpoint, and the accounts that they touched.
    CHANGES = "changes"
    # Every account, and the transfers since the newest checkpoint.
    ACCOUNTS = "accounts"
    # Every row.
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as stored, and whether its job has ended."""

    job_id: str
    renter_id: int
    amount_micros: int
    state: HoldState
    job_is_final: bool


@dataclass(frozen=True, slots=True)
class StoredTransfer:
    """A transfer with what only its row has."""

    id: int
    transfer: Transfer
    created_ms: int


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a proof; ``discrepancies`` are sentences, and empty if everything agrees."""

    transfers: int
    postings_sum_micros: int
    open_holds: int
    open_holds_micros: int
    discrepancies: tuple[str, ...]
    open_withdrawals: int = 0
    open_withdrawals_micros: int = 0
    claimable_micros: int = 0
    """What providers can withdraw."""
    maturing_micros: int = 0
    open_disputes: int = 0
    disputed_micros: int = 0
    debt_micros: int = 0
    """What providers owe."""
    canaries_micros: int = 0
    """What the market spent on checks. Beside the world's, only this account and debts are negative."""
    checkpoint_id: int = 0
    """The checkpoint from which the sums start; 0 for a replay of everything."""
    transfers_read: int = 0
    """The transfers that were read for it: those after the checkpoint, or all."""
    extent: Extent = Extent.REPLAY

    @property
    def is_balanced(self) -> bool:
        return not self.discrepancies and self.postings_sum_micros == 0


@dataclass(slots=True)
class Sums:
    """What transfers add up to. Its size depends on accounts and open holds, not on transfers."""

    count: int = 0
    balances: Counter[Account] = field(default_factory=Counter)
    elsewhere_micros: int = 0
    """What the accounts that are not read have: all accounts together have nothing."""
    held: Counter[str] = field(default_factory=Counter)
    """The remaining amount of each job's hold; a job without a rest is left out."""
    withdrawn: Counter[tuple[int, TransferKind]] = field(default_factory=Counter)
    disputed: Counter[tuple[str, TransferKind]] = field(default_factory=Counter)
    """What disputes moved, by job."""
    forfeits: list[Account] = field(default_factory=list)
    """The wallets that were given up with their accounts."""
    refunds_forfeited: Counter[tuple[str, Account]] = field(default_factory=Counter)
    """The refunds after disputes that came after the deletion of their renters, by job and wallet."""
    funded: Counter[Account] = field(default_factory=Counter)
    """What the market paid for checks, by the wallet that got it."""
    wrong: list[str] = field(default_factory=list)

    def add(self, transfer: Transfer) -> None:
        """Adds one transfer."""
        self.count += 1
        amount = transfer.amount_micros
        if amount <= 0:
            _note(self.wrong, f"a {transfer.kind} transfer moves {text(amount)} halala")
        self.balances[transfer.debit] -= amount
        self.balances[transfer.credit] += amount
        if transfer.kind in OF_HOLDS and transfer.job_id is not None:
            self.hold(transfer.job_id, amount if transfer.kind is TransferKind.HOLD else -amount)
        if transfer.kind in OF_DISPUTES:
            self.disputed[transfer.job_id or "", transfer.kind] += amount
        if transfer.withdrawal_id is not None:
            self.withdrawn[transfer.withdrawal_id, transfer.kind] += amount
        if transfer.kind is TransferKind.CANARY_FUNDED:
            self.funded[transfer.credit] += amount
        if transfer.kind is TransferKind.FORFEIT:
            self.forfeit(transfer.debit, transfer.job_id, amount)

    def forfeit(self, wallet: Account, job_id: str | None, amount: int) -> None:
        """Adds what a wallet gave up: its rest, or the refund of a job."""
        if job_id is None:
            self.forfeits.append(wallet)
        else:
            self.refunds_forfeited[job_id, wallet] += amount

    def hold(self, job_id: str, amount: int) -> None:
        """Adds to what remains of a job's hold."""
        self.held[job_id] += amount
        if not self.held[job_id]:
            del self.held[job_id]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The sums up to one transfer. It never changes."""

    id: int
    transfer_id: int
    """The last transfer that it covers."""
    transfers: int
    rows_sha256: bytes
    """The digest of the transfers since the checkpoint before it."""
    sha256: bytes
    """The digest of everything here and of the checkpoint before it."""
    balances: dict[Account, int]
    """The sums of those accounts that the transfers since the checkpoint before it touched."""
    held: dict[str, int]
    """What remains of each hold that was not resolved."""

    def digest(self, previous: bytes) -> bytes:
        """What ``sha256`` has to be, after the digest of the checkpoint before it."""
        sha256 = hashlib.sha256(previous)
        sha256.update(f"{self.id} {self.transfer_id} {self.transfers} {self.rows_sha256.hex()}".encode())
        for account, sum_micros in sorted(self.balances.items()):
            sha256.update(f"\n{account.kind} {account.owner_id} {sum_micros}".encode())
        for job_id, amount in sorted(self.held.items()):
            sha256.update(f"\n{job_id} {amount}".encode())
        return sha256.digest()


class Segment:
    """Adds up the transfers that follow a checkpoint, and makes the next checkpoint of them."""

    def __init__(self, sums: Sums, after: Checkpoint | None = None) -> None:
        self.sums = sums
        self._id = after.id + 1 if after is not None else 1
        self._previous = after.sha256 if after is not None else NO_DIGEST
        self._begin(after.transfer_id if after is not None else 0)

    def _begin(self, transfer_id: int) -> None:
        self._last_id = transfer_id
        self._rows = hashlib.sha256()
        self._touched: set[Account] = set()

    def add(self, row: StoredTransfer) -> None:
        """Adds the next transfer, in the order of their ids."""
        transfer = row.transfer
        self.sums.add(transfer)
        self._last_id = row.id
        self._touched |= {transfer.debit, transfer.credit}
        debit, credit = transfer.debit, transfer.credit
        self._rows.update(
            f"{row.id} {transfer.kind} {debit.kind} {debit.owner_id} {credit.kind} {credit.owner_id} "
            f"{transfer.amount_micros} {transfer.job_id} {transfer.withdrawal_id} {row.created_ms}\n".encode()
        )

    def close(self) -> Checkpoint:
        """The checkpoint of what was added since the last one; the next segment begins."""
        balances = {account: self.sums.balances[account] for account in self._touched}
        rows, held = self._rows.digest(), dict(self.sums.held)
        unsigned = Checkpoint(self._id, self._last_id, self.sums.count, rows, b"", balances, held)
        sha256 = unsigned.digest(self._previous)
        made = Checkpoint(self._id, self._last_id, self.sums.count, rows, sha256, balances, held)
        self._id, self._previous = self._id + 1, sha256
        self._begin(self._last_id)
        return made


def replay(rows: Iterable[StoredTransfer], checkpoints: Iterable[Checkpoint]) -> Sums:
    """Adds up all transfers from empty accounts, and compares each checkpoint with them on the way."""
    segment = Segment(Sums())
    waiting = iter(checkpoints)
    stored = next(waiting, None)
    for row in rows:
        while stored is not None and row.id > stored.transfer_id:
            _compare(segment, stored)
            stored = next(waiting, None)
        segment.add(row)
    while stored is not None:
        _compare(segment, stored)
        stored = next(waiting, None)
    return segment.sums


def _compare(segment: Segment, stored: Checkpoint) -> None:
    made = segment.close()
    parts = {
        "number": made.id == stored.id,
        "last transfer": made.transfer_id == stored.transfer_id,
        "count of transfers": made.transfers == stored.transfers,
        "digest of the transfers": made.rows_sha256 == stored.rows_sha256,
        "sums of accounts": made.balances == stored.balances,
        "open holds": made.held == stored.held,
        "digest": made.sha256 == stored.sha256,
    }
    if differ := [name for name, agrees in parts.items() if not agrees]:
        _note(
            segment.sums.wrong,
            f"checkpoint {stored.id} does not agree with the transfers up to {stored.transfer_id}: "
            f"{', '.join(differ)}",
        )


def prove(
    sums: Sums,
    balances: dict[Account, int],
    holds: Iterable[StoredHold],
    withdrawals: Iterable[Withdrawal] = (),
    deleted_renters: Iterable[int] = (),
    disputes: Iterable[Dispute] = (),
    market_renters: Iterable[int] = (),
) -> Proof:
    """Compares sums, whose ``held`` it empties, with stored balances, holds, withdrawals and the rest."""
    hold_faults, held, open_holds = _prove_holds(holds, sums.held)
    request_faults, reserved, open_requests = _prove_withdrawals(withdrawals, sums.withdrawn)
    in_holds = "renter {} has {} halala held and open holds of {}"
    in_requests = "provider {} has {} halala reserved and open withdrawals of {}"
    in_disputes = "provider {} has {} halala disputed and open disputes of {}"
    deleted, contested = set(deleted_renters), list(disputes)
    dispute_faults, disputed, open_disputes = _prove_disputes(contested, sums.disputed)
    wrong = [
        *sums.wrong,
        *_balance_discrepancies(balances, sums.balances),
        *_deletion_discrepancies(deleted, sums.forfeits, sums.balances),
        *_forfeited_refund_discrepancies(deleted, contested, sums.refunds_forfeited),
        *_funding_discrepancies(set(market_renters), sums.funded),
        *dispute_faults,
        *_reserve_discrepancies(AccountKind.PROVIDER_DISPUTED, in_disputes, sums.balances, disputed),
        *hold_faults,
        *_reserve_discrepancies(AccountKind.RENTER_HELD, in_holds, sums.balances, held),
        *request_faults,
        *_reserve_discrepancies(AccountKind.WITHDRAWAL, in_requests, sums.balances, reserved),
    ]
    return Proof(
        sums.count,
        sum(sums.balances.values()) + sums.elsewhere_micros,
        open_holds,
        sum(held.values()),
        tuple(wrong[:MAX_DISCREPANCIES]),
        open_requests,
        sum(reserved.values()),
        claimable_micros=_total(sums.balances, AccountKind.PROVIDER),
        maturing_micros=_total(sums.balances, AccountKind.PROVIDER_MATURING),
        open_disputes=open_disputes,
        disputed_micros=sum(disputed.values()),
        debt_micros=-_total(sums.balances, AccountKind.PROVIDER_DEBT),
        canaries_micros=-sums.balances[CANARY_BUDGET],
        transfers_read=sums.count,
    )


def _total(balances: Counter[Account], kind: AccountKind) -> int:
    return sum(value for account, value in balances.items() if account.kind is kind)


def _note(wrong: list[str], sentence: str) -> None:
    if len(wrong) < MAX_DISCREPANCIES:
        wrong.append(sentence)


def _prove_holds(holds: Iterable[StoredHold], moved: Counter[str]) -> tuple[list[str], Counter[int], int]:
    """An open hold has its full amount, a resolved hold has none; a hold is open exactly while its job is.

    Returns the discrepancies, the open holds of each renter in micros, and the number of open holds.
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
            held[hold.renter_id] += hold.amount_micros
        if remaining != (hold.amount_micros if is_open else 0):
            rest = text(remaining)
            _note(wrong, f"the hold of {hold.job_id} is {hold.state} and {rest} halala of it remain")
        if is_open == hold.job_is_final:
            _note(wrong, f"the hold of {hold.job_id} is {hold.state} though its job is not")
    for job_id, left in moved.items():
        if left:
            _note(wrong, f"{job_id} moved money without a hold")
    return wrong, held, open_count


def _prove_withdrawals(
    requests: Iterable[Withdrawal], withdrawn: Counter[tuple[int, TransferKind]]
) -> tuple[list[str], Counter[int], int]:
    """Each request reserved its amount once; one that ended was also paid or returned once, by its state.

    Returns the discrepancies, what each provider's open requests reserve, and their number.
    """
    expected: Counter[tuple[int, TransferKind]] = Counter()
    reserved: Counter[int] = Counter()
    open_count = 0
    for request in requests:
        expected[request.id, TransferKind.WITHDRAW] = request.amount_micros
        if request.state in OPEN_WITHDRAWALS:
            open_count += 1
            reserved[request.provider_id] += request.amount_micros
        else:
            expected[request.id, withdrawal_transfer(request).kind] = request.amount_micros
    wrong = [
        f"withdrawal {key[0]} moved {text(withdrawn[key])} halala by {key[1]} "
        f"and should have moved {text(expected[key])}"
        for key in sorted({*expected, *withdrawn})
        if withdrawn[key] != expected[key]
    ]
    return wrong, reserved, open_count


def _prove_disputes(
    disputes: Iterable[Dispute], moved: Counter[tuple[str, TransferKind]]
) -> tuple[list[str], Counter[int], int]:
    """Each dispute moved what its decision says.

    Returns the discrepancies, what each provider's open disputes hold, and the number of open disputes.
    """
    should: Counter[tuple[str, TransferKind]] = Counter()
    held: Counter[int] = Counter()
    open_count = 0
    for dispute in disputes:
        should.update({(dispute.job_id, kind): amount for kind, amount in expected(dispute).items()})
        if dispute.state is DisputeState.OPEN:
            open_count += 1
            held[dispute.provider_id] += dispute.held_micros
    wrong = [
        f"the dispute of {key[0]} moved {text(moved[key])} halala by {key[1]} "
        f"and should have moved {text(should[key])}"
        for key in sorted({*should, *moved})
        if moved[key] != should[key]
    ]
    return wrong, held, open_count


def _forfeited_refund_discrepancies(
    deleted: set[int], disputes: Iterable[Dispute], forfeited: Counter[tuple[str, Account]]
) -> Iterator[str]:
    """Only the whole refund of a deleted renter goes to the platform."""
    refunds = {(each.job_id, renter(each.renter_id)): each.refund_micros for each in disputes}
    for key, amount in sorted(forfeited.items()):
        if key[1].owner_id not in deleted or refunds.get(key) != amount:
            yield f"{text(amount)} halala of {key[0]} were given up, but are no refund of a deleted renter"


def _deletion_discrepancies(
    deleted: set[int], forfeits: list[Account], replayed: Counter[Account]
) -> Iterator[str]:
    """A deleted renter's wallet is empty; only a deleted renter gave up its wallet, and only once."""
    for owner in sorted(deleted):
        if replayed[renter(owner)]:
            yield f"renter {owner} is deleted and its wallet has {text(replayed[renter(owner)])} halala"
    for account, times in sorted(Counter(forfeits).items()):
        if times > 1 or account.kind is not AccountKind.RENTER or account.owner_id not in deleted:
            name = f"{account.kind} {account.owner_id}"
            yield f"{name} was given up {times} times; only a deleted renter's wallet is, once"


def _funding_discrepancies(market: set[int], funded: Counter[Account]) -> Iterator[str]:
    """The market pays for checks only to the wallets of its own renters."""
    for account, amount in sorted(funded.items()):
        if account.kind is not AccountKind.RENTER or account.owner_id not in market:
            name = f"{account.kind} {account.owner_id}"
            yield f"{name} got {text(amount)} halala for checks and is no wallet of a renter of the market"


def _balance_discrepancies(balances: dict[Account, int], replayed: Counter[Account]) -> Iterator[str]:
    for account in sorted({*balances, *replayed}):
        stored = balances.get(account, 0)
        name = f"{account.kind} {account.owner_id}"
        if stored != replayed[account]:
            yield f"{name} is stored as {text(stored)} halala and replays to {text(replayed[account])}"
        if replayed[account] < 0 and account.kind not in MAY_BE_NEGATIVE:
            yield f"{name} is negative: {text(replayed[account])} halala"
        if replayed[account] > 0 and account.kind in NEVER_POSITIVE:
            yield f"{name} is positive: {text(replayed[account])} halala were paid that were not owed"


def _reserve_discrepancies(
    kind: AccountKind, template: str, replayed: Counter[Account], open_by_owner: Counter[int]
) -> Iterator[str]:
    """Each account that reserves money contains exactly the sum of its owner's open holds or requests."""
    owners = {account.owner_id for account in replayed if account.kind is kind} | set(open_by_owner)
    for owner in sorted(owners):
        if replayed[Account(kind, owner)] != open_by_owner[owner]:
            yield template.format(owner, text(replayed[Account(kind, owner)]), text(open_by_owner[owner]))
