"""Amounts in expected answers."""

from __future__ import annotations

from typing import Any


def exact(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with the exact field beside each whole amount, where no part of a halala is left."""
    amounts = {name: value for name, value in answer.items() if name.endswith("_halala")}
    micros = {name.replace("_halala", "_micro_halala"): value * 10**6 for name, value in amounts.items()}
    return answer | micros
