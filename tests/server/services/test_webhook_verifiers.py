"""Libraries check what the server sends: those of Standard Webhooks, OpenAI and Anthropic, and ours."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anthropic
import openai
import pytest
import standardwebhooks
from dcp_client import SignatureError, verify_webhook

from tests.server.services.operators.test_incidents import listen, request_payout, watch
from tests.server.services.test_webhooks import cancelled_job, deliver, rotate, set_webhook
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party
from tests.support.webhook_receiver import Received, Receiver, receiving

Verify = Callable[[Received, str], Any]
CLIENT = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9")
CLAUDE = anthropic.Anthropic(api_key="none", base_url="http://127.0.0.1:9")
VERIFIERS: dict[str, Verify] = {
    "standardwebhooks": lambda event, secret: standardwebhooks.Webhook(secret).verify(
        event.body, event.headers
    ),
    "openai": lambda event, secret: CLIENT.webhooks.unwrap(event.body, event.headers, secret=secret),
    "anthropic": lambda event, secret: CLAUDE.beta.webhooks.unwrap(
        event.body.decode(), headers=event.headers, key=secret
    ),
    "dcp_client": lambda event, secret: verify_webhook(event.body, event.headers, secret),
}
REFUSALS = (
    standardwebhooks.WebhookVerificationError,
    openai.InvalidWebhookSignatureError,
    SignatureError,
)


@pytest.fixture
async def market(sqlite_url: str) -> AsyncIterator[Market]:
    """A server with the present time, which these libraries read."""
    clock = ManualClock(now=time.time())
    async with running_server.running(sqlite_url, clock, webhooks_allow_private=True) as market:
        yield market


def kind(event: Any) -> str:
    """The kind of event, from what a verifier returns: a mapping, or a model."""
    return str(event["type"] if isinstance(event, dict) else event.type)


async def job_event(market: Market, receiver: Receiver, renter: Party) -> Received:
    """An event about a job that has just ended."""
    await cancelled_job(market, renter)
    await deliver(market)
    return receiver.received[-1]


@pytest.mark.parametrize("verifier", VERIFIERS)
async def test_verifier_accepts_events_of_renters_and_operators(market: Market, verifier: str) -> None:
    verify = VERIFIERS[verifier]
    async with receiving() as receiver, receiving() as operators:
        renter = await market.renter()
        secret = (await set_webhook(market, renter, receiver.url)).secret
        event = await job_event(market, receiver, renter)
        assert kind(verify(event, secret)) == "job.cancelled"
        secret = await listen(market, operators)
        await request_payout(market, hours_ago=100)
        await watch(market)
        assert kind(verify(operators.received[0], secret)) == "incident.began"


@pytest.mark.parametrize("verifier", VERIFIERS)
async def test_verifier_accepts_old_and_new_secret_while_it_rotates(market: Market, verifier: str) -> None:
    verify = VERIFIERS[verifier]
    async with receiving() as receiver:
        renter = await market.renter()
        secrets = [(await set_webhook(market, renter, receiver.url)).secret]
        secrets += [(await rotate(market, renter, grace_seconds=60)).secret for _ in range(2)]
        event = await job_event(market, receiver, renter)
        assert [kind(verify(event, secret)) for secret in secrets] == ["job.cancelled"] * 3
        market.clock.advance(61)
        event = await job_event(market, receiver, renter)
        assert kind(verify(event, secrets[-1])) == "job.cancelled"
        for secret in secrets[:-1]:
            with pytest.raises(REFUSALS):
                verify(event, secret)


@pytest.mark.parametrize("verifier", VERIFIERS)
async def test_verifier_refuses_what_was_changed_is_old_or_is_signed_by_others(
    market: Market, verifier: str
) -> None:
    verify = VERIFIERS[verifier]
    async with receiving() as receiver, receiving() as of_other:
        renter, other = await market.renter(), await market.renter()
        secret = (await set_webhook(market, renter, receiver.url)).secret
        wrong = (await set_webhook(market, other, of_other.url)).secret
        event = await job_event(market, receiver, renter)
        data = json.loads(event.body)
        data["data"]["charged_halala"] += 1
        changed = replace(event, body=json.dumps(data).encode())
        stamp = str(int(event.headers["webhook-timestamp"]) + 1)
        shifted = replace(event, headers=event.headers | {"webhook-timestamp": stamp})
        renamed = replace(event, headers=event.headers | {"webhook-id": "evt-of-another"})
        unsigned = replace(event, headers=event.headers | {"webhook-signature": "v1,AAAA"})
        for forged in (changed, shifted, renamed, unsigned):
            with pytest.raises(REFUSALS):
                verify(forged, secret)
        with pytest.raises(REFUSALS):
            verify(event, wrong)
        market.clock.set_back(400)
        old = await job_event(market, receiver, renter)
        with pytest.raises(REFUSALS):
            verify(old, secret)


async def test_old_headers_say_that_they_are_deprecated(market: Market) -> None:
    async with receiving() as receiver:
        renter = await market.renter()
        await set_webhook(market, renter, receiver.url)
        event = await job_event(market, receiver, renter)
        since = event.headers["deprecation"]
        assert since.startswith("@")
        assert int(since[1:]) == 1_795_824_000
        assert "dcp-signature" in event.headers
