"""Prices, and the amounts calculated from them: hold, charge and shares.

A job has one price, fixed when it is submitted: by time, or, where its model has one, by tokens. The most
specific counts: the provider's own before the platform's, by GPU before by job type. Money is integer micros
of a halala (server.domain.money), time is integer milliseconds, and every calculation is exact: a charge by
time is rounded up once to a whole halala, one by tokens is not rounded at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from server.domain.jobs import BY_TOKENS, NEED_IMAGE, JobType
from server.domain.money import MICROS, SAR, micros, text, whole_halala

K = TypeVar("K")
V = TypeVar("V")

RATE_HALALA_PER_MINUTE: dict[JobType, int] = {
    JobType.LLM_INFERENCE: 150,
    JobType.IMAGE_GENERATION: 200,
    JobType.TRAINING: 250,
    JobType.RENDERING: 200,
    JobType.BENCHMARK: 100,
    JobType.CUSTOM_CONTAINER: 100,
    JobType.VLLM_SERVE: 200,
    JobType.EMBEDDINGS: 100,
}
PROVIDER_PERCENT = 75
MS_PER_HOUR = 3_600_000
MINUTES = 60
MILLION = 1_000_000
_DECIMAL = re.compile(r"[0-9]{1,7}(\.[0-9]{1,8})?", re.ASCII)
# Parts of a micro: a price for a million tokens in micros is a price for one token in these.
PARTS = MILLION


@dataclass(frozen=True, slots=True)
class TimePrice:
    """A price for the time that a job runs, in micros an hour."""

    micros_per_hour: int

    @property
    def text(self) -> str:
        """As it is stored."""
        return f"hour:{self.micros_per_hour}"

    @property
    def halala_per_minute(self) -> int:
        """The same a minute, rounded up."""
        return -(-self.micros_per_hour // (MINUTES * MICROS))

    def is_within(self, quote: Price) -> bool:
        """Whether a job with this quote pays at least this price. By another measure, the quote counts."""
        return not isinstance(quote, TimePrice) or self.micros_per_hour <= quote.micros_per_hour

    def cost_micros(self, time_ms: int) -> int:
        """The price of a run time, rounded up to a whole halala."""
        return -(-self.micros_per_hour * time_ms // (MS_PER_HOUR * MICROS)) * MICROS

    def longest_ms(self, cost_halala: int) -> int:
        """The longest run whose cost is at most this amount."""
        return micros(cost_halala) * MS_PER_HOUR // self.micros_per_hour


@dataclass(frozen=True, slots=True)
class Counts:
    """The tokens of a run: those of the prompt, of which some were cached, and those of the answer."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """A price for tokens, in micros for a million: of the prompt, of its cached part, and of the answer."""

    prompt: int
    cached: int
    completion: int

    @property
    def text(self) -> str:
        """As it is stored."""
        return f"tokens:{self.prompt}:{self.cached}:{self.completion}"

    @property
    def halala_per_minute(self) -> int:
        """Time costs nothing."""
        return 0

    def is_within(self, quote: Price) -> bool:
        """Whether a job with this quote pays at least this price. By another measure, the quote counts."""
        return not isinstance(quote, TokenPrice) or (
            self.prompt <= quote.prompt
            and self.cached <= quote.cached
            and self.completion <= quote.completion
        )

    def cost_parts(self, counts: Counts) -> int:
        """The price of tokens in parts of a micro, exactly."""
        cached = min(counts.cached, counts.prompt)
        return (
            (counts.prompt - cached) * self.prompt
            + cached * self.cached
            + counts.completion * self.completion
        )

    def hold_micros(self, counts: Counts) -> int:
        """The least hold that is enough for these tokens, none of them cached, whatever parts are carried."""
        dearest = Counts(counts.prompt, counts.completion, counts.prompt if self.cached > self.prompt else 0)
        return self.cost_parts(dearest) // PARTS + 1

    def most_completion(self, prompt: int, hold_micros: int) -> int:
        """The most tokens of an answer for which a hold is enough; negative if it is not for the prompt."""
        left = hold_micros * PARTS - 1 - prompt * max(self.prompt, self.cached)
        return left // self.completion if self.completion and left >= 0 else -1


Price = TimePrice | TokenPrice


def per_minute(halala: int) -> TimePrice:
    """A price in halala a minute."""
    return TimePrice(halala * MINUTES * MICROS)


def parse(text: str) -> Price:
    """A price as it is stored; of older jobs, that is the halala a minute."""
    measure, _, numbers = text.partition(":")
    if measure == "tokens":
        prompt, cached, completion = map(int, numbers.split(":"))
        return TokenPrice(prompt, cached, completion)
    return TimePrice(int(numbers)) if measure == "hour" else per_minute(int(text))


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one party: of a provider, its own; of the platform, those of everybody without an own one."""

    rates: Mapping[JobType, int] = field(default_factory=dict)
    """By job type, in halala a minute."""
    gpu_hours: Mapping[str, int] = field(default_factory=dict)
    """By GPU model, in micros for an hour of a GPU."""
    tokens: Mapping[str, TokenPrice] = field(default_factory=dict)
    """By model."""

    def of(self, kind: JobType, model: str | None, gpu_model: str | None, gpus: int = 1) -> Price | None:
        """The price of such a job; None if there is none."""
        if kind in BY_TOKENS and (by_tokens := self.tokens.get(model or "")) is not None:
            return by_tokens
        if kind in NEED_IMAGE and (per_hour := self.gpu_hours.get(gpu_model or "")) is not None:
            return TimePrice(per_hour * gpus)
        return per_minute(self.rates[kind]) if kind in self.rates else None


