"""Prices in US dollars, by the operator's rate, as exact decimal numbers. Pure.

Nothing is paid in dollars. What is not a finite decimal number is rounded up: no price is shown too low.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from server.domain.money import SAR
from server.domain.pricing import MILLION, MINUTES, TimePrice, TokenPrice

DEFAULT_SAR_PER_USD = Decimal("3.75")
DECIMALS = 20
_RATE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenDollars:
    """What a token costs, in US dollars: of the prompt, of its cached part, and of the answer."""

    prompt: str
    cached: str
    completion: str


def rate(text: str) -> Decimal:
    """How many SAR are a US dollar. Raises ValueError, with what it must be."""
    if not _RATE.fullmatch(text) or not Decimal(text):
        raise ValueError(
            "must be how many SAR are a US dollar, such as 3.75: more than 0, below 10000, "
            "with at most 6 decimals"
        )
    return Decimal(text)


def of_tokens(price: TokenPrice, sar_per_usd: Decimal) -> TokenDollars:
    """A price by tokens, for each token."""
    amounts = (price.prompt, price.cached, price.completion)
    return TokenDollars(*(_dollars(Fraction(micros, MILLION), sar_per_usd) for micros in amounts))


def of_minute(price: TimePrice, sar_per_usd: Decimal) -> str:
    """A price by time, for a minute."""
    return _dollars(Fraction(price.micros_per_hour, MINUTES), sar_per_usd)


def _dollars(micros: Fraction, sar_per_usd: Decimal) -> str:
    exact = micros / SAR / Fraction(sar_per_usd) * 10**DECIMALS
    digits = str(-(-exact.numerator // exact.denominator)).rjust(DECIMALS + 1, "0")
    decimals = digits[-DECIMALS:].rstrip("0")
    return digits[:-DECIMALS] + (f".{decimals}" if decimals else "")
