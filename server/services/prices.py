"""Prices as everybody reads them, and as operators and providers set them: by GPU model and by model.

They apply to jobs that are submitted later. Rates by job type are in server.services.terms and
server.services.operators.operations.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from server.clock import Clock, ms
from server.domain.pricing import Price, Prices, TimePrice, TokenPrice, with_entry, words
from server.domain.terms import Terms, check_price, price_bounds
from server.services.operators.audit import Operator
from server.services.terms import OwnTerms
from server.store import prices, terms
from server.store.database import Database
from server.store.prices import Card, Kind

log = logging.getLogger(__name__)
# Models and GPU models of which one provider may have own prices.
MOST_OWN = 500


@dataclass(frozen=True, slots=True)
class Subject:
    """What a price is for: a GPU model or a model."""

    kind: Kind
    """The same word is the field of a request that names it."""
    name: str

    def of(self, party: Prices) -> Price | None:
        """Its price in those of a party."""
        if self.kind is Kind.GPU_MODEL:
            micros = party.gpu_hours.get(self.name)
            return TimePrice(micros) if micros is not None else None
        return party.tokens.get(self.name)


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A provider's price, beside the platform's."""

    subject: Subject
    own: Price | None
    platform: Price | None

    @property
    def bounds(self) -> tuple[Price, Price] | None:
        """The lowest and the highest that the provider may set; None if it may set none."""
        return price_bounds(self.platform) if self.platform is not None else None


class PriceList:
    """The use cases of prices."""

    def __init__(self, database: Database, own_terms: OwnTerms, clock: Clock) -> None:
        self._database = database
        self._own_terms = own_terms
        self._clock = clock

    async def card(self) -> Card:
        """The platform's prices."""
        return await self._database.read(prices.card)

    async def set(self, operator: Operator, subject: Subject, price: Price | None) -> Card:
        """Sets a price of the platform; None ends it."""
        now_ms = ms(self._clock)

        def change() -> Card:
            before = prices.change(subject.kind, subject.name, price, now_ms)
            if before != price:
                facts = [{"price": words(of) if of is not None else None} for of in (before, price)]
                operator.note("price.change", subject.name, facts[0], facts[1], now_ms)
            return prices.card()

        return await self._database.run(change)

    async def set_storage(self, operator: Operator, micros: int | None) -> Card:
        """Sets what renters pay for a day of a kept GB; None: nothing."""
        now_ms = ms(self._clock)

        def change() -> Card:
            before = prices.change_storage(micros, now_ms)
            if before != micros:
                facts = [{"micros_per_gb_day": of} for of in (before, micros)]
                operator.note("price.change", prices.GB_DAY, facts[0], facts[1], now_ms)
            return prices.card()

        return await self._database.run(change)

    async def own(self, provider_id: int) -> list[OwnPrice]:
        """A provider's prices by GPU model and by model."""
        return await self._database.read(lambda: _own(terms.of(provider_id).prices))

    async def set_own(self, provider_id: int, subject: Subject, price: Price | None) -> list[OwnPrice]:
        """Sets an own price of a provider; None restores the platform's. Raises RATE_OUT_OF_BOUNDS."""

        def alter(before: Terms) -> Terms:
            return replace(before, prices=_with(before.prices, subject, price))

        def check() -> None:
            if price is not None:
                check_price(price, subject.of(prices.card().prices), subject.kind.value)

        after = await self._own_terms.change(provider_id, alter, check)
        log.info("set a price provider_id=%d %s=%r", provider_id, subject.kind.value, subject.name)
        return await self._database.read(lambda: _own(after.prices))


def _with(own: Prices, subject: Subject, price: Price | None) -> Prices:
    if subject.kind is Kind.GPU_MODEL:
        micros = price.micros_per_hour if isinstance(price, TimePrice) else None
        return replace(own, gpu_hours=with_entry(own.gpu_hours, subject.name, micros))
    tokens = price if isinstance(price, TokenPrice) else None
    return replace(own, tokens=with_entry(own.tokens, subject.name, tokens))


def _own(own: Prices) -> list[OwnPrice]:
    card = prices.card().prices
    subjects = [Subject(Kind.GPU_MODEL, name) for name in sorted({*card.gpu_hours, *own.gpu_hours})]
    subjects += [Subject(Kind.MODEL, name) for name in sorted({*card.tokens, *own.tokens})]
    return [OwnPrice(subject, subject.of(own), subject.of(card)) for subject in subjects]
