"""Which version this is, and whether a daemon's is older. Daemons are released with the server."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

try:
    CURRENT = version("dcp-marketplace")
except PackageNotFoundError:  # run from a checkout that was never installed
    CURRENT = "0"


def is_older(reported: str) -> bool:
    """Whether a daemon's version is before this server's; one that it does not tell, or cannot, is not."""
    theirs = _numbers(reported)
    return bool(theirs) and theirs < _numbers(CURRENT)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,3}", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
