"""The models that live providers serve now, with the platform's prices."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal

from server.clock import Clock, ms
from server.domain.jobs import JobType
from server.domain.leases import LIVE_SECONDS
from server.domain.pricing import Price, per_minute
from server.store import prices, providers
from server.store.database import Database
from server.store.providers import ServedNow

# Models that one list has, those that most providers serve.
MOST_LISTED = 1000
# What they are served for.
LISTED = (JobType.LLM_INFERENCE, JobType.EMBEDDINGS)
# How old the list of models may be: it takes a look at every live provider.
KEPT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A model, and what its jobs cost that name no provider."""

    model: ServedNow
    price: Price


class Catalogue:
    """Reads what is served now; changes nothing."""

    def __init__(self, database: Database, clock: Clock, sar_per_usd: Decimal) -> None:
        self._database = database
        self._clock = clock
        self.sar_per_usd = sar_per_usd
        self._read_ms = -KEPT_MS
        self._models: list[ServedNow] = []
        self._lock = asyncio.Lock()

    async def listed(self) -> list[Listed]:
        """The models that are served now, those that most providers serve first, with their prices."""
        models = await self._served()
        card = (await self._database.read(prices.card)).prices
        by_minute = {kind: per_minute(card.rates[kind]) for kind in LISTED}
        return [Listed(model, card.tokens.get(model.name, by_minute[model.kinds[0]])) for model in models]

    async def _served(self) -> list[ServedNow]:
        """Those of the last seconds, or read anew, once for all who wait."""
        async with self._lock:
            now_ms = ms(self._clock)
            if now_ms - self._read_ms >= KEPT_MS:
                since_ms = now_ms - int(LIVE_SECONDS * 1000)
                self._models = await self._database.read(
                    lambda: providers.served_now(LISTED, since_ms, MOST_LISTED)
                )
                self._read_ms = now_ms
            return self._models
