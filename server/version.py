"""Which version this is, and whether a daemon's is older. Daemons are released with the server."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

try:
    CURRENT = version("dcp-marketplace")
except PackageNotFoundError:  # run from a checkout that was never installed
    CURRENT = "0"


def is_older(reported: str, newest: str = CURRENT) -> bool:
    """Whether a daemon's version is before the newest; one that it does not tell, or cannot, is not."""
    theirs = numbers(reported)
    return bool(theirs) and theirs < numbers(newest)


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at their end, for comparing; none: no version."""
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,3}", text)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return tuple(parts)
