"""How many tokens a conversation probably has, learned from those whose tokens were counted. In memory."""

from __future__ import annotations

from collections import OrderedDict

MODELS = 1000
USUAL = 0.25
"""Tokens a byte, of most models and texts."""
_WEIGHT = 0.1
"""Of a newly counted conversation beside those before."""


class Lengths:
    """The tokens a byte of each model's conversations."""

    def __init__(self) -> None:
        self._ratios: OrderedDict[str, float] = OrderedDict()

    def note(self, model: str, size_bytes: int, tokens: int) -> None:
        """A conversation of so many bytes had so many tokens."""
        if not size_bytes or not tokens:
            return
        before, now = self._ratios.pop(model, None), min(1.0, tokens / size_bytes)
        self._ratios[model] = now if before is None else before + _WEIGHT * (now - before)
        if len(self._ratios) > MODELS:
            self._ratios.popitem(last=False)

    def estimate(self, model: str, size_bytes: int) -> int:
        """The tokens of a conversation of so many bytes; at least 1."""
        return max(1, round(size_bytes * self._ratios.get(model, USUAL)))
