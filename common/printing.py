"""What the programs print: whatever the terminal's encoding cannot express is escaped and ends no program."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """From now on no text that is printed raises UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
