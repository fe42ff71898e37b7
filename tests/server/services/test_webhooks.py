"""Webhooks through the whole server, to a real HTTP server: what is sent, how often, and what it holds up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dcp.v1 import ledger_pb2
from dcp.v1 import webhooks_pb2 as pb

from server.domain.webhooks import GIVE_UP_SECONDS
from server.store import webhooks
from server.store.models import WebhookDelivery
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, refusal
from tests.support.webhook_receiver import Received, Receiver, receiving


@pytest.fixture
async def any_market(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, which may send to this machine."""
    async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
        yield market


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """The same on SQLite."""
    async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
        yield market


async def put(market: Market, renter: Party, url: str, **fields: Any) -> pb.SetWebhookResponse:
    request = pb.SetWebhookRequest(url=url, **fields)
    return await market.webhook_service.SetWebhook(request, metadata=renter.metadata)


async def send_test(market: Market, renter: Party) -> pb.TestWebhookResponse:
    return await market.webhook_service.TestWebhook(pb.TestWebhookRequest(), metadata=renter.metadata)


async def deliveries(market: Market, renter: Party, **fields: Any) -> pb.ListWebhookDeliveriesResponse:
    request = pb.ListWebhookDeliveriesRequest(**fields)
    return await market.webhook_service.ListWebhookDeliveries(request, metadata=renter.metadata)


async def deliver(market: Market, seconds: float = 0) -> None:
    """Lets time pass, and sends what is due by then."""
    market.clock.advance(seconds)
    await market.server.services.deliveries.tick()
    await market.server.services.deliveries.settled()


async def cancelled_job(market: Market, renter: Party) -> str:
    """A job that ends at once; returns its id."""
    job = await market.submit(renter)
    await market.cancel(job, renter)
    return job.job_id


async def credit(market: Market, renter: Party, halala: int) -> None:
    request = ledger_pb2.CreditRenterRequest(renter_id=renter.id, amount_halala=halala)
    await market.ledger_service.CreditRenter(request, metadata=market.admin_metadata)


def kinds(receiver: Receiver) -> list[str]:
    return [one.headers["dcp-event"] for one in receiver.received]


def assert_signed(one: Received, secret: str) -> None:
    signed = one.headers["dcp-timestamp"].encode() + b"." + one.body
    wanted = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert one.headers["dcp-signature"] == f"v1={wanted}"


