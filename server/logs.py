"""Sets up the server's log: lines with a time, and whole stacks only once."""

from __future__ import annotations

import logging
import sys

# After this time without it, a fault is logged with its whole stack again.
QUIET_SECONDS = 300.0


def set_up(level: str) -> None:
    """Logs to the error stream from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(CountedStacks())
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", handlers=[handler]
    )
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
