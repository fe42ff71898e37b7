"""How renters compare providers: by price, measured speed, reliability and memory. Pure.

Everything is computed from what the list shows, so that anybody can check an order.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

from server.domain.canaries import NOT_MEASURED, Measured
from server.domain.errors import no_page
from server.domain.jobs import JobType
from server.domain.pricing import Price, TimePrice, TokenPrice

Key = tuple[float, ...]
"""Where a provider is in a list: the lower, the earlier. Unknown values come last."""
_UNKNOWN: Key = (math.inf,)


class Sort(StrEnum):
    """The order of a list of providers."""

    ID = "id"
    PRICE = "price"
    TOKENS_PER_SECOND = "tokens_per_second"
    FIRST_TOKEN = "first_token"  # noqa: S105  (no password)
    RELIABILITY = "reliability"
    VRAM = "vram"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What renters ask of providers that no row has: of their prices, speeds and records."""

    sort: Sort = Sort.ID
    kind: JobType = JobType.LLM_INFERENCE
    """The job type whose price counts."""
    model: str | None = None
    max_micros_per_hour: int | None = None
    max_micros_for_output: int | None = None
    """For a million tokens of answers."""
    min_tokens_per_second: float | None = None
    max_first_token_ms: int | None = None
    min_reliability: float | None = None

    @property
    def asks_price(self) -> bool:
        """Whether prices decide."""
        bounds = (self.max_micros_per_hour, self.max_micros_for_output)
        return self.sort is Sort.PRICE or any(bound is not None for bound in bounds)

    @property
    def asks_speed(self) -> bool:
        """Whether measured speeds decide."""
        bounds = (self.min_tokens_per_second, self.max_first_token_ms)
        in_order = self.sort in (Sort.TOKENS_PER_SECOND, Sort.FIRST_TOKEN)
        return in_order or any(bound is not None for bound in bounds)

    @property
    def asks_record(self) -> bool:
        """Whether reliability decides."""
        return self.sort is Sort.RELIABILITY or self.min_reliability is not None

    @property
    def is_plain(self) -> bool:
        """Whether the database can filter and sort by itself."""
        return self.sort is Sort.ID and not (self.asks_price or self.asks_speed or self.asks_record)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a provider, as far as it was asked for."""

    price: Price | None = None
    """Of the wanted job type and model; None if the provider does not run it."""
    measured: Measured = NOT_MEASURED
    """With the wanted model."""
    reliability: float = 0.0
    """The lower bound."""
    vram_mib: int | None = None
    """Available to jobs."""

    def fits(self, wanted: Wanted) -> bool:
        """Whether a provider with these figures is listed."""
        hour = self.price.micros_per_hour if isinstance(self.price, TimePrice) else None
        output = self.price.completion if isinstance(self.price, TokenPrice) else None
        return (
            _at_most(hour, wanted.max_micros_per_hour)
            and _at_most(output, wanted.max_micros_for_output)
            and _at_least(self.measured.tokens_per_second, wanted.min_tokens_per_second)
            and _at_most(self.measured.first_token_ms, wanted.max_first_token_ms)
            and _at_least(self.reliability, wanted.min_reliability)
        )

    def key(self, sort: Sort) -> Key:
        """Where the provider is in this order, among those with other keys."""
        match sort:
            case Sort.ID:
                return ()
            case Sort.PRICE:
                return _price_key(self.price)
            case Sort.TOKENS_PER_SECOND:
                return _highest_first(self.measured.tokens_per_second)
            case Sort.FIRST_TOKEN:
                return _lowest_first(self.measured.first_token_ms)
            case Sort.RELIABILITY:
                return _highest_first(self.reliability)
            case Sort.VRAM:
                return _highest_first(self.vram_mib)


def _at_most(value: int | None, most: int | None) -> bool:
    return most is None or (value is not None and value <= most)


def _at_least(value: float | None, least: float | None) -> bool:
    return least is None or (value is not None and value >= least)


def _lowest_first(value: float | None) -> Key:
    return _UNKNOWN if value is None else (value,)


def _highest_first(value: float | None) -> Key:
    return _UNKNOWN if value is None else (-value,)


def _price_key(price: Price | None) -> Key:
    match price:
        case TokenPrice(prompt, cached, completion):
            return (0, completion, prompt, cached)
        case TimePrice(micros_per_hour):
            return (1, micros_per_hour)
        case None:
            return _UNKNOWN


@dataclass(frozen=True, slots=True)
class Place:
    """A position in an ordered list: after the provider with this key and id."""

    key: Key
    provider_id: int

    def cursor(self, walk: str) -> str:
        """The position as text, for the list with these filters and this order."""
        text = " ".join((_digest(walk), str(self.provider_id), *(repr(float(part)) for part in self.key)))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place_of(cursor: str, walk: str) -> Place:
    """The position of a cursor. Raises PAGE_NOT_FOUND if it is of another list, or of none."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        digest, provider_id, *key = text.decode().split(" ")
        place = Place(tuple(float(part) for part in key), int(provider_id))
    except ValueError:
        raise no_page("cursor") from None
    if digest != _digest(walk):
        raise no_page("cursor")
    return place


def _digest(walk: str) -> str:
    return hashlib.sha256(walk.encode()).hexdigest()[:16]
