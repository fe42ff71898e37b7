"""Webhooks through the whole server, to a real HTTP server: what is sent, how often, and what delays it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from dcp.v1 import keys_pb2, ledger_pb2, options_pb2
from dcp.v1 import webhooks_pb2 as pb
from jsonschema import Draft202012Validator, FormatChecker
from standardwebhooks import Webhook as StandardWebhook

from gateway.openapi import document
from gateway.routes import discover
from server.bus.local import LocalBus
from server.domain.webhooks import GIVE_UP_SECONDS, MAX_SECRETS, Answer
from server.rpc.events import body_text
from server.services.deliveries import Deliveries
from server.store import webhooks
from server.store.models import WebhookDelivery
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, refusal
from tests.support.webhook_receiver import Received, Receiver, receiving

DOCUMENT = document(discover())
CLOSED = {
    "schemas": {
        name: schema | ({"additionalProperties": False} if schema["type"] == "object" else {})
        for name, schema in DOCUMENT["components"]["schemas"].items()
    }
}
"""The document's schemas, which here allow no other names."""


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


async def rotate(market: Market, renter: Party, **fields: Any) -> pb.RotateWebhookSecretResponse:
    request = pb.RotateWebhookSecretRequest(**fields)
    return await market.webhook_service.RotateWebhookSecret(request, metadata=renter.metadata)


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


def iso(clock: ManualClock, seconds: float = 0) -> str:
    at = datetime.fromtimestamp(clock.now() + seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def assert_described(event: Received) -> None:
    """The request is as `webhooks` of /openapi.json says: its headers, its body, and every name in it."""
    operation = DOCUMENT["webhooks"][event.headers["dcp-event"]]["post"]
    named = {parameter["name"].lower(): parameter for parameter in operation["parameters"]}
    sent = {name for name in event.headers if name.startswith(("webhook-", "dcp-", "deprecation"))}
    assert {name for name, parameter in named.items() if parameter["required"]} <= sent <= named.keys()
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = json.loads(event.body)
    Draft202012Validator({**schema, "components": CLOSED}, format_checker=FormatChecker()).validate(body)


def legacy(event: Received, secret: str) -> str:
    """The signature in the form of the header DCP-Signature."""
    signed = event.headers["dcp-timestamp"].encode() + b"." + event.body
    return f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def assert_signed(event: Received, secret: str) -> None:
    assert event.headers["dcp-signature"] == legacy(event, secret)


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
        assert body["created_at"] == iso(market.clock, -60)
        assert body["data"] == {
            "job_id": job.job_id,
            "job_type": "llm-inference",
            "status": "completed",
            "charged_halala": 188,
            "refunded_halala": 262,
            "provider_id": provider.id,
            "model": "test/model",
            "created_at": iso(market.clock, -135),
            "started_at": iso(market.clock, -135),
            "ended_at": iso(market.clock, -60),
            "billing": {
                "hold_halala": 450,
                "actual_cost_halala": 188,
                "refund_halala": 262,
                "provider_halala": 141,
                "platform_halala": 47,
                "hold_micro_halala": 450_000_000,
                "actual_cost_micro_halala": 188_000_000,
                "refund_micro_halala": 262_000_000,
                "provider_micro_halala": 141_000_000,
                "platform_micro_halala": 47_000_000,
                "billed_seconds": 75.0,
                "rate_halala_per_minute": 150,
                "price": {"sar_per_hour": "90"},
            },
        }
        assert_described(event)
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
        failed = json.loads(receiver.received[1].body)["data"]
        assert failed["failure_reason"] == "START_DEADLINE"
        assert failed["failure_message"]
        assert not {"provider_id", "started_at"} & failed.keys()
        for one in receiver.received:
            assert_described(one)


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


async def test_event_that_has_a_body_already_is_sent_as_it_is(market: Market) -> None:
    """Those that waited when the server began to keep facts instead have nothing else."""
    renter = await market.renter()
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)
        await send_test(market, renter)
        await market.sql(lambda: WebhookDelivery.update(body='{"old": 1}').execute())
        await deliver(market)
        assert receiver.received[0].body == b'{"old": 1}'


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
    async with receiving(503) as receiver:
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


