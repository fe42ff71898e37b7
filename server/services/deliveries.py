"""Sends the events in the outboxes of webhooks: at least once, with retries, to many renters concurrently.

A turn serves one renter: it sends the events that are due, and ends when the address needs a pause, so that
an address that never answers delays only its own events. An event that fails alone delays no other.
``tick`` starts turns and waits for none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from server.clock import Clock, ms
from server.domain.webhooks import Answer, sign, sign_standard, still_valid
from server.store import webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, Webhook

log = logging.getLogger(__name__)
MAX_TURNS = 64
TURN_EVENTS = 10
TURN_SECONDS = 30
# Another server may take over a turn after this; it is longer than a turn with its last attempt can take.
CLAIM_SECONDS = 60
Write: TypeAlias = Callable[[Delivery], str]
"""Writes the body of an event."""
Post: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]


class Deliveries:
    """The sender of one server; several may share a database."""

    def __init__(self, database: Database, clock: Clock, write: Write, post: Post) -> None:
        self._database = database
        self._clock = clock
        self._write = write
        self._post = post
        self._turns: dict[int, asyncio.Task[None]] = {}

    async def tick(self) -> None:
        """Starts a turn for each outbox that is due; at most ``MAX_TURNS`` run at once."""
        free, now_ms = MAX_TURNS - len(self._turns), ms(self._clock)
        if not free:
            return
        found = await self._database.read(lambda: webhooks.due(now_ms, free))
        due = [renter_id for renter_id in found if renter_id not in self._turns]
        if not due:
            return
        until_ms = now_ms + CLAIM_SECONDS * 1000
        for renter_id in await self._database.run(lambda: webhooks.claim(due, now_ms, until_ms)):
            turn = asyncio.create_task(self._turn(renter_id))
            self._turns[renter_id] = turn
            turn.add_done_callback(lambda _, renter_id=renter_id: self._turns.pop(renter_id))  # type: ignore[misc]

    async def settled(self) -> None:
        """Waits until all running turns have ended."""
        await asyncio.gather(*self._turns.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Cancels the running turns. The next server repeats the events that were not recorded as sent."""
        for turn in self._turns.values():
            turn.cancel()
        await self.settled()

    async def _turn(self, renter_id: int) -> None:
        try:
            await self._send_due(renter_id)
            now_ms = ms(self._clock)
            await self._database.run(lambda: webhooks.release(renter_id, now_ms))
        except Exception:
            log.exception("a turn of webhook deliveries failed renter_id=%d", renter_id)

    async def _send_due(self, renter_id: int) -> None:
        """Sends the due events until the address needs a pause or ``TURN_SECONDS`` are over."""
        started_ms = ms(self._clock)
        webhook, waiting = await self._database.read(
            lambda: (webhooks.get(renter_id), webhooks.to_send(renter_id, started_ms, TURN_EVENTS))
        )
        for delivery in waiting:
            if webhook is None or ms(self._clock) - started_ms > TURN_SECONDS * 1000:
                return
            if not await self._send(webhook, delivery):
                return

    async def _send(self, webhook: Webhook, delivery: Delivery) -> bool:
        """Sends one event and records the attempt; returns whether the turn goes on."""
        sent, answer = await self._attempt(webhook, delivery)
        now_ms = ms(self._clock)
        goes_on = await self._database.run(lambda: webhooks.record(webhook, sent, answer, now_ms))
        log.debug("sent an event event_id=%s good=%s", delivery.event_id, answer.is_good)
        return goes_on

    async def _attempt(self, webhook: Webhook, delivery: Delivery) -> tuple[Delivery, Answer]:
        """The event with its body, and what the address answered."""
        try:
            sent = delivery if delivery.body else replace(delivery, body=self._write(delivery))
            body = sent.body.encode()
            headers = _headers(webhook, sent, body, ms(self._clock))
            return sent, await self._post(webhook.url, headers, body)
        except Exception:  # of this event: the others of the turn must not wait for it
            log.exception("an event could not be sent event_id=%s", delivery.event_id)
            return delivery, Answer(None, "the server could not send the event", was_sent=False)


def _headers(webhook: Webhook, delivery: Delivery, body: bytes, now_ms: int) -> dict[str, str]:
    """The headers of one attempt. Each secret that is valid now signs it."""
    timestamp, event_id = str(now_ms // 1000), delivery.event_id
    previous = [each.secret for each in still_valid(webhook.previous_secrets, now_ms)]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "DCP-Webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            sign_standard(secret, event_id, timestamp, body) for secret in (webhook.secret, *previous)
        ),
        "DCP-Event": delivery.event.value,
        "DCP-Event-Id": event_id,
        "DCP-Attempt": str(delivery.attempts + 1),
        "DCP-Timestamp": timestamp,
        "DCP-Signature": sign(webhook.secret, timestamp, body),
    }
    if previous:
        headers["DCP-Previous-Signature"] = " ".join(sign(secret, timestamp, body) for secret in previous)
    return headers
