"""The ledger's rules: every valid history is proven clean, and every tampering is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import ledger
from server.domain.jobs import JobType
from server.domain.ledger import (
    EXTERNAL,
    Account,
    AccountKind,
    HoldState,
    Transfer,
    TransferKind,
    make_bill,
    settlement,
)
from server.domain.money import micros
from server.domain.proof import Proof, StoredHold, Sums, prove
from server.domain.withdrawals import OPEN, Withdrawal, WithdrawalAction, WithdrawalState, next_state


@dataclass
class Book:
    """A ledger in memory that obeys the rules."""

    balances: Counter[Account] = field(default_factory=Counter)
    transfers: list[Transfer] = field(default_factory=list)
    holds: dict[str, StoredHold] = field(default_factory=dict)
    withdrawals: dict[int, Withdrawal] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)

    def apply(self, transfer: Transfer) -> None:
        self.balances[transfer.debit] -= transfer.amount_micros
        self.balances[transfer.credit] += transfer.amount_micros
        self.transfers.append(transfer)

    def credit(self, renter_id: int, amount: int) -> None:
        if renter_id in self.deleted:
            return
        self.apply(Transfer(TransferKind.CREDIT, EXTERNAL, ledger.renter(renter_id), amount))

    def hold(self, renter_id: int, amount: int) -> None:
        if self.balances[ledger.renter(renter_id)] < amount:
            return
        job_id = f"job-{len(self.holds)}"
        self.apply(ledger.hold_transfer(renter_id, amount, job_id))
        self.holds[job_id] = StoredHold(job_id, renter_id, amount, HoldState.OPEN, False)

    def settle(self, number: int, provider_id: int, rate: int, billed_ms: int) -> None:
        waiting = [hold for hold in self.holds.values() if hold.state is HoldState.OPEN]
        if not waiting:
            return
        hold = waiting[number % len(waiting)]
        bill = make_bill(hold.amount_micros, rate, billed_ms)
        parties = (hold.renter_id, provider_id, hold.job_id, JobType.BENCHMARK)
        for transfer in settlement(bill, *parties, matures=False):
            self.apply(transfer)
        state = HoldState.POSTED if bill.charge_micros else HoldState.VOIDED
        self.holds[hold.job_id] = replace(hold, state=state, job_is_final=True)

    def withdraw(self, provider_id: int, amount: int) -> None:
        if self.balances[ledger.provider(provider_id)] < amount:
            return
        number = len(self.withdrawals)
        self._move(Withdrawal(number, provider_id, amount, WithdrawalState.PENDING, "SA1234", 0))

    def end_withdrawal(self, number: int, actions: list[WithdrawalAction]) -> None:
        if not self.withdrawals:
            return
        request = self.withdrawals[number % len(self.withdrawals)]
        for action in actions:
            state = next_state(request.state, action)
            if state is not None:
                request = replace(request, state=state)
                self._move(request)

    def _move(self, request: Withdrawal) -> None:
        self.withdrawals[request.id] = request
        if request.state is not WithdrawalState.PROCESSING:
            self.apply(ledger.withdrawal_transfer(request))

    def delete(self, renter_id: int) -> None:
        """As the service does: no hold is open, and the balance is forfeited."""
        rest = self.balances[ledger.renter(renter_id)]
        if renter_id in self.deleted or self.balances[ledger.held(renter_id)]:
            return
        if rest:
            self.apply(ledger.forfeit_transfer(renter_id, rest))
        self.deleted.add(renter_id)

    def proof(self) -> Proof:
        sums = Sums()
        for transfer in self.transfers:
            sums.add(transfer)
        return prove(
            sums,
            dict(self.balances),
            self.holds.values(),
            self.withdrawals.values(),
            self.deleted,
        )


PARTIES = st.integers(1, 3)
CREDITS = st.tuples(st.just(Book.credit), PARTIES, st.integers(1, 10_000))
HOLDS = st.tuples(st.just(Book.hold), PARTIES, st.integers(1, 3_000))
SETTLEMENTS = st.tuples(
    st.just(Book.settle), st.integers(0, 9), PARTIES, st.integers(1, 300), st.integers(0, 600_000)
)
WITHDRAWALS = st.tuples(st.just(Book.withdraw), PARTIES, st.integers(1, 500))
WITHDRAWAL_ENDS = st.tuples(
    st.just(Book.end_withdrawal), st.integers(0, 9), st.lists(st.sampled_from(WithdrawalAction), max_size=4)
)
DELETIONS = st.tuples(st.just(Book.delete), PARTIES)


@given(st.lists(CREDITS | HOLDS | SETTLEMENTS | WITHDRAWALS | WITHDRAWAL_ENDS | DELETIONS, max_size=60))
def test_any_valid_history_is_proven_clean(history: list[tuple[Callable[..., None], int]]) -> None:
    book = Book()
    for step, *arguments in history:
        step(book, *arguments)
    proof = book.proof()
    open_holds = [hold for hold in book.holds.values() if hold.state is HoldState.OPEN]
    assert proof.discrepancies == ()
    assert proof.postings_sum_micros == 0
    assert proof.transfers == len(book.transfers)
    assert (proof.open_holds, proof.open_holds_micros) == (
        len(open_holds),
        sum(hold.amount_micros for hold in open_holds),
    )
    open_withdrawals = [withdrawal for withdrawal in book.withdrawals.values() if withdrawal.state in OPEN]
    assert (proof.open_withdrawals, proof.open_withdrawals_micros) == (
        len(open_withdrawals),
        sum(withdrawal.amount_micros for withdrawal in open_withdrawals),
    )


def sample() -> Book:
    """A posted, a voided and an open hold; a paid, a rejected and an open withdrawal; a deletion."""
    book = Book()
    book.credit(3, 42)
    book.delete(3)
    book.credit(1, 1000)
    for amount in (450, 100, 200):
        book.hold(1, amount)
    book.settle(0, 7, 150, 75_000)
    book.settle(0, 7, 150, 0)
    for amount in (10, 20, 30):
        book.withdraw(7, amount)
    book.end_withdrawal(0, [WithdrawalAction.PROCESS, WithdrawalAction.PAY])
    book.end_withdrawal(1, [WithdrawalAction.REJECT])
    return book


def set_balance(account: Account, change: int) -> Callable[[Book], None]:
    def tamper(book: Book) -> None:
        book.balances[account] += change

    return tamper


def set_hold(job_id: str, **changes: object) -> Callable[[Book], None]:
    def tamper(book: Book) -> None:
        book.holds[job_id] = replace(book.holds[job_id], **changes)  # type: ignore[arg-type]

    return tamper


def set_withdrawal(number: int, **changes: object) -> Callable[[Book], None]:
    def tamper(book: Book) -> None:
        book.withdrawals[number] = replace(book.withdrawals[number], **changes)  # type: ignore[arg-type]

    return tamper


def change_amount(index: int, change: int) -> Callable[[Book], None]:
    def tamper(book: Book) -> None:
        old = book.transfers[index]
        book.transfers[index] = replace(old, amount_micros=old.amount_micros + change)

    return tamper


def forfeit_again(book: Book) -> None:
    book.apply(Transfer(TransferKind.CREDIT, EXTERNAL, ledger.renter(3), 5))
    book.apply(ledger.forfeit_transfer(3, 5))


TAMPERINGS: dict[str, Callable[[Book], None]] = {
    "wallet up": set_balance(ledger.renter(1), 1),
    "wallet down": set_balance(ledger.renter(1), -1),
    "held up": set_balance(ledger.held(1), 1),
    "earnings up": set_balance(ledger.provider(7), 1),
    "platform up": set_balance(ledger.PLATFORM, 1),
    "balance of nobody": set_balance(ledger.provider(99), 5),
    "credit larger": change_amount(2, 1),
    "hold larger": change_amount(3, 1),
    "last transfer smaller": change_amount(-1, -1),
    "transfer of nothing": change_amount(2, -1000),
    "transfer gone": lambda book: book.transfers.__delitem__(-1),
    "transfer twice": lambda book: book.transfers.append(book.transfers[-1]),
    "open hold larger": set_hold("job-2", amount_micros=201),
    "open hold of another renter": set_hold("job-2", renter_id=2),
    "open hold called posted": set_hold("job-2", state=HoldState.POSTED),
    "posted hold called open": set_hold("job-0", state=HoldState.OPEN),
    "job ended but hold open": set_hold("job-2", job_is_final=True),
    "job open but hold resolved": set_hold("job-0", job_is_final=False),
    "reserved up": set_balance(ledger.reserved(7), 1),
    "open withdrawal larger": set_withdrawal(2, amount_micros=31),
    "open withdrawal of another provider": set_withdrawal(2, provider_id=8),
    "open withdrawal called paid": set_withdrawal(2, state=WithdrawalState.PAID),
    "paid withdrawal called open": set_withdrawal(0, state=WithdrawalState.PROCESSING),
    "paid withdrawal called rejected": set_withdrawal(0, state=WithdrawalState.REJECTED),
    "withdrawal gone": lambda book: book.withdrawals.__delitem__(2),
    "deleted renter not deleted": lambda book: book.deleted.remove(3),
    "renter with money deleted": lambda book: book.deleted.add(1),
    "credit to a deleted wallet": lambda book: book.apply(
        Transfer(TransferKind.CREDIT, EXTERNAL, ledger.renter(3), 5)
    ),
    "wallet given up twice": forfeit_again,
    "forfeit of a provider": lambda book: book.apply(
        Transfer(TransferKind.FORFEIT, ledger.provider(7), ledger.PLATFORM, 1)
    ),
    "hold gone": lambda book: book.holds.__delitem__("job-2"),
}


def test_sample_is_clean() -> None:
    assert sample().proof().discrepancies == ()


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found(tampering: str) -> None:
    book = sample()
    TAMPERINGS[tampering](book)
    assert book.proof().discrepancies


def test_amounts_swapped_between_two_holds_are_found() -> None:
    """The renter's sum still agrees, so only the replay of each hold finds it."""
    book = Book()
    book.credit(1, micros(1000))
    book.hold(1, micros(100))
    book.hold(1, micros(200))
    set_hold("job-0", amount_micros=micros(200))(book)
    set_hold("job-1", amount_micros=micros(100))(book)
    assert book.proof().discrepancies == (
        "the hold of job-0 is open and 100 halala of it remain",
        "the hold of job-1 is open and 200 halala of it remain",
    )