@pytest.mark.parametrize("status", [302, 400, 401, 404, 410, 422, 500])
async def test_event_that_alone_is_refused_delays_no_other(market: Market, status: int) -> None:
    renter = await market.renter(100_000)
    async with receiving() as receiver:
        receiver.by_event["webhook.test"] = status
        await set_webhook(market, renter, receiver.url)
        refused = (await send_test(market, renter)).delivery.event_id
        await cancelled_job(market, renter)
        await deliver(market)
        assert kinds(receiver) == ["webhook.test", "job.cancelled"]
        for seconds in (1, 9, 1, 29):
            await cancelled_job(market, renter)
            await deliver(market, seconds)
            assert receiver.received[-1].headers["dcp-event"] in ("job.cancelled", "webhook.test")
        assert kinds(receiver).count("job.cancelled") == 5  # each at once
        again = [one for one in receiver.received if one.headers["dcp-event-id"] == refused]
        assert len(again) == 3  # at its own times: after 10 s, and after 30 s more


async def test_kind_of_event_that_is_refused_delays_no_other_kind(market: Market) -> None:
    renter = await market.renter(100_000)
    async with receiving() as receiver:
        receiver.by_event["job.cancelled"] = 400
        await set_webhook(market, renter, receiver.url)
        for _ in range(4):
            await cancelled_job(market, renter)
        await deliver(market)
        await send_test(market, renter)
        await deliver(market)
        assert kinds(receiver) == ["job.cancelled"] * 4 + ["webhook.test"]


@pytest.mark.parametrize("status", [500, None])
async def test_one_event_that_fails_again_and_again_never_condemns_the_address(
    market: Market, status: int | None
) -> None:
    renter = await market.renter(100_000)
    async with receiving(status) as receiver:
        if status is None:
            receiver.hangs_up = True
        await set_webhook(market, renter, receiver.url)
        await cancelled_job(market, renter)
        for seconds in (0, 10, 30, 60):
            await deliver(market, seconds)
        assert len(receiver.received) == 4
        receiver.by_event["webhook.test"] = 200
        await send_test(market, renter)
        await deliver(market, 0 if status else 10)
        assert kinds(receiver)[4:] == ["webhook.test"]


async def test_events_that_fail_over_and_over_stand_behind_new_ones(market: Market) -> None:
    renter = await market.renter(100_000)
    async with receiving(500) as receiver:
        await set_webhook(market, renter, receiver.url)
        for _ in range(2):
            await cancelled_job(market, renter)
        await deliver(market)
        assert len(receiver.received) == 2  # two events in a row: it is the address
        receiver.by_event["webhook.test"] = 200
        await deliver(market, 9)
        assert len(receiver.received) == 2
        market.clock.advance(2)
        await send_test(market, renter)  # when the others are due again
        await deliver(market)
        assert kinds(receiver)[2:] == ["webhook.test", "job.cancelled", "job.cancelled"]


async def test_broken_address_is_tried_once_a_minute_at_most_and_gets_all_when_it_works(
    market: Market,
) -> None:
    renter = await market.renter(100_000)
    async with receiving(502) as receiver:
        await set_webhook(market, renter, receiver.url)
        for _ in range(12):
            await cancelled_job(market, renter)
        counts = []
        for seconds in (0, 10, 30, 60, 60, 60):
            await deliver(market, seconds - 1 if seconds else 0)
            await deliver(market, 1 if seconds else 0)
            counts.append(len(receiver.received))
        assert counts == [2, 3, 4, 5, 6, 7]
        receiver.answers = [200]
        await deliver(market, 60)
        await deliver(market)
        assert len({one.headers["dcp-event-id"] for one in receiver.received}) == 12


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("retry_after", "seconds"), [("120", 120), ("86400", 600), ("0", 10), ("soon", 10)])
async def test_busy_address_is_left_alone_for_as_long_as_it_asks(
    market: Market, status: int, retry_after: str, seconds: int
) -> None:
    renter = await market.renter()
    async with receiving(status) as receiver:
        receiver.retry_after = retry_after
        await set_webhook(market, renter, receiver.url)
        for _ in range(2):
            await cancelled_job(market, renter)
        await deliver(market)
        await send_test(market, renter)
        await deliver(market, seconds - 1)
        assert len(receiver.received) == 1
        receiver.answers = [200]
        await deliver(market, 1)
        assert len(receiver.received) == 4


