"""The server's loops: the sweep and the sender of webhooks every second, the cleaning of artifacts slower."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from server.domain.errors import DomainError
from server.services.cleaning import Cleaning
from server.services.deliveries import Deliveries
from server.services.sweep import Sweep

log = logging.getLogger(__name__)
PERIOD_SECONDS = 1.0
CLEANING_SECONDS = 30.0


async def sweep_forever(sweep: Sweep) -> None:
    """Ticks until cancelled. A tick that fails is logged and tried again: time goes on."""
    await _forever("a sweep", sweep.tick)


async def deliver_forever(deliveries: Deliveries) -> None:
    """The same for the events that wait to be sent."""
    await _forever("the sending of events", deliveries.tick)


async def clean_forever(cleaning: Cleaning) -> None:
    """The same for artifacts that are not to be kept."""
    await _forever("the cleaning of artifacts", cleaning.tick, CLEANING_SECONDS)


async def _forever(
    what: str, tick: Callable[[], Awaitable[None]], period_seconds: float = PERIOD_SECONDS
) -> None:
    while True:
        await asyncio.sleep(period_seconds)
        try:
            await tick()
        except DomainError as error:
            log.error("%s was put off reason=%s", what, error.reason)
        except Exception:
            log.exception("%s failed", what)
