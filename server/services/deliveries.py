"""Sends the events in the outboxes of webhooks: at least once, with retries, to many owners concurrently.

A turn serves one owner, a renter or the operators: it sends the events that are due, and ends when the
address needs a pause, so that an address that never answers delays only its own events. An event that fails
alone delays no other. ``tick`` starts turns and waits for none.

The server that wrote an event wakes itself after the commit. Only if it cannot send it, since all its turns
are taken or it stops, it hints at the outbox, and another server looks. A hint that is lost costs the time
until the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from server.bus import Bus, Topic
from server.clock import Clock, ms
from server.domain.webhooks import STANDARD_SINCE, Answer, sign, sign_standard, still_valid
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

    def __init__(self, database: Database, clock: Clock, write: Write, post: Post, bus: Bus) -> None:
        self._database = database
        self._clock = clock
        self._write = write
        self._post = post
        self._bus = bus
        self._turns: dict[int, asyncio.Task[None]] = {}
        self._noted: set[int] = set()
        self._noted_in_turn: set[int] = set()
        """Outboxes whose turn ran when they were noted: it may have looked before."""
        """Outboxes that became due here and were not looked at since."""
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.wake = asyncio.Event()
        """Set when the next look should come at once."""
        bus.listen(Topic.OUTBOX, lambda owners: self.wake.set())

    def note_due(self, owners: set[int]) -> None:
        """Outboxes became due by a transaction of this server. Called in any thread, after the commit."""
        if self._is_stopping:
            self._hint(owners)
        if self._is_stopping or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the next server looks
            self._loop.call_soon_threadsafe(self._note, owners)

    def _note(self, owners: set[int]) -> None:
        self._noted |= owners
        self.wake.set()

    def _hint(self, owners: set[int]) -> None:
        """Lets other servers look at these outboxes."""
        if owners:
            self._bus.publish(Topic.OUTBOX, [str(owner_id) for owner_id in sorted(owners)])

    async def tick(self) -> None:
        """Starts a turn for each outbox that is due; at most ``MAX_TURNS`` run at once."""
        self._loop = asyncio.get_running_loop()
        noted, self._noted = self._noted, set()
        self._noted_in_turn |= noted & self._turns.keys()
        free, now_ms = MAX_TURNS - len(self._turns), ms(self._clock)
        if not free:
            self._hint(noted - self._turns.keys())
            return
        found = await self._database.read(lambda: webhooks.due(now_ms, free))
        due = [owner_id for owner_id in found if owner_id not in self._turns]
        if not due:
            return
        until_ms = now_ms + CLAIM_SECONDS * 1000
        for owner_id in await self._database.run(lambda: webhooks.claim(due, now_ms, until_ms)):
            turn = asyncio.create_task(self._turn(owner_id))
            self._turns[owner_id] = turn
            turn.add_done_callback(partial(self._ended, owner_id))

    def _ended(self, owner_id: int, _: asyncio.Task[None]) -> None:
        if len(self._turns) == MAX_TURNS or owner_id in self._noted_in_turn:
            self.wake.set()  # others may wait for a turn, or it has more to send
        self._noted_in_turn.discard(owner_id)
        del self._turns[owner_id]

    async def settled(self) -> None:
        """Waits until all running turns have ended."""
        await asyncio.gather(*self._turns.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Cancels the running turns. The next server repeats the events that were not recorded as sent."""
        self._is_stopping = True
        for turn in self._turns.values():
            turn.cancel()
        await self.settled()

    async def _turn(self, owner_id: int) -> None:
        try:
            await self._send_due(owner_id)
            now_ms = ms(self._clock)
            await self._database.run(lambda: webhooks.release(owner_id, now_ms))
        except Exception:
            log.exception("a turn of webhook deliveries failed owner_id=%d", owner_id)

    async def _send_due(self, owner_id: int) -> None:
        """Sends the due events until the address needs a pause or ``TURN_SECONDS`` are over."""
        started_ms = ms(self._clock)
        webhook, waiting = await self._database.read(
            lambda: (webhooks.get(owner_id), webhooks.to_send(owner_id, started_ms, TURN_EVENTS))
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
        "Deprecation": STANDARD_SINCE,
    }
    if previous:
        headers["DCP-Previous-Signature"] = " ".join(sign(secret, timestamp, body) for secret in previous)
    return headers
