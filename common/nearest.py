"""Owns which known name a caller probably meant by one that is unknown. It costs little whatever is asked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 300


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known names that are closest to the name, whatever its case; empty if none is close."""
    names = {each.casefold(): each for each in known}
    return [names[close] for close in difflib.get_close_matches(name[:LONGEST].casefold(), names, count)]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean X?` with the closest known name, or the other text."""
    close = nearest(name, known)
    return f"did you mean {close[0]}?" if close else otherwise
