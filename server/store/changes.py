"""What a transaction changes that others wait for: jobs with watchers, and outboxes of webhooks.

The functions that write a job, its lease or its output, or that make an outbox due, note it here, so no use
case can forget to. The notes belong to the thread: a transaction runs in one. A note of a part that was
undone does no harm: it only says where to look.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

_notes = threading.local()


@dataclass(slots=True)
class Changed:
    """The ids of jobs that changed, and of the owners of outboxes in which an event is due now."""

    jobs: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    """Jobs with a new chunk, which was shown while it was stored: who has seen it need not look."""
    outboxes: set[int] = field(default_factory=set)


def note(job_id: str) -> None:
    """Notes that the present transaction changes a job."""
    _noted().jobs.add(job_id)


def note_text(job_id: str) -> None:
    """Notes that the present transaction adds a chunk to a channel of a job."""
    _noted().texts.add(job_id)


def note_outbox(owner_id: int) -> None:
    """Notes that the present transaction makes an outbox due."""
    _noted().outboxes.add(owner_id)


def take() -> Changed | None:
    """What was noted in this thread since the last call; None if nothing was."""
    changed: Changed | None = getattr(_notes, "changed", None)
    _notes.changed = None
    return changed


def _noted() -> Changed:
    changed: Changed | None = getattr(_notes, "changed", None)
    if changed is None:
        changed = _notes.changed = Changed()
    return changed
