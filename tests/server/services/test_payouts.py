"""Payouts mature before they can be withdrawn, in a few transfers beside the path of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from dcp.v1 import providers_pb2, statements_pb2, withdrawals_pb2

from server.domain.ledger import TransferKind
from server.domain.money import micros
from server.domain.payouts import PayoutTerms
from server.services.payouts import Payouts
from server.store.models import Transfer, tuples
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party, refusal

HOUR = 3600.0
IBAN = "SA0380000000608010167519"


@pytest.fixture
async def waiting_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, whose payouts mature for a week."""
    async with running_server.running(database_url, clock, payouts=PayoutTerms()) as market:
        yield market


async def run_job(market: Market, renter: Party, provider: Party, daemon: Daemon) -> None:
    """Twenty minutes of inference for 3000 halala, of which 2250 are the provider's."""
    await daemon.heartbeat()
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=20)
    market.clock.advance(1200)
    await daemon.finished(lease, seconds=1200, last_output_seq=1)
    await daemon.heartbeat()


async def earnings(market: Market, provider: Party) -> providers_pb2.Earnings:
    request = providers_pb2.GetOwnProviderRequest()
    own = await market.provider_service.GetOwnProvider(request, metadata=provider.metadata)
    return own.provider.earnings


async def purse(market: Market, provider: Party) -> tuple[int, int, int]:
    """What can be withdrawn, what matures, and what is held."""
    has = await earnings(market, provider)
    return has.claimable_halala, has.maturing_halala, has.held_halala


async def withdraw(market: Market, provider: Party, halala: int) -> None:
    request = withdrawals_pb2.RequestWithdrawalRequest(amount_halala=halala, iban=IBAN)
    await market.withdrawal_service.RequestWithdrawal(request, metadata=provider.metadata)


async def matured_transfers(market: Market) -> list[int]:
    query = Transfer.select(Transfer.amount_micros).where(Transfer.kind == TransferKind.MATURED.value)
    return await market.sql(lambda: [amount for (amount,) in tuples(query.order_by(Transfer.id))])


async def later(market: Market, hours: float) -> None:
    market.clock.advance(hours * HOUR)
    await market.server.services.payouts.tick()


async def test_payouts_mature_together_and_never_early(waiting_market: Market) -> None:
    market, provider = waiting_market, await waiting_market.provider()
    renter, daemon = await market.renter(20_000), await market.daemon(provider)
    for _ in range(3):
        await run_job(market, renter, provider, daemon)
    assert await purse(market, provider) == (0, 6750, 0)
    has = await earnings(market, provider)
    assert (has.total_halala, has.today_halala, has.maturing_hours) == (6750, 6750, 168)
    found = await refusal(withdraw(market, provider, 1000))
    assert (found.reason, found.facts.balance_halala) == ("EARNINGS_TOO_LOW", 0)
    assert "6750 halala mature" in found.message
    await later(market, 168 - 41 / 60)  # the first is one minute too young
    assert await purse(market, provider) == (0, 6750, 0)
    await later(market, 21 / 60)  # the first two, twenty minutes apart, and one transfer
    for _ in range(2):
        assert await purse(market, provider) == (4500, 2250, 0)
        await later(market, 1 / 60)  # what has matured does not count again for what has not
    await later(market, 1)
    assert await purse(market, provider) == (6750, 0, 0)
    assert await matured_transfers(market) == [micros(4500), micros(2250)]
    await withdraw(market, provider, 5000)
    assert await purse(market, provider) == (1750, 0, 5000)
    request = statements_pb2.GetOwnEarningsRequest(days=30)
    statement = await market.statement_service.GetOwnEarnings(request, metadata=provider.metadata)
    assert (statement.earned_halala, statement.claimable_halala, statement.held_halala) == (6750, 1750, 5000)
    await market.assert_money_adds_up()


async def test_two_servers_mature_a_payout_once(waiting_market: Market) -> None:
    market, provider = waiting_market, await waiting_market.provider()
    await run_job(market, await market.renter(), provider, await market.daemon(provider))
    market.clock.advance(169 * HOUR)
    ticks = (market.server.services.payouts.tick() for _ in range(4))
    await asyncio.gather(*ticks)
    assert await purse(market, provider) == (2250, 0, 0)
    assert await matured_transfers(market) == [micros(2250)]


async def test_each_provider_matures_by_its_own_period(waiting_market: Market) -> None:
    market = waiting_market
    proven, new, barred = [await market.provider() for _ in range(3)]
    renter = await market.renter(20_000)
    for provider in (proven, new, barred):
        await run_job(market, renter, provider, await market.daemon(provider))
    hour_ms = 3_600_000
    periods = {proven.id: 0, new.id: 168 * hour_ms, barred.id: None}
    payouts = Payouts(market.server._database, market.clock, lambda provider_id: periods[provider_id])
    market.clock.advance(60)
    await payouts.tick()
    claimable = [(await purse(market, provider))[0] for provider in (proven, new, barred)]
    assert claimable == [2250, 0, 0]
    market.clock.advance(169 * HOUR)
    await payouts.tick()
    claimable = [(await purse(market, provider))[0] for provider in (proven, new, barred)]
    assert claimable == [2250, 2250, 0]


async def test_market_without_periods_pays_at_once(any_market: Market) -> None:
    market, provider = any_market, await any_market.provider()
    await run_job(market, await market.renter(), provider, await market.daemon(provider))
    assert await purse(market, provider) == (2250, 0, 0)
    assert await matured_transfers(market) == []


async def test_wrong_clock_that_was_corrected_keeps_no_payout(waiting_market: Market) -> None:
    """The time of the next look, which was set while the clock was ahead, is not waited for."""
    market, provider = waiting_market, await waiting_market.provider()
    renter, daemon = await market.renter(20_000), await market.daemon(provider)
    await run_job(market, renter, provider, daemon)
    month = 30 * 24 * HOUR
    await later(market, month / HOUR)
    assert await purse(market, provider) == (2250, 0, 0)
    market.clock.set_back(month)
    await run_job(market, renter, provider, daemon)
    await later(market, 168)
    assert await purse(market, provider) == (4500, 0, 0)


async def test_proof_tells_maturing_from_claimable(waiting_market: Market) -> None:
    market, provider = waiting_market, await waiting_market.provider()
    renter, daemon = await market.renter(20_000), await market.daemon(provider)
    await run_job(market, renter, provider, daemon)
    await later(market, 169)
    await run_job(market, renter, provider, daemon)
    await withdraw(market, provider, 1000)
    proof = await market.server.services.proofs.prove()
    assert proof.is_balanced
    assert (proof.claimable_micros, proof.maturing_micros, proof.open_withdrawals_micros) == (
        micros(1250),
        micros(2250),
        micros(1000),
    )
    figures = await market.server.services.dashboard.figures()
    assert figures.payout_micros == micros(4500)
