"""Webhooks through the whole server, to a real HTTP server: what is sent, how often, and what delays it."""

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
    """A running server on each kind of database, which may send events to private addresses."""
    async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
        yield market


@pytest.fixture
async def market(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on SQLite, which may send events to private addresses."""
    async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
        yield market


async def set_webhook(market: Market, renter: Party, url: str, **fields: Any) -> pb.SetWebhookResponse:
    request = pb.SetWebhookRequest(url=url, **fields)
    return await market.webhook_service.SetWebhook(request, metadata=renter.metadata)


async def send_test(market: Market, renter: Party) -> pb.TestWebhookResponse:
    return await market.webhook_service.TestWebhook(pb.TestWebhookRequest(), metadata=renter.metadata)


async def deliveries(market: Market, renter: Party, **fields: Any) -> pb.ListWebhookDeliveriesResponse:
    request = pb.ListWebhookDeliveriesRequest(**fields)
    return await market.webhook_service.ListWebhookDeliveries(request, metadata=renter.metadata)


async def deliver(market: Market, seconds: float = 0) -> None:
    """Advances the clock, and sends the events that are due by then."""
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
    return [event.headers["dcp-event"] for event in receiver.received]


def assert_signed(event: Received, secret: str) -> None:
    signed = event.headers["dcp-timestamp"].encode() + b"." + event.body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert event.headers["dcp-signature"] == f"v1={expected}"


async def test_completed_job_sends_one_signed_event(any_market: Market) -> None:
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    async with receiving() as receiver:
        secret = (await set_webhook(market, renter, receiver.url)).secret
        job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.")
        market.clock.advance(75)
        await daemon.finished(lease, seconds=75)
        await deliver(market)
        await deliver(market, 60)
        (event,) = receiver.received
        assert_signed(event, secret)
        body = json.loads(event.body)
        assert body["type"] == event.headers["dcp-event"] == "job.completed"
        assert body["id"] == event.headers["dcp-event-id"]
        assert body["data"] == {
            "job_id": job.job_id,
            "job_type": "llm-inference",
            "status": "completed",
            "charged_halala": 188,
            "refunded_halala": 262,
            "failure_reason": None,
        }
        assert (event.headers["dcp-attempt"], event.headers["content-type"]) == ("1", "application/json")
        (delivery,) = (await deliveries(market, renter)).deliveries
        assert (delivery.status, delivery.attempts, delivery.status_code) == (
            pb.DELIVERY_STATUS_DELIVERED,
            1,
            200,
        )
        assert not delivery.HasField("error")


async def test_failed_and_cancelled_jobs_send_events(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)
        await cancelled_job(market, renter)
        await market.submit(renter)
        await market.later(600)  # nobody started it
        await deliver(market)
        assert kinds(receiver) == ["job.cancelled", "job.failed"]
        assert json.loads(receiver.received[1].body)["data"]["failure_reason"] == "START_DEADLINE"


async def test_refused_event_is_sent_again_with_the_same_body_and_its_attempt_number(
    any_market: Market,
) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving(503, 302, 200) as receiver:
        secret = (await set_webhook(market, renter, receiver.url)).secret
        await cancelled_job(market, renter)
        await deliver(market)
        (delivery,) = (await deliveries(market, renter)).deliveries
        assert (delivery.status, delivery.status_code) == (pb.DELIVERY_STATUS_WAITING, 503)
        assert delivery.error == "the host did not answer with a 2xx status"
        await deliver(market, 9)
        assert len(receiver.received) == 1
        await deliver(market, 1)
        await deliver(market, 30)
        first, second, third = receiver.received
        assert first.body == second.body == third.body
        assert [event.headers["dcp-attempt"] for event in receiver.received] == ["1", "2", "3"]
        assert len({event.headers["dcp-event-id"] for event in receiver.received}) == 1
        assert len({event.headers["dcp-timestamp"] for event in receiver.received}) == 3
        for event in receiver.received:
            assert_signed(event, secret)
        assert (await deliveries(market, renter)).deliveries[0].status == pb.DELIVERY_STATUS_DELIVERED


async def test_event_is_given_up_after_two_hours(market: Market) -> None:
    renter = await market.renter()
    async with receiving(500) as receiver:
        await set_webhook(market, renter, receiver.url)
        await cancelled_job(market, renter)
        for _ in range(GIVE_UP_SECONDS // 600 + 1):
            await deliver(market, 600)
        sent = len(receiver.received)
        (delivery,) = (await deliveries(market, renter)).deliveries
        assert (delivery.status, delivery.attempts) == (pb.DELIVERY_STATUS_FAILED, sent)
        await deliver(market, GIVE_UP_SECONDS)
        assert len(receiver.received) == sent > 5


async def test_address_that_failed_is_not_called_for_a_while(any_market: Market) -> None:
    """Neither with events that already wait nor with new events."""
    market = any_market
    renter = await market.renter()
    async with receiving(500) as receiver:
        await set_webhook(market, renter, receiver.url)
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
        event_ids = [event.headers["dcp-event-id"] for event in receiver.received]
        assert (len(event_ids), len(set(event_ids))) == (4, 3)


async def test_address_that_never_answers_delays_no_other_renters_events(any_market: Market) -> None:
    market = any_market
    stuck, other = await market.renter(), await market.renter()
    async with receiving(None) as silent, receiving() as receiver:
        await set_webhook(market, stuck, silent.url)
        await set_webhook(market, other, receiver.url)
        for _ in range(3):
            await cancelled_job(market, stuck)
        await market.server.services.deliveries.tick()
        await silent.until_received(1)
        await cancelled_job(market, other)
        await cancelled_job(market, stuck)
        await market.server.services.deliveries.tick()
        await receiver.until_received(1)
        assert silent.connections == 1  # its other events wait behind the first
        assert [delivery.attempts for delivery in (await deliveries(market, stuck)).deliveries] == [0] * 4
        await market.stop()


async def test_event_of_a_server_that_died_is_sent_by_the_next(database_url: str, clock: ManualClock) -> None:
    """The server dies while it sends an event: its successor sends the event again, with the same body."""
    async with receiving(None, 200) as receiver:
        async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
            renter = await market.renter()
            await set_webhook(market, renter, receiver.url)
            await cancelled_job(market, renter)
            await market.server.services.deliveries.tick()
            await receiver.until_received(1)
        async with running_server.running(database_url, clock, webhooks_allow_private=True) as market:
            await deliver(market)
            assert len(receiver.received) == 1  # the dead server's claim is still valid
            await deliver(market, 60)
        first, second = receiver.received
        assert first.body == second.body


async def test_low_balance_sends_one_event_for_each_fall_below_the_limit(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(1000)
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url, balance_low_halala=600)
        await market.submit(renter)  # holds 450: 550 are left
        await market.submit(renter)  # 100
        await deliver(market)
        await credit(market, renter, 499)  # 599
        assert kinds(receiver) == ["balance.low"]
        data = json.loads(receiver.received[0].body)["data"]
        assert data == {"balance_halala": 550, "balance_low_halala": 600}
        await credit(market, renter, 1)  # 600: no longer low
        await market.submit(renter)
        await deliver(market)
        assert kinds(receiver) == ["balance.low"] * 2


async def test_wallet_that_was_already_low_sends_no_event(market: Market) -> None:
    renter = await market.renter(500)
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url, balance_low_halala=600)
        await market.submit(renter)
        await deliver(market)
        assert receiver.received == []


async def test_secret_is_shown_once_and_can_be_replaced(market: Market) -> None:
    renter = await market.renter()
    async with receiving() as receiver:
        first = await set_webhook(market, renter, receiver.url)
        again = await set_webhook(market, renter, receiver.url + "/2", balance_low_halala=7)
        assert first.secret
        assert not again.HasField("secret")
        shown = await market.webhook_service.GetWebhook(pb.GetWebhookRequest(), metadata=renter.metadata)
        assert (shown.webhook.url, shown.webhook.balance_low_halala) == (receiver.url + "/2", 7)
        assert first.secret not in str(shown)
        await send_test(market, renter)
        await deliver(market)
        assert_signed(receiver.received[0], first.secret)
        rotated = await market.webhook_service.RotateWebhookSecret(
            pb.RotateWebhookSecretRequest(), metadata=renter.metadata
        )
        await send_test(market, renter)
        await deliver(market)
        assert_signed(receiver.received[1], rotated.secret)
        assert rotated.secret != first.secret
        assert first.secret not in str(await deliveries(market, renter))


async def test_test_event_is_sent_and_refused_while_another_waits(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    refused = await refusal(send_test(market, renter))
    assert (refused.reason, refused.facts.status) == ("WRONG_STATE", "none")
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)
        test_event = await send_test(market, renter)
        assert test_event.delivery.status == pb.DELIVERY_STATUS_WAITING
        await deliver(market)
        (event,) = receiver.received
        assert (event.path, event.headers["dcp-event"]) == ("/events", "webhook.test")
        assert event.headers["dcp-event-id"] == test_event.delivery.event_id
        receiver.answers = [500]
        await send_test(market, renter)
        await deliver(market)
        assert (await refusal(send_test(market, renter))).reason == "WRONG_STATE"


async def test_removed_address_gets_nothing_more(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving(500) as receiver:
        await set_webhook(market, renter, receiver.url)
        await cancelled_job(market, renter)
        await deliver(market)
        for _ in range(2):  # the second time there is nothing to remove
            await market.webhook_service.RemoveWebhook(pb.RemoveWebhookRequest(), metadata=renter.metadata)
        await cancelled_job(market, renter)
        await deliver(market, 600)
        assert len(receiver.received) == 1
        (delivery,) = (await deliveries(market, renter)).deliveries
        assert (delivery.status, delivery.error) == (pb.DELIVERY_STATUS_FAILED, "the webhook was removed")
        shown = await market.webhook_service.GetWebhook(pb.GetWebhookRequest(), metadata=renter.metadata)
        assert not shown.HasField("webhook")


async def test_each_renter_receives_and_lists_only_its_own_events(market: Market) -> None:
    renter, other = await market.renter(), await market.renter()
    async with receiving() as receiver, receiving() as foreign:
        await set_webhook(market, renter, receiver.url)
        await set_webhook(market, other, foreign.url)
        await cancelled_job(market, renter)
        await deliver(market)
        assert (len(receiver.received), len(foreign.received)) == (1, 0)
        assert list((await deliveries(market, other)).deliveries) == []


async def test_delivery_log_has_pages_and_a_maximum_length(market: Market) -> None:
    renter = await market.renter()
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)

        def insert_deliveries() -> None:
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

        await market.sql(insert_deliveries)
        newest = await send_test(market, renter)
        await deliver(market)
        kept = await market.sql(lambda: WebhookDelivery.select().count())
        assert kept == webhooks.KEPT_DELIVERIES
        page = await deliveries(market, renter, page_size=2)
        assert [delivery.event_id for delivery in page.deliveries] == [newest.delivery.event_id, "old-1004"]
        rest = await deliveries(market, renter, page_size=1, before_id=page.next_before_id)
        assert rest.deliveries[0].event_id == "old-1003"


async def test_many_events_of_one_renter_all_arrive(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)
        jobs = await asyncio.gather(*(cancelled_job(market, renter) for _ in range(25)))
        for _ in range(3):
            await deliver(market)
        assert sorted(json.loads(event.body)["data"]["job_id"] for event in receiver.received) == sorted(jobs)


async def test_private_address_is_refused_when_it_is_set(sqlite_url: str, clock: ManualClock) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        renter = await market.renter()
        for url in ("https://127.0.0.1/", "http://renter.example/", "https://[::ffff:10.0.0.1]/"):
            refused = await refusal(set_webhook(market, renter, url))
            assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "url")


async def test_private_address_behind_a_name_is_refused_on_connecting(
    sqlite_url: str, clock: ManualClock
) -> None:
    """Also if it was stored while the server allowed private addresses."""
    async with receiving() as receiver:
        async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
            renter = await market.renter()
            await set_webhook(market, renter, f"http://localhost:{receiver.port}/")
        async with running_server.running(sqlite_url, clock) as market:
            await send_test(market, renter)
            await deliver(market)
            (delivery,) = (await deliveries(market, renter)).deliveries
            assert delivery.error == "the host's name resolves to an address that is not public"
        assert receiver.connections == 0
