"""Sends what waits in the outboxes of webhooks: at least once, with retries, many renters side by side.

A turn is for one renter: it sends what is due, oldest first, and ends at the first failure, so that an
address that never answers holds up nothing but itself. ``tick`` starts turns and waits for none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from server.clock import Clock, ms
from server.domain.webhooks import Answer, sign
from server.store import webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, Webhook

log = logging.getLogger(__name__)
MAX_TURNS = 64
TURN_EVENTS = 10
TURN_SECONDS = 30
# A turn that a crash ended is another's after this; longer than a turn with its last attempt can take.
CLAIM_SECONDS = 60
Post: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]


class Deliveries:
    """The sender of one server; several may share a database."""

    def __init__(self, database: Database, clock: Clock, post: Post) -> None:
        self._database = database
        self._clock = clock
        self._post = post
        self._turns: dict[int, asyncio.Task[None]] = {}

    async def tick(self) -> None:
        """Starts a turn for each outbox that is due, as many as may run at once."""
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
        """Waits until no turn runs."""
        await asyncio.gather(*self._turns.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Ends the turns that run. What they had not noted as sent is sent again by the next server."""
        for turn in self._turns.values():
            turn.cancel()
        await self.settled()

    async def _turn(self, renter_id: int) -> None:
        try:
            failed = await self._send_due(renter_id)
            now_ms = ms(self._clock)
            await self._database.run(lambda: webhooks.release(renter_id, now_ms, failed=failed))
        except Exception:
            log.exception("a turn of webhook deliveries failed renter_id=%d", renter_id)

    async def _send_due(self, renter_id: int) -> bool:
        """Sends what is due until something fails or the turn is long enough; returns whether it failed."""
        started_ms = ms(self._clock)
        webhook, waiting = await self._database.read(
            lambda: (webhooks.get(renter_id), webhooks.to_send(renter_id, started_ms, TURN_EVENTS))
        )
        for one in waiting:
            if webhook is None or ms(self._clock) - started_ms > TURN_SECONDS * 1000:
                return False
            if not await self._send(webhook, one):
                return True
        return False

    async def _send(self, webhook: Webhook, one: Delivery) -> bool:
        body, timestamp = one.body.encode(), str(ms(self._clock) // 1000)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "DCP-Webhooks/1",
            "DCP-Event": one.event.value,
            "DCP-Event-Id": one.event_id,
            "DCP-Attempt": str(one.attempts + 1),
            "DCP-Timestamp": timestamp,
            "DCP-Signature": sign(webhook.secret, timestamp, body),
        }
        answer = await self._post(webhook.url, headers, body)
        now_ms = ms(self._clock)
        was_noted = await self._database.run(lambda: webhooks.record(one, answer, now_ms))
        log.debug("sent an event event_id=%s good=%s", one.event_id, answer.is_good)
        # Not noted: the webhook was removed, or its renter is gone. What is left of the turn is not sent.
        return answer.is_good and was_noted
