"""Everything that moves a provider's money, at once: it adds up, nothing waits in a circle, nobody gains.

On PostgreSQL the transactions run in parallel, and it decides how they interleave; the seed decides only
what is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from random import Random

import pytest

from server.domain.disputes import DisputeEvent
from server.domain.errors import DomainError, Reason
from server.domain.leases import FinishReport, LeaseRef, LeaseState, RunOutcome
from server.domain.payouts import HOUR_MS
from server.domain.withdrawals import WithdrawalAction
from server.services.disputes import Disputes
from server.services.endings import record_finish
from server.services.keys import RENTER, Caller
from server.services.operators.audit import Operator
from server.services.payouts import Payouts
from server.services.withdrawals import Withdrawals
from server.store import disputes, ledger, proof, withdrawals
from server.store.database import Database
from server.store.faults import is_retryable
from tests.server.store.rows import Rows
from tests.support.databases import execute
from tests.support.manual_clock import ManualClock

ROUNDS = 4
JOBS = 8
IBAN = "SA0380000000608010167519"
OPERATOR = Operator("o", "r")
DECISIONS = (DisputeEvent.UPHOLD, DisputeEvent.REJECT)
ACTIONS = (WithdrawalAction.PROCESS, WithdrawalAction.PAY, WithdrawalAction.REJECT)
# What an act may meet when another was faster.
LOST_RACES = {Reason.WRONG_STATE, Reason.WITHDRAWAL_OPEN, Reason.EARNINGS_TOO_LOW}


class Scene:
    """Two renters, two providers, and the use cases of their money."""

    def __init__(self, database: Database, clock: ManualClock, rng: Random) -> None:
        self._database, self._rows, self._clock, self._rng = database, Rows(database), clock, rng
        self._payouts = Payouts(database, clock, lambda _: HOUR_MS)
        self._disputes = Disputes(database, clock, 30)
        self._withdrawals = Withdrawals(database, clock)
        self._ended: list[tuple[int, str]] = []

    async def begin(self) -> None:
        self._renters = [await self._rows.renter(100_000) for _ in range(2)]
        self.providers = [await self._rows.provider() for _ in range(2)]
        webhook = (
            "INSERT INTO webhook (renter_id, url, secret, balance_low_halala, balance_is_low,"
            " claimed_until_ms, created_ms)"
            f" VALUES ({self._renters[0]}, 'https://a.example', 's', 99999, FALSE, 0, 0)"
        )
        await self._database.run(partial(execute, self._database, webhook))

    async def acts(self) -> list[Awaitable[object]]:
        """What happens in one round: jobs end, those of the last round are disputed, operators decide."""
        acts: list[Awaitable[object]] = [
            self._open(*ended) for ended in self._ended if self._rng.random() < 0.7
        ]
        self._ended.clear()
        for renter in self._renters * (JOBS // 2):
            provider, job_id = self._rng.choice(self.providers), await self._rows.held_job(renter)
            lease = await self._rows.leased(provider, job_id, LeaseState.RUNNING)
            acts.append(self._finish(lease, provider))
            self._ended.append((renter, job_id))
        acts += await self.decisions()
        acts += [
            self._withdrawals.request(provider, self._rng.randint(1, 150), IBAN)
            for provider in self.providers * 2
        ]
        self._rng.shuffle(acts)
        return acts

    async def decisions(self) -> list[Awaitable[object]]:
        """Operators decide all that is open, twice and differently, while the duty runs."""
        acts: list[Awaitable[object]] = [self._payouts.tick() for _ in range(2)]
        for dispute in await self._database.read(lambda: disputes.in_state(None, None, 100)):
            for _ in range(2):
                event = self._rng.choice(DECISIONS)
                refund = self._rng.choice([None, 1, 50]) if event is DisputeEvent.UPHOLD else None
                acts.append(self._disputes.decide(OPERATOR, dispute.id, event, "n", refund))
        for request in await self._database.read(lambda: list(withdrawals.all_requests())):
            acts += [
                self._withdrawals.act(OPERATOR, request.id, action, reference="b", reason="n")
                for action in ACTIONS
            ]
        return acts

    async def _open(self, renter: int, job_id: str) -> None:
        await self._disputes.open(Caller(RENTER, renter), job_id, "why")

    async def _finish(self, lease: LeaseRef, provider: int) -> None:
        report = FinishReport(lease, RunOutcome.SUCCEEDED, 60_000, 0)
        now_ms = int(self._clock.now() * 1000) + 60_000
        await self._database.run(lambda: record_finish(report, provider, now_ms))


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


async def at_once(acts: Sequence[Awaitable[object]]) -> None:
    for error in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(error, BaseException):
            assert isinstance(error, DomainError), error
            assert error.reason in LOST_RACES, error


@pytest.mark.parametrize("seed", range(2))
async def test_money_adds_up_when_everything_that_moves_it_happens_at_once(
    database: Database, clock: ManualClock, circles: list[Exception], seed: int
) -> None:
    scene = Scene(database, clock, Random(seed))
    await scene.begin()
    for _ in range(ROUNDS):
        await at_once(await scene.acts())
        found = await database.read(proof.prove), await database.read(proof.replay)
        assert [each.discrepancies for each in found] == [(), ()]
        clock.advance(1800)
    await at_once(await scene.decisions())
    clock.advance(7200)
    await at_once(await scene.decisions())
    for provider in scene.providers:
        money = await database.read(partial(ledger.of_provider, provider))
        assert (money.maturing_halala, money.held_halala, money.repayable_halala) == (0, 0, 0)
    assert (await database.read(proof.replay)).discrepancies == ()
    assert circles == []
