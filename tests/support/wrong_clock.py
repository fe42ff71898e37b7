"""Runs dcp-server on a machine whose clock is wrong: python -m tests.support.wrong_clock SECONDS PROGRAM.

Only what server.clock reads is moved, which is all that the server knows of the time of day.
"""

from __future__ import annotations

import runpy
import sys
import time
from types import SimpleNamespace

import server.clock


def main() -> None:
    """Moves the clock and runs the program in this process."""
    seconds, program, *arguments = sys.argv[1:]
    wrong = SimpleNamespace(time=lambda: time.time() + float(seconds), monotonic=time.monotonic)
    server.clock.time = wrong  # type: ignore[attr-defined,assignment]
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
