"""What a transaction did, to be counted and traced after its commit: what was rolled back did not happen.

Like the notes of `changes` these belong to the thread, in which a transaction runs. A part that is undone
takes its own with it.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from common.tracing import Past


class Count(NamedTuple):
    """An addition to a counter of server.telemetry."""

    name: str
    labels: tuple[str, ...]
    by: int


_notes = threading.local()


def note(name: str, *labels: str, by: int = 1) -> None:
    """Notes an addition, if the present transaction is committed."""
    _noted().append(Count(name, labels, by))


def note_span(span: Past) -> None:
    """Notes the span of what has ended, if the present transaction is committed."""
    _noted().append(span)


def mark() -> int:
    """The place from which a part of the transaction notes."""
    return len(_noted())


def undo(to: int = 0) -> None:
    """Forgets what was noted since the mark, as it did not happen."""
    del _noted()[to:]


def take() -> list[Count | Past]:
    """What was noted in this thread since the last call."""
    noted = _noted()
    _notes.counts = []
    return noted


def _noted() -> list[Count | Past]:
    noted: list[Count | Past] | None = getattr(_notes, "counts", None)
    if noted is None:
        noted = _notes.counts = []
    return noted
