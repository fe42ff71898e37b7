"""Sets the process's logging up: lines with a time for people, lines with a severity for the journal.

It must not log anything itself.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from common.logs import TEXT, formatter

_JOURNAL = "%(name)s %(message)s"


class JournalFormatter(logging.Formatter):
    """The severity as systemd reads it, before every line, since the journal makes an entry of each."""

    def __init__(self, lines: logging.Formatter) -> None:
        """``lines`` writes them."""
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, without a time: the journal has its own."""
        prefix = f"<{_severity(record.levelno)}>"
        return "\n".join(prefix + line for line in self._lines.format(record).splitlines())


def set_up(
    level: str, environ: Mapping[str, str], stream: TextIO = sys.stderr, *, format_: str = TEXT
) -> None:
    """Logs to `stream` from this level on, in this format."""
    handler = logging.StreamHandler(stream)
    is_journal = leads_to_journal(environ, stream)
    lines = formatter(format_, _JOURNAL) if is_journal else formatter(format_)
    handler.setFormatter(JournalFormatter(lines) if is_journal else lines)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # httpx logs every request at INFO, which is traffic to us.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def report_fault(text: str, environ: Mapping[str, str], stream: TextIO) -> None:
    """Writes why the program ends; in the journal every line is an error."""
    prefix = f"<{_severity(logging.ERROR)}>" if leads_to_journal(environ, stream) else ""
    stream.write("".join(f"{prefix}{line}\n" for line in text.splitlines()))


def leads_to_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether this very stream is the one that systemd connected to its journal."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _severity(level: int) -> int:
    """Of syslog: 3 error, 4 warning, 6 info, 7 debug."""
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7
