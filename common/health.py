"""The command ``health`` of each program: what it prints, and its exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

HEALTHY, UNHEALTHY = 0, 1
_AGAIN_SECONDS = 0.5
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def report(fault: Callable[[], str], wait_seconds: float) -> int:
    """Prints how the program is. ``fault`` says what is wrong, and is asked again for ``wait_seconds``.

    Returns the exit status: 0 as soon as nothing is wrong, else 1.
    """
    deadline = time.monotonic() + wait_seconds
    while found := fault():
        if time.monotonic() >= deadline:
            sys.stdout.write(f"unhealthy: {found}\n")
            return UNHEALTHY
        time.sleep(_AGAIN_SECONDS)
    sys.stdout.write("healthy\n")
    return HEALTHY


def own_address(host: str) -> str:
    """Where a program that listens on ``host`` is reached on its own machine."""
    return _EVERYWHERE.get(host, host)
