"""Sets up the server's log: whole stacks only once. How lines are written is in common.logs."""

from __future__ import annotations

import logging
import sys

from common.logs import TEXT, formatter

# After this time without it, a fault is logged with its whole stack again.
QUIET_SECONDS = 300.0


def set_up(level: str, format_: str = TEXT) -> None:
    """Logs to the error stream from this level on, in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(CountedStacks())
    handler.setFormatter(formatter(format_))
    logging.basicConfig(level=level, handlers=[handler])
    # At debug, peewee logs statements with their values, which include prompts and names.
    logging.getLogger("peewee").setLevel(logging.INFO)


class CountedStacks(logging.Filter):
    """Leaves the first line of each kind of fault its stack, and gives the following ones a number.

    A kind is a message before its values are filled in, and a class of exceptions, so there are few. In an
    outage every call fails the same way; its line stays, with the request's id.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str, object], tuple[int, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; changes the record."""
        if not record.exc_info:
            return True
        kind = (record.name, str(record.msg), record.exc_info[0])
        count, last = self._seen.get(kind, (0, 0.0))
        count = count + 1 if record.created - last < QUIET_SECONDS else 1
        self._seen[kind] = (count, record.created)
        if count > 1:
            fault = record.exc_info[0].__name__ if record.exc_info[0] is not None else "a fault"
            record.msg = f"{record.msg} ({fault} no. {count}; the stack stands at the first)"
            record.exc_info, record.exc_text = None, None
        return True
