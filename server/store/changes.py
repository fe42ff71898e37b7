"""Which jobs a transaction changes, so that their watchers hear of it after the commit.

The functions that write a job, its lease or its output note it here, so no use case can forget to. The notes
belong to the thread: a transaction runs in one. A note of a part that was undone does no harm: it only says
where to look.
"""

from __future__ import annotations

import threading

_notes = threading.local()


def note(job_id: str) -> None:
    """Notes that the present transaction changes a job."""
    jobs: set[str] | None = getattr(_notes, "jobs", None)
    if jobs is None:
        jobs = _notes.jobs = set()
    jobs.add(job_id)


def take() -> set[str]:
    """The jobs noted in this thread since the last call."""
    jobs: set[str] = getattr(_notes, "jobs", None) or set()
    _notes.jobs = set()
    return jobs
