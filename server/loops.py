"""The server's one loop: the sweep, every second."""

from __future__ import annotations

import asyncio
import logging

from server.domain.errors import DomainError
from server.services.sweep import Sweep

log = logging.getLogger(__name__)
PERIOD_SECONDS = 1.0


async def sweep_forever(sweep: Sweep) -> None:
    """Ticks until cancelled. A tick that fails is logged and tried again: time goes on."""
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        try:
            await sweep.tick()
        except DomainError as error:
            log.error("a sweep was put off reason=%s", error.reason)
        except Exception:
            log.exception("a sweep failed")