async def test_broken_address_loses_what_it_did_not_take_within_two_hours(market: Market) -> None:
    """Also the events whose turn never came: they do not pile up."""
    renter = await market.renter(100_000)
    async with receiving(503) as receiver:
        await set_webhook(market, renter, receiver.url)
        for _ in range(3):
            await cancelled_job(market, renter)
        await deliver(market)
        await market.sql(lambda: WebhookDelivery.update(next_ms=1).execute())
        await deliver(market, GIVE_UP_SECONDS + 1)
        noted = (await deliveries(market, renter)).deliveries
        assert {one.status for one in noted} == {pb.DELIVERY_STATUS_FAILED}
        assert [one.attempts for one in noted] == [0, 1, 1]
        assert noted[0].error == "given up: the address failed for two hours"
        receiver.answers = [200]
        await cancelled_job(market, renter)
        await deliver(market, 60)
        assert (await deliveries(market, renter)).deliveries[0].status == pb.DELIVERY_STATUS_DELIVERED


async def test_changed_address_is_tried_at_once(market: Market) -> None:
    renter = await market.renter()
    async with receiving(503) as broken, receiving() as receiver:
        broken.retry_after = "600"
        await set_webhook(market, renter, broken.url)
        for _ in range(2):
            await cancelled_job(market, renter)
        await deliver(market)
        await set_webhook(market, renter, receiver.url)
        await deliver(market)
        assert len(receiver.received) == 1  # the other was sent just now, and waits for its own time
        await deliver(market, 600)
        assert len(receiver.received) == 2