async def test_completed_job_is_told_once_and_signed(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    async with receiving() as receiver:
        secret = (await put(market, renter, receiver.url)).secret
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
        market.clock.advance(75)
        await daemon.finished(lease, seconds=75)
        await deliver(market)
        await deliver(market, 60)
        (one,) = receiver.received
        assert_signed(one, secret)
        told = json.loads(one.body)
        assert told["type"] == one.headers["dcp-event"] == "job.completed"
        assert told["id"] == one.headers["dcp-event-id"]
        assert told["data"] == {
            "job_id": job.job_id,
            "job_type": "llm-inference",
            "status": "completed",
            "charged_halala": 188,
            "refunded_halala": 262,
            "failure_reason": None,
        }
        assert (one.headers["dcp-attempt"], one.headers["content-type"]) == ("1", "application/json")
        (noted,) = (await deliveries(market, renter)).deliveries
        assert (noted.status, noted.attempts, noted.status_code) == (pb.DELIVERY_STATUS_DELIVERED, 1, 200)
        assert not noted.HasField("error")


async def test_failed_and_cancelled_jobs_are_told(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving() as receiver:
        await put(market, renter, receiver.url)
        await cancelled_job(market, renter)
        await market.submit(renter)
        await market.later(600)  # nobody started it
        await deliver(market)
        assert kinds(receiver) == ["job.cancelled", "job.failed"]
        assert json.loads(receiver.received[1].body)["data"]["failure_reason"] == "START_DEADLINE"


async def test_refused_event_comes_again_the_same_and_counted(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving(503, 302, 200) as receiver:
        secret = (await put(market, renter, receiver.url)).secret
        await cancelled_job(market, renter)
        await deliver(market)
        (noted,) = (await deliveries(market, renter)).deliveries
        assert (noted.status, noted.status_code) == (pb.DELIVERY_STATUS_WAITING, 503)
        assert noted.error == "the host did not answer with a 2xx status"
        await deliver(market, 9)
        assert len(receiver.received) == 1
        await deliver(market, 1)
        await deliver(market, 30)
        first, second, third = receiver.received
        assert first.body == second.body == third.body
        assert [one.headers["dcp-attempt"] for one in receiver.received] == ["1", "2", "3"]
        assert len({one.headers["dcp-event-id"] for one in receiver.received}) == 1
        assert len({one.headers["dcp-timestamp"] for one in receiver.received}) == 3
        for one in receiver.received:
            assert_signed(one, secret)
        assert (await deliveries(market, renter)).deliveries[0].status == pb.DELIVERY_STATUS_DELIVERED


async def test_event_is_given_up_after_two_hours(market: Market) -> None:
    renter = await market.renter()
    async with receiving(500) as receiver:
        await put(market, renter, receiver.url)
        await cancelled_job(market, renter)
        for _ in range(GIVE_UP_SECONDS // 600 + 1):
            await deliver(market, 600)
        sent = len(receiver.received)
        (noted,) = (await deliveries(market, renter)).deliveries
        assert (noted.status, noted.attempts) == (pb.DELIVERY_STATUS_FAILED, sent)
        await deliver(market, GIVE_UP_SECONDS)
        assert len(receiver.received) == sent > 5


async def test_address_that_failed_is_left_alone_for_a_while(any_market: Market) -> None:
    """Whatever waits for it already, and whatever comes."""
    market = any_market
    renter = await market.renter()
    async with receiving(500) as receiver:
        await put(market, renter, receiver.url)
        for _ in range(2):
            await cancelled_job(market, renter)
        await deliver(market)
        await deliver(market)
        await cancelled_job(market, renter)
        await deliver(market, 9)
        assert len(receiver.received) == 1
        receiver.answers = [200]
        await deliver(market, 1)
        await deliver(market)
        told = [one.headers["dcp-event-id"] for one in receiver.received]
        assert (len(told), len(set(told))) == (4, 3)


async def test_address_that_never_answers_holds_nothing_up(any_market: Market) -> None:
    market = any_market
    stuck, lucky = await market.renter(), await market.renter()
    async with receiving(None) as silent, receiving() as receiver:
        await put(market, stuck, silent.url)
        await put(market, lucky, receiver.url)
        for _ in range(3):
            await cancelled_job(market, stuck)
        await market.server.services.deliveries.tick()
        await silent.until_received(1)
        await cancelled_job(market, lucky)
        await cancelled_job(market, stuck)
        await market.server.services.deliveries.tick()
        await receiver.until_received(1)
        assert silent.connections == 1  # its other events wait behind the first
        assert [one.attempts for one in (await deliveries(market, stuck)).deliveries] == [0] * 4
        await market.stop()


async def test_events_outlive_the_server(database_url: str, clock: ManualClock) -> None:
    """It dies while an event is on its way: the next one sends it, under the same id."""
    async with receiving(None, 200) as receiver:
        async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
            renter = await market.renter()
            await put(market, renter, receiver.url)
            await cancelled_job(market, renter)
            await market.server.services.deliveries.tick()
            await receiver.until_received(1)
        async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
            await deliver(market)
            assert len(receiver.received) == 1  # the claim of the one that died still stands
            await deliver(market, 60)
        first, second = receiver.received
        assert first.body == second.body


async def test_low_balance_is_told_once_for_each_fall(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(1000)
    async with receiving() as receiver:
        await put(market, renter, receiver.url, balance_low_halala=600)
        await market.submit(renter)  # holds 450: 550 are left
        await market.submit(renter)  # 100
        await deliver(market)
        await credit(market, renter, 499)  # 599
        assert kinds(receiver) == ["balance.low"]
        told = json.loads(receiver.received[0].body)["data"]
        assert told == {"balance_halala": 550, "balance_low_halala": 600}
        await credit(market, renter, 1)  # 600: filled
        await market.submit(renter)
        await deliver(market)
        assert kinds(receiver) == ["balance.low"] * 2


async def test_wallet_that_is_low_already_fell_before(market: Market) -> None:
    renter = await market.renter(500)
    async with receiving() as receiver:
        await put(market, renter, receiver.url, balance_low_halala=600)
        await market.submit(renter)
        await deliver(market)
        assert receiver.received == []


async def test_secret_is_shown_once_and_can_be_replaced(market: Market) -> None:
    renter = await market.renter()
    async with receiving() as receiver:
        first = await put(market, renter, receiver.url)
        again = await put(market, renter, receiver.url + "/2", balance_low_halala=7)
        assert first.secret
        assert not again.HasField("secret")
        seen = await market.webhook_service.GetWebhook(pb.GetWebhookRequest(), metadata=renter.metadata)
        assert (seen.webhook.url, seen.webhook.balance_low_halala) == (receiver.url + "/2", 7)
        assert first.secret not in str(seen)
        await send_test(market, renter)
        await deliver(market)
        assert_signed(receiver.received[0], first.secret)
        made = await market.webhook_service.RotateWebhookSecret(
            pb.RotateWebhookSecretRequest(), metadata=renter.metadata
        )
        await send_test(market, renter)
        await deliver(market)
        assert_signed(receiver.received[1], made.secret)
        assert made.secret != first.secret
        assert first.secret not in str(await deliveries(market, renter))


async def test_test_event_is_sent_and_one_waits_at_a_time(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    refused = await refusal(send_test(market, renter))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "none")
    async with receiving() as receiver:
        await put(market, renter, receiver.url)
        made = await send_test(market, renter)
        assert made.delivery.status == pb.DELIVERY_STATUS_WAITING
        await deliver(market)
        (one,) = receiver.received
        assert (one.path, one.headers["dcp-event"]) == ("/events", "webhook.test")
        assert one.headers["dcp-event-id"] == made.delivery.event_id
        receiver.answers = [500]
        await send_test(market, renter)
        await deliver(market)
        assert (await refusal(send_test(market, renter))).reason == "WRONG_STATE"


async def test_removed_address_gets_nothing_more(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving(500) as receiver:
        await put(market, renter, receiver.url)
        await cancelled_job(market, renter)
        await deliver(market)
        for _ in range(2):  # the second time there is nothing to remove
            await market.webhook_service.RemoveWebhook(pb.RemoveWebhookRequest(), metadata=renter.metadata)
        await cancelled_job(market, renter)
        await deliver(market, 600)
        assert len(receiver.received) == 1
        (noted,) = (await deliveries(market, renter)).deliveries
        assert (noted.status, noted.error) == (pb.DELIVERY_STATUS_FAILED, "the webhook was removed")
        seen = await market.webhook_service.GetWebhook(pb.GetWebhookRequest(), metadata=renter.metadata)
        assert not seen.HasField("webhook")


async def test_each_renter_hears_and_sees_its_own_alone(market: Market) -> None:
    one, other = await market.renter(), await market.renter()
    async with receiving() as receiver, receiving() as foreign:
        await put(market, one, receiver.url)
        await put(market, other, foreign.url)
        await cancelled_job(market, one)
        await deliver(market)
        assert (len(receiver.received), len(foreign.received)) == (1, 0)
        assert list((await deliveries(market, other)).deliveries) == []


async def test_log_has_pages_and_keeps_a_bounded_number(market: Market) -> None:
    renter = await market.renter()
    async with receiving() as receiver:
        await put(market, renter, receiver.url)

        def many() -> None:
            for number in range(webhooks.KEPT_DELIVERIES + 5):
                WebhookDelivery.insert(
                    renter_id=renter.id,
                    event_id=f"old-{number}",
                    event="webhook.test",
                    body="{}",
                    status="delivered",
                    created_ms=1,
                    next_ms=1,
                ).execute()

        await market.sql(many)
        made = await send_test(market, renter)
        await deliver(market)
        kept = await market.sql(lambda: WebhookDelivery.select().count())
        assert kept == webhooks.KEPT_DELIVERIES
        page = await deliveries(market, renter, page_size=2)
        assert [one.event_id for one in page.deliveries] == [made.delivery.event_id, "old-1004"]
        rest = await deliveries(market, renter, page_size=1, before_id=page.next_before_id)
        assert rest.deliveries[0].event_id == "old-1003"


async def test_many_events_of_one_renter_all_arrive(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    async with receiving() as receiver:
        await put(market, renter, receiver.url)
        jobs = await asyncio.gather(*(cancelled_job(market, renter) for _ in range(25)))
        for _ in range(3):
            await deliver(market)
        assert sorted(json.loads(one.body)["data"]["job_id"] for one in receiver.received) == sorted(jobs)


async def test_private_address_is_refused_when_it_is_set(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        renter = await market.renter()
        for url in ("https://127.0.0.1/", "http://renter.example/", "https://[::ffff:10.0.0.1]/"):
            refused = await refusal(put(market, renter, url))
            assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "url")


async def test_private_address_behind_a_name_is_refused_when_it_is_connected_to(
    sqlite_url: str, clock: ManualClock
) -> None:
    """What the setting let in before is not let in any more either."""
    async with receiving() as receiver:
        async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
            renter = await market.renter()
            await put(market, renter, f"http://localhost:{receiver.port}/")
        async with running_server.running(sqlite_url, clock) as market:
            await send_test(market, renter)
            await deliver(market)
            (noted,) = (await deliveries(market, renter)).deliveries
            assert noted.error == "the host's name resolves to an address that is not public"
        assert receiver.connections == 0
