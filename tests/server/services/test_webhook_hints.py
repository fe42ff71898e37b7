"""Wake-ups of the senders of webhooks: who sends an event at once, and what that costs in messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from scripts.cluster import Nats
from server.bus import BusAddress, Topic
from server.bus.nats import NatsBus
from server.domain.webhooks import Answer
from server.loops import Duty, Loop
from server.outbound import Outbound
from server.rpc.events import body_text
from server.services import deliveries as sending
from server.services.deliveries import Deliveries
from tests.server.services.test_webhooks import cancelled_job, set_webhook
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market
from tests.support.webhook_receiver import receiving


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, which may send events to private addresses."""
    async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
        yield market


class Sender:
    """The sender of one of several servers, with its loop and its place on the bus."""

    def __init__(self, market: Market, nats: Nats, name: str, sent: dict[str, list[str]]) -> None:
        async def post(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            answer = await Outbound(allow_private=True).post(url, headers, body)
            sent.setdefault(url, []).append(name)
            return answer

        database = market.server._database
        self.bus = NatsBus(BusAddress((nats.url,)))
        self.hints: list[frozenset[str]] = []
        self.bus.listen(Topic.OUTBOX, self._hear)
        self.deliveries = Deliveries(database, market.clock, body_text, post, self.bus)
        duty = Duty("send webhooks", self.deliveries.tick)
        self.loop = Loop(3600.0, (duty,), wake=self.deliveries.wake)  # without a hint it looks too late

    def _hear(self, owners: frozenset[str]) -> None:
        if owners:  # not those that say that hints may have been lost
            self.hints.append(owners)

    async def start(self) -> asyncio.Task[None]:
        """Connects and begins to wait."""
        await self.bus.start()
        async with asyncio.timeout(20):
            while not self.bus.is_connected:
                await asyncio.sleep(0.01)
        await self.deliveries.tick()
        return asyncio.create_task(self.loop.run())


@pytest.fixture
async def senders(
    any_market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Sender, Sender, dict[str, list[str]]]]:
    """Two servers' senders on one database, of which the first wrote what is written; each has one turn."""
    monkeypatch.setattr(sending, "MAX_TURNS", 1)
    nats, sent = Nats(tmp_path), dict[str, list[str]]()
    first, second = (Sender(any_market, nats, name, sent) for name in ("first", "second"))
    tasks = [await sender.start() for sender in (first, second)]
    await asyncio.sleep(0.2)  # what they say to each other as they connect
    for sender in (first, second):
        sender.deliveries.wake.clear()
        sender.hints.clear()
    any_market.server._database.announce = lambda changed: first.deliveries.note_due(changed.outboxes)
    yield first, second, sent
    for task in tasks:
        task.cancel()
    for sender in (first, second):
        await sender.deliveries.stop()
        await sender.bus.stop()
    nats.stop()


Senders = tuple[Sender, Sender, dict[str, list[str]]]


async def test_event_is_sent_at_once_by_the_server_that_wrote_it_without_a_message(
    any_market: Market, senders: Senders
) -> None:
    first, second, sent = senders
    renter = await any_market.renter(100_000)
    async with receiving() as receiver:
        await set_webhook(any_market, renter, receiver.url)
        for number in range(1, 4):
            await cancelled_job(any_market, renter)
            await receiver.until_received(number)
        await first.deliveries.settled()
        assert sent == {receiver.url: ["first"] * 3}
    assert (first.hints, second.hints) == ([], [])


async def test_event_that_its_server_cannot_send_now_is_sent_by_another_after_one_message(
    any_market: Market, senders: Senders
) -> None:
    _, second, sent = senders
    stuck, other = await any_market.renter(), await any_market.renter()
    async with receiving(None) as silent, receiving() as receiver:
        await set_webhook(any_market, stuck, silent.url)
        await cancelled_job(any_market, stuck)
        await silent.until_received(1)  # the only turn of the first server waits for an answer
        await set_webhook(any_market, other, receiver.url)
        await cancelled_job(any_market, other)
        await receiver.until_received(1)
        await second.deliveries.settled()
        assert sent == {receiver.url: ["second"]}
        assert second.hints == [frozenset({str(other.id)})]
        silent.hang_up()


async def test_server_that_stops_lets_others_send_what_it_still_writes(
    any_market: Market, senders: Senders
) -> None:
    first, second, sent = senders
    renter = await any_market.renter()
    async with receiving() as receiver:
        await set_webhook(any_market, renter, receiver.url)
        await first.deliveries.stop()
        await cancelled_job(any_market, renter)
        await receiver.until_received(1)
        await second.deliveries.settled()
        assert sent == {receiver.url: ["second"]}


async def test_hint_that_is_lost_costs_only_the_time_until_the_next_look(
    any_market: Market, senders: Senders
) -> None:
    first, second, sent = senders
    renter = await any_market.renter()
    async with receiving() as receiver:
        await set_webhook(any_market, renter, receiver.url)
        await first.deliveries.stop()
        await second.bus.stop()
        await cancelled_job(any_market, renter)
        await asyncio.sleep(0.1)
        assert sent == {}
        await second.loop.tick()
        await receiver.until_received(1)
        await second.deliveries.settled()
        assert sent == {receiver.url: ["second"]}


async def test_outbox_with_more_events_than_a_turn_takes_is_emptied_without_another_look(
    any_market: Market, senders: Senders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_TURNS", 2)
    first, _, sent = senders
    renter = await any_market.renter(100_000)
    async with receiving() as receiver:
        any_market.server._database.announce = lambda changed: None
        await set_webhook(any_market, renter, receiver.url)
        for _ in range(25):
            await cancelled_job(any_market, renter)
        any_market.server._database.announce = lambda changed: first.deliveries.note_due(changed.outboxes)
        first.deliveries.wake.set()
        await receiver.until_received(25)
        await first.deliveries.settled()
        assert sent == {receiver.url: ["first"] * 25}
