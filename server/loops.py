"""The server's two loops, every second: the sweep, and the sender of webhooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from server.domain.errors import DomainError
from server.services.deliveries import Deliveries
from server.services.sweep import Sweep

log = logging.getLogger(__name__)
PERIOD_SECONDS = 1.0


async def sweep_forever(sweep: Sweep) -> None:
    """Ticks until cancelled. A tick that fails is logged and tried again: time goes on."""
    await _forever("a sweep", sweep.tick)


async def deliver_forever(deliveries: Deliveries) -> None:
    """The same for the events that wait to be sent."""
    await _forever("the sending of events", deliveries.tick)


async def _forever(what: str, tick: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        try:
            await tick()
        except DomainError as error:
            log.error("%s was put off reason=%s", what, error.reason)
        except Exception:
            log.exception("%s failed", what)
