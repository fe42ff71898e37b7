"""The dashboard's figures, which are not read from all jobs and transfers but equal what these would give."""

from __future__ import annotations

from typing import Any

import peewee as pw
from dcp.v1 import jobs_pb2, privacy_pb2, withdrawals_pb2

from server.domain.jobs import JobState
from server.domain.ledger import TransferKind
from server.domain.money import micros
from server.domain.statements import DAY_MS
from server.store.models import Job, JobTally, Renter, Transfer, tuples
from server.store.operators import tally
from tests.support.running_server import Daemon, Market, Party

DAY_SECONDS = 24 * 3600
IBAN = "SA0380000000608010167519"


async def charged_job(market: Market, renter: Party, provider: Party, daemon: Daemon) -> None:
    """Twenty minutes of inference for 3000 halala, of which 2250 are the provider's."""
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=20)
    market.clock.advance(1200)
    await daemon.finished(lease, seconds=1200, last_output_seq=1)
    await daemon.heartbeat()


async def withdraw(market: Market, provider: Party, halala: int) -> int:
    request = withdrawals_pb2.RequestWithdrawalRequest(amount_halala=halala, iban=IBAN)
    created = await market.withdrawal_service.RequestWithdrawal(request, metadata=provider.metadata)
    return created.withdrawal.id


async def decide(market: Market, withdrawal_id: int, *, pays: bool) -> None:
    """Pays or rejects a withdrawal."""
    service, metadata = market.withdrawal_service, market.admin_metadata
    process = withdrawals_pb2.ProcessWithdrawalRequest(withdrawal_id=withdrawal_id)
    await service.ProcessWithdrawal(process, metadata=metadata)
    if pays:
        pay = withdrawals_pb2.PayWithdrawalRequest(withdrawal_id=withdrawal_id, reference="BANK-1")
        await service.PayWithdrawal(pay, metadata=metadata)
    else:
        reject = withdrawals_pb2.RejectWithdrawalRequest(withdrawal_id=withdrawal_id, reason="no account")
        await service.RejectWithdrawal(reject, metadata=metadata)


async def test_money_on_the_dashboard_is_the_sum_of_the_transfers(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(1234)
    for withdrawals in ((), (True,), (False,), (True, None)):  # paid, rejected, and still open
        provider = await market.provider()
        daemon = await market.daemon(provider)
        for _ in range(2):
            await charged_job(market, await market.renter(3000), provider, daemon)
        for pays in withdrawals:
            withdrawal_id = await withdraw(market, provider, 2000)
            if pays is not None:
                await decide(market, withdrawal_id, pays=pays)
    email = await market.sql(lambda: str(Renter.get_by_id(renter.id).email))
    request = privacy_pb2.DeleteOwnAccountRequest(email=email, forfeit_balance_halala=1234)
    await market.privacy_service.DeleteOwnAccount(request, metadata=renter.metadata)
    query = Transfer.select(Transfer.kind, pw.fn.SUM(Transfer.amount_micros)).group_by(Transfer.kind)
    sums = await market.sql(lambda: {kind: int(amount) for kind, amount in tuples(query)})
    figures = await market.server.services.dashboard.figures()
    assert figures.payout_micros == sums[TransferKind.PAYOUT] == micros(4 * 2 * 2250)
    assert figures.fee_micros == sums[TransferKind.FEE] == micros(4 * 2 * 750)
    await market.assert_money_adds_up()


async def test_jobs_of_past_days_are_counted_once_and_others_as_they_are(any_market: Market) -> None:
    market, dashboard = any_market, any_market.server.services.dashboard

    async def counts() -> dict[JobState, int]:
        return {
            state: number for state, number in (await dashboard.figures()).jobs_by_state.items() if number
        }

    async def counted() -> list[Any]:
        query = JobTally.select(JobTally.state, JobTally.jobs).order_by(JobTally.day, JobTally.state)
        return await market.sql(lambda: list(tuples(query)))

    renter, provider = await market.renter(), await market.provider()
    await charged_job(market, renter, provider, daemon := await market.daemon(provider))
    await market.cancel(await market.submit(renter), renter)
    await dashboard.tick()
    # Only the day before yesterday is counted: a transaction of yesterday may still be open.
    assert await counted() == [("cancelled", 0), ("completed", 0), ("failed", 0)]
    for _ in range(3):
        market.clock.advance(DAY_SECONDS)
        await market.cancel(await market.submit(renter), renter)
    open_job = await market.submit(renter)
    expected = {JobState.COMPLETED: 1, JobState.CANCELLED: 4, JobState.QUEUED: 1}
    assert await counts() == expected
    for _ in range(2):
        await dashboard.tick()
        assert await counts() == expected
        assert [row for row in await counted() if row[1]] == [
            ("cancelled", 1),
            ("completed", 1),
            ("cancelled", 1),
        ]
    assert (await market.job(open_job)).status == jobs_pb2.JOB_STATE_QUEUED
    assert daemon.held == []
    # What was counted is not read again.
    first_ms = await market.sql(tally.first_uncounted) * DAY_MS
    await market.sql(lambda: Job.update(ended_ms=None).where(Job.ended_ms < first_ms).execute())
    assert await counts() == expected


async def test_days_that_were_counted_while_a_clock_was_wrong_are_counted_again(any_market: Market) -> None:
    """A clock that is years ahead for a moment must not stop the count until then."""
    market, dashboard = any_market, any_market.server.services.dashboard
    renter = await market.renter()

    async def cancelled() -> int:
        return (await dashboard.figures()).jobs_by_state[JobState.CANCELLED]

    await market.cancel(await market.submit(renter), renter)
    market.clock.advance(900 * DAY_SECONDS)
    await dashboard.tick()
    market.clock.set_back(899 * DAY_SECONDS)
    await market.cancel(await market.submit(renter), renter)
    await dashboard.tick()
    assert await cancelled() == 2
    market.clock.advance(3 * DAY_SECONDS)
    await dashboard.tick()
    assert await cancelled() == 2
    assert sum(row.jobs for row in await market.sql(lambda: list(JobTally.select()))) == 2