def test_negative_balance_is_found_even_if_the_stored_balance_agrees() -> None:
    book = Book()
    book.apply(Transfer(TransferKind.CREDIT, ledger.provider(1), ledger.renter(1), 5))
    assert any("negative" in sentence for sentence in book.proof().discrepancies)


def test_only_the_external_account_may_be_negative() -> None:
    book = Book()
    book.credit(1, 5)
    assert book.balances[Account(AccountKind.EXTERNAL)] == -5
    assert book.proof().discrepancies == ()


def test_charge_without_a_provider_is_refused() -> None:
    with pytest.raises(ValueError, match="without a provider"):
        settlement(make_bill(450, 150, 1000), 1, None, "job-1", JobType.BENCHMARK, matures=True)


@given(st.integers(1, 10**9), st.integers(1, 10_000), st.integers(0, 10**9))
def test_settlement_empties_the_hold_exactly(hold: int, rate: int, billed_ms: int) -> None:
    transfers = settlement(make_bill(hold, rate, billed_ms), 1, 7, "job-1", JobType.BENCHMARK, matures=True)
    assert sum(transfer.amount_micros for transfer in transfers) == hold
    assert {transfer.debit for transfer in transfers} == {ledger.held(1)}
    assert all(transfer.amount_micros > 0 for transfer in transfers)
