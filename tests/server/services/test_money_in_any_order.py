"""Money in any order: payouts, withdrawals, disputes, decisions and deletions, while the clock moves.

The real services act on a real database. After each step the ledger is proven, and each provider's money is
compared with what it earned.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from server.clock import ms
from server.domain import ledger as rules
from server.domain.disputes import DisputeEvent
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobEvent, JobRequest, JobType
from server.domain.ledger import TransferKind
from server.domain.money import micros, whole_halala
from server.domain.payouts import HOUR_MS, PayoutTerms
from server.domain.pricing import per_minute
from server.domain.withdrawals import WithdrawalAction
from server.services.disputes import Disputes
from server.services.endings import settle
from server.services.keys import RENTER, Caller, Credentials
from server.services.operators.audit import Operator
from server.services.payouts import Payouts
from server.services.privacy.deletion import Deletion
from server.services.withdrawals import Withdrawals
from server.store import jobs, ledger, proof
from server.store.database import Database
from server.store.faults import is_retryable
from server.store.models import Account, Dispute, Job, Transfer, Webhook, Withdrawal, tuples
from tests.server.store.rows import Rows
from tests.support import databases
from tests.support.databases import Postgres
from tests.support.manual_clock import ManualClock

OPERATOR = Operator("admin", "request")
RATE, LIMIT_MS = 100, 100 * 60_000
HOLD = micros(10_000)
IBAN = "SA0380000000608010167519"
TERMS = PayoutTerms(proven_hours=24, new_hours=24, dispute_days=3)
# What a step may be refused with, as somebody could ask for it at that time.
REFUSALS = {
    *(Reason.WITHDRAWAL_OPEN, Reason.EARNINGS_TOO_LOW, Reason.WRONG_STATE, Reason.DISPUTE_TOO_LATE),
    *(Reason.RENTER_DELETED, Reason.NOT_CHARGED),
}
Step = tuple[str, tuple[Any, ...]]


@dataclass
class Play:
    """Two renters and two providers."""

    database: Database
    clock: ManualClock
    matures: bool
    renters: list[int] = field(default_factory=list)
    providers: list[int] = field(default_factory=list)
    job_ids: list[tuple[str, int]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    deleted: set[int] = field(default_factory=set)

    async def begin(self) -> None:
        rows = Rows(self.database)
        self.renters = [await rows.renter(1_000_000) for _ in range(2)]
        self.providers = [await rows.provider() for _ in range(2)]
        webhook = {"url": "https://a.example", "secret": "s", "balance_low_halala": 999_999}
        never = {"balance_is_low": False, "claimed_until_ms": 0, "created_ms": 0}
        query = Webhook.insert(renter_id=self.renters[0], **webhook, **never)
        await self.database.run(query.execute)
        period = TERMS.everybody_is_new
        self.payouts = Payouts(self.database, self.clock, period)
        self.disputes = Disputes(self.database, self.clock, TERMS.dispute_days)
        self.withdrawals = Withdrawals(self.database, self.clock)
        self.deletion = Deletion(self.database, self.clock, Credentials(self.database, self.clock, None))

    async def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            await getattr(self, name)(*arguments)
        except DomainError as refused:
            if refused.reason not in REFUSALS:
                raise

    async def settle(self, renter: int, provider: int, minutes: int) -> None:
        """A job that ran for a time: 100 halala a minute."""
        renter_id, provider_id = self.renters[renter], self.providers[provider]
        if renter_id in self.deleted:
            return
        job_id, now_ms = f"job-{next(self.numbers)}", ms(self.clock)

        def work() -> None:
            request = JobRequest(JobType.BENCHMARK, LIMIT_MS)
            held = {"hold_micros": HOLD, "limit_ms": LIMIT_MS}
            jobs.insert(job_id, renter_id, request, price=per_minute(RATE), **held, now_ms=now_ms)
            ledger.open_hold(job_id, renter_id, JobType.BENCHMARK, HOLD, now_ms)
            running = {"state": "running", "provider_id": provider_id, "started_ms": now_ms}
            Job.update(running).where(Job.job_id == job_id).execute()
            job = jobs.get(job_id)
            assert job is not None
            assert settle(job, JobEvent.COMPLETE, now_ms, billed_ms=minutes * 60_000, matures=self.matures)

        await self.database.run(work)
        self.job_ids.append((job_id, renter_id))

    async def advance(self, hours: int) -> None:
        self.clock.advance(hours * 3600)

    async def tick(self) -> None:
        await self.payouts.tick()

    async def withdraw(self, provider: int, halala: int) -> None:
        await self.withdrawals.request(self.providers[provider], micros(halala), IBAN)

    async def end_withdrawal(self, number: int, action: WithdrawalAction) -> None:
        if ids := await self._ids(Withdrawal):
            text = {"reference": "B"} if action is WithdrawalAction.PAY else {"reason": "no"}
            await self.withdrawals.act(OPERATOR, ids[number % len(ids)], action, **text)

    async def dispute(self, number: int) -> None:
        if self.job_ids:
            job_id, renter_id = self.job_ids[number % len(self.job_ids)]
            await self.disputes.open(Caller(RENTER, renter_id), job_id, "filler")

    async def decide(self, number: int, event: DisputeEvent, percent: int) -> None:
        if ids := await self._ids(Dispute):
            dispute_id = ids[number % len(ids)]
            charge = await self.database.read(lambda: int(Dispute.get_by_id(dispute_id).charge_micros))
            refund = max(1, charge * percent // 100) if event is DisputeEvent.UPHOLD else None
            await self.disputes.decide(OPERATOR, dispute_id, event, "seen", refund)

    async def delete(self, renter: int) -> None:
        renter_id = self.renters[renter]
        if renter_id not in self.deleted:
            balance = await self.database.read(lambda: ledger.balance(rules.renter(renter_id)))
            email = f"r{renter_id}@example.com"
            await self.deletion.delete(renter_id, email, whole_halala(balance))
            self.deleted.add(renter_id)

    async def _ids(self, model: Any) -> list[int]:
        return await self.database.read(lambda: [id_ for (id_,) in tuples(model.select(model.id))])

    async def check(self) -> None:
        found = await self.database.read(proof.prove)
        assert found.discrepancies == ()
        assert found.postings_sum_micros == 0
        await self.database.read(self._check_accounts)
        for provider_id in self.providers:
            await self.database.read(partial(self._check_provider, provider_id))

    def _check_accounts(self) -> None:
        for kind, balance in tuples(Account.select(Account.kind, Account.balance_micros)):
            assert balance >= 0 or kind in ("external", "provider_debt"), (kind, balance)
            assert balance <= 0 or kind != "provider_debt"

    def _check_provider(self, provider_id: int) -> None:
        own = {account: ledger.account_id(account) for account in rules.accounts_of(provider_id)}
        ids, moved, old = {*own.values()} - {None}, Counter[str](), 0
        maturing, fresh = own[rules.maturing(provider_id)], 0
        taken = dict(tuples(Dispute.select(Dispute.payout_id, Dispute.maturing_micros)))
        for row_id, kind, debit, credit, amount, at_ms in tuples(
            Transfer.select(
                Transfer.id,
                Transfer.kind,
                Transfer.debit_account_id,
                Transfer.credit_account_id,
                Transfer.amount_micros,
                Transfer.created_ms,
            ).order_by(Transfer.id)
        ):
            is_old = at_ms + 24 * HOUR_MS <= ms(self.clock)
            if debit in ids or credit in ids:
                moved[kind] += amount
                if kind == TransferKind.PAYOUT and is_old:
                    old += amount - taken.get(row_id, 0)
            if kind == TransferKind.DISPUTE_REFUND and debit == maturing:
                fresh = 0  # it took what was there; what comes later is not touched
            elif kind == TransferKind.DISPUTED and debit == maturing:
                fresh -= amount
            elif credit == maturing and not is_old:
                fresh += amount
        money = ledger.of_provider(provider_id)
        has = money.available_micros + money.maturing_micros + money.held_micros
        paid = moved[TransferKind.WITHDRAWAL_PAID]
        earned = moved[TransferKind.PAYOUT] - moved[TransferKind.DISPUTE_REFUND]
        assert has + paid - money.debt_micros == earned
        assert moved[TransferKind.MATURED] <= old, "money matured early"
        assert money.maturing_micros >= fresh, "money matured early in the place of what was refunded"


PARTY, NUMBER = st.integers(0, 1), st.integers(0, 5)
STEPS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "settle": st.tuples(PARTY, PARTY, st.integers(1, 100)),
    "advance": st.tuples(st.sampled_from([1, 11, 24, 30])),
    "tick": st.just(()),
    "withdraw": st.tuples(PARTY, st.sampled_from([1, 75, 1000, 4000])),
    "end_withdrawal": st.tuples(NUMBER, st.sampled_from(WithdrawalAction)),
    "dispute": st.tuples(NUMBER),
    "decide": st.tuples(
        NUMBER, st.sampled_from([DisputeEvent.UPHOLD, DisputeEvent.REJECT]), st.sampled_from([1, 50, 99, 100])
    ),
    "delete": st.tuples(PARTY),
}
# Deletions end the play of a renter, so they are rare.
WEIGHTS = ["settle"] * 4 + ["advance", "tick"] * 4 + ["withdraw", "end_withdrawal", "dispute", "decide"] * 3
NAMES = st.sampled_from([*WEIGHTS, "delete"])
HISTORIES = st.lists(
    NAMES.flatmap(lambda name: st.tuples(st.just(name), STEPS[name])), min_size=20, max_size=50
)


async def play(url: str, matures: bool, act: Callable[[Play], Coroutine[Any, Any, None]]) -> None:
    async with databases.opened(url) as database:
        scene = Play(database, ManualClock(), matures)
        await scene.begin()
        await act(scene)
        await scene.check()
        found = await database.read(proof.replay)
        assert found.discrepancies == ()


@given(history=HISTORIES, matures=st.booleans())
@settings(max_examples=30, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_no_order_loses_or_invents_money(history: list[Step], matures: bool) -> None:
    async def act(scene: Play) -> None:
        for step in history:
            await scene.step(*step)
            await scene.check()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(databases.empty_sqlite(Path(folder)), matures, act))


@pytest.fixture
def circles(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The transactions that PostgreSQL ended because they waited for one another."""
    met = list[Exception]()

    def noted(error: Exception) -> bool:
        if is_circle := is_retryable(error):
            met.append(error)
        return is_circle

    monkeypatch.setattr("server.store.database.is_retryable", noted)
    return met


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_transactions_at_once_loses_or_invents_money(
    postgres: Postgres, circles: list[Exception], seed: int
) -> None:
    """PostgreSQL runs them in parallel; the seed decides only what is started."""
    rng = Random(seed)

    def drawn() -> Step:
        number, party = rng.randrange(20), rng.randrange(2)
        name = rng.choice(WEIGHTS)
        arguments: dict[str, tuple[Any, ...]] = {
            "settle": (party, rng.randrange(2), rng.randint(1, 100)),
            "advance": (rng.choice([1, 11, 24]),),
            "withdraw": (party, rng.choice([1, 70, 1000, 4000])),
            "end_withdrawal": (number, rng.choice([*WithdrawalAction])),
            "dispute": (number,),
            "decide": (
                number,
                rng.choice([DisputeEvent.UPHOLD, DisputeEvent.REJECT]),
                rng.choice([1, 50, 100]),
            ),
        }
        return name, arguments.get(name, ())

    async def act(scene: Play) -> None:
        for _ in range(12):
            await asyncio.gather(*(scene.step(*drawn()) for _ in range(8)))
            await scene.check()

    asyncio.run(play(postgres.empty_database(), True, act))
    assert circles == []
