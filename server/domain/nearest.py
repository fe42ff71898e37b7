"""Which known name a caller probably meant by one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 300


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean X?` with the closest known name, whatever its case, or the other text."""
    names = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name[:_LONGEST].casefold(), names, 1)
    return f"did you mean {names[close[0]]}?" if close else otherwise
