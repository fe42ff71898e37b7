"""The ledger's unit: micros, millionths of a halala. Pure.

Everything inside counts micros, so that shares and prices below a halala are exact. At the border amounts are
halala: what comes in is whole, and what goes out is cut toward zero, with the exact micros beside it.
"""

from __future__ import annotations

MICROS = 1_000_000
SAR = 100 * MICROS
# The most that one account may hold: inside a 64-bit integer, and 90 billion SAR.
MAX_BALANCE_HALALA = 9 * 10**12
MAX_BALANCE_MICROS = MAX_BALANCE_HALALA * MICROS


def micros(halala: int) -> int:
    """Halala in micros."""
    return halala * MICROS


def whole_halala(amount: int) -> int:
    """The whole halala of an amount in micros; the rest of a debt or a charge is cut off too."""
    return amount // MICROS if amount >= 0 else -(-amount // MICROS)


def halala_up(amount: int) -> int:
    """An amount in micros in whole halala, rounded up."""
    return -(-amount // MICROS)


def whole_or_none(amount: int | None) -> int | None:
    """The same, of an amount that may be missing."""
    return None if amount is None else whole_halala(amount)


def text(amount: int, unit: int = MICROS) -> str:
    """An amount in micros as halala, or another power of ten, with as many decimals as it needs: "30.75"."""
    sign, rest = "-" * (amount < 0), abs(amount)
    decimals = str(unit + rest % unit)[1:].rstrip("0")
    return f"{sign}{rest // unit}" + (f".{decimals}" if decimals else "")