async def test_event_that_this_server_cannot_send_holds_up_no_other(market: Market) -> None:
    renter = await market.renter()
    sent: list[str] = []

    async def post(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        sent.append(headers["webhook-id"])
        if headers["DCP-Event"] == "webhook.test":
            raise RuntimeError("a fault of ours")
        return Answer(200)

    await set_webhook(market, renter, "http://127.0.0.1:9/")
    broken = (await send_test(market, renter)).delivery.event_id
    await cancelled_job(market, renter)
    own = Deliveries(market.server.services.deliveries._database, market.clock, body_text, post, LocalBus())
    await own.tick()
    await own.settled()
    assert (sent[0], len(sent)) == (broken, 2)
    done, failed = (await deliveries(market, renter)).deliveries
    assert (done.status, failed.status) == (pb.DELIVERY_STATUS_DELIVERED, pb.DELIVERY_STATUS_WAITING)
    assert (failed.attempts, failed.error) == (1, "the server could not send the event")


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
            await deliver(market, 59)
            assert len(receiver.received) == 1  # the claim of the one that died still stands
            await deliver(market, 1)
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
        assert_described(receiver.received[0])
        await credit(market, renter, 1)  # 600: filled
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


async def sub_key(market: Market, renter: Party, **limits: Any) -> tuple[Party, int]:
    """The renter's account with a new sub-key that has these limits, and the key's id."""
    request = keys_pb2.CreateKeyRequest(name="batch", scopes=[options_pb2.SCOPE_INFERENCE], **limits)
    created = await market.key_service.CreateKey(request, metadata=renter.metadata)
    return Party(renter.id, created.api_key), created.key.id


async def refused_jobs(market: Market, key: Party, count: int) -> None:
    """Jobs at once, of which each exceeds a budget."""
    submits = [refusal(market.submit(key)) for _ in range(count)]
    assert {refused.reason for refused in await asyncio.gather(*submits)} == {"BUDGET_REACHED"}


async def test_reached_budget_sends_one_event_for_each_day(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await sub_key(market, renter, budget_halala_per_day=500)
    market.clock.advance(24 * 3600 - market.clock.now() % (24 * 3600))  # midnight
    midnight = market.clock.now()
    async with receiving() as receiver:
        await set_webhook(market, renter, receiver.url)
        await market.submit(key)
        await deliver(market)
        assert kinds(receiver) == []
        await refused_jobs(market, key, 20)
        await deliver(market)
        assert kinds(receiver) == ["budget.reached"]
        assert_described(receiver.received[0])
        data = json.loads(receiver.received[0].body)["data"]
        assert datetime.fromisoformat(data.pop("resets_at")).timestamp() == midnight + 24 * 3600
        assert data == {
            "key_id": key_id,
            "budget": "day",
            "budget_halala": 500,
            "used_halala": 450,
            "required_halala": 450,
        }
        market.clock.advance(24 * 3600)
        await market.submit(key)
        await refused_jobs(market, key, 2)
        await deliver(market)
        assert kinds(receiver) == ["budget.reached"] * 2


async def test_reached_budget_sends_an_event_again_after_the_limits_changed(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    key, key_id = await sub_key(market, renter, budget_halala_total=1)
    async with receiving() as receiver:
        await refused_jobs(market, key, 2)  # without a webhook, nobody was told
        await set_webhook(market, renter, receiver.url)
        for budget in (1, 2):
            limits = keys_pb2.SetKeyLimitsRequest(key_id=key_id, budget_halala_total=budget)
            await market.key_service.SetKeyLimits(limits, metadata=renter.metadata)
            await refused_jobs(market, key, 2)
            await deliver(market)
        assert kinds(receiver) == ["budget.reached"] * 2
        bodies = [json.loads(each.body)["data"] for each in receiver.received]
        assert [(data["budget"], data["budget_halala"], data["used_halala"]) for data in bodies] == [
            *(("total", 1, 0), ("total", 2, 0)),
        ]
        assert "resets_at" not in bodies[0]
        assert_described(receiver.received[0])


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
        rotated = await rotate(market, renter)
        await send_test(market, renter)
        await deliver(market)
        assert_signed(receiver.received[1], rotated.secret)
        assert rotated.secret != first.secret
        assert first.secret not in str(await deliveries(market, renter))


async def signed_by(market: Market, renter: Party, receiver: Receiver) -> Received:
    """What a test event of now carries."""
    await send_test(market, renter)
    await deliver(market)
    return receiver.received[-1]


def accepts(secret: str, event: Received) -> bool:
    """Whether an independent implementation of Standard Webhooks takes the signature, whatever its time."""
    at = datetime.fromtimestamp(int(event.headers["webhook-timestamp"]), UTC)
    own = StandardWebhook(secret).sign(event.headers["webhook-id"], at, event.body.decode())
    return own in event.headers["webhook-signature"].split(" ")


async def test_replaced_secret_signs_too_until_its_grace_period_ends(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    async with receiving() as receiver:
        old = (await set_webhook(market, renter, receiver.url)).secret
        made = await rotate(market, renter, grace_seconds=100)
        now_ms = market.clock.now() * 1000
        assert made.previous_expires_at.ToMilliseconds() == now_ms + 100_000
        market.clock.advance(99)
        one = await signed_by(market, renter, receiver)
        assert accepts(old, one)
        assert accepts(made.secret, one)
        assert_signed(one, made.secret)
        assert one.headers["dcp-previous-signature"] == legacy(one, old)
        market.clock.advance(1)
        one = await signed_by(market, renter, receiver)
        assert not accepts(old, one)
        assert accepts(made.secret, one)
        assert "dcp-previous-signature" not in one.headers


async def test_rotation_without_grace_ends_every_earlier_secret(market: Market) -> None:
    renter = await market.renter()
    async with receiving() as receiver:
        secrets = [(await set_webhook(market, renter, receiver.url)).secret]
        secrets += [(await rotate(market, renter)).secret for _ in range(2)]
        one = await signed_by(market, renter, receiver)
        assert [accepts(secret, one) for secret in secrets] == [True] * 3  # a lost answer locks nobody out
        assert one.headers["dcp-previous-signature"] == f"{legacy(one, secrets[1])} {legacy(one, secrets[0])}"
        newest = (await rotate(market, renter, grace_seconds=0)).secret
        one = await signed_by(market, renter, receiver)
        assert [accepts(secret, one) for secret in (*secrets, newest)] == [False] * 3 + [True]


async def test_only_so_many_secrets_are_valid_at_once(market: Market) -> None:
    renter = await market.renter()
    await set_webhook(market, renter, "http://127.0.0.1:9/")
    for _ in range(MAX_SECRETS - 1):
        await rotate(market, renter)
    assert (await refusal(rotate(market, renter))).reason == "TOO_MANY_KEYS"
    assert (await rotate(market, renter, grace_seconds=0)).secret
    assert (await rotate(market, renter)).secret


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
        assert json.loads(event.body)["data"] == {}
        assert_described(event)
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