NO_PRICES = Prices()


def with_entry(before: Mapping[K, V], key: K, value: V | None) -> dict[K, V]:
    """The same prices with another one; None: without that."""
    others = {other: kept for other, kept in before.items() if other != key}
    return others if value is None else {**others, key: value}


def of_provider(
    own: Prices,
    card: Prices,
    kind: JobType,
    model: str | None,
    gpu_model: str | None,
    gpus: int = 1,
    *,
    is_verified: bool,
) -> Price:
    """The price of a job that names a provider: its own, or the platform's.

    A GPU that is only claimed makes no job dearer.
    """
    if (price := own.of(kind, model, gpu_model, gpus)) is not None:
        return price
    by_gpu, by_type = (card.of(kind, model, name, gpus) for name in (gpu_model, None))
    if by_gpu is None or by_type is None:
        raise ValueError("each job type has a rate")
    return by_gpu if is_verified or by_gpu.is_within(by_type) else by_type


def sar(micros_: int) -> str:
    """An amount in micros in SAR, with as many decimals as it needs: "0.6"."""
    return text(micros_, unit=SAR)


def sar_micros(amount: str) -> int:
    """A decimal number of SAR in micros. Raises ValueError, with what it must be."""
    if not _DECIMAL.fullmatch(amount):
        raise ValueError("must be a decimal number of SAR such as 0.6, with at most 8 decimals")
    whole, _, decimals = amount.partition(".")
    return int(whole + decimals.ljust(8, "0"))


def words(price: Price | None) -> str:
    """A price for people."""
    match price:
        case None:
            return "the platform's price"
        case TokenPrice(prompt, cached, completion):
            amounts = f"{sar(prompt)} ({sar(cached)} if cached) and {sar(completion)} SAR"
            return f"{amounts} for a million input and output tokens"
        case TimePrice(micros_per_hour) if micros_per_hour % (MINUTES * MICROS) == 0:
            return f"{price.halala_per_minute} halala per minute"
        case TimePrice(micros_per_hour):
            return f"{sar(micros_per_hour)} SAR per hour"


def gpu_count(spec: Mapping[str, Any]) -> int:
    """How many GPUs a request asks for, at least one."""
    return max(1, int(spec.get("container_spec", {}).get("gpu_count", 1)))


def billed_ms(daemon_ms: int, server_ms: int, limit_ms: int) -> int:
    """The time to bill: the shortest of the daemon's run time, the server's own measure and the limit."""
    return max(0, min(daemon_ms, server_ms, limit_ms))


def shares(charge: int) -> tuple[int, int]:
    """The provider's and the platform's share of a charge in micros; they sum to it exactly."""
    payout = (charge * PROVIDER_PERCENT + 50) // 100
    return payout, charge - payout


def whole_shares(charge: int) -> tuple[int, int]:
    """Both shares of a charge in micros as whole halala, rounded, which sum to its whole halala."""
    return shares(whole_halala(charge))
