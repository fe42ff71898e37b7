"""How far daemons are with what runs need before their start. Pure; what is known of it is never stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from server.domain.jobs import Job, JobState

LEAST_MS = 1000
"""Between two reports of one run; what comes earlier is dropped."""
_TEXT = re.compile(r"(\S{1,100}) (\d{1,9}) (\w{1,20}) (\d{1,19}) (\d{1,19}) (\d{1,15})", re.ASCII)


class PreparationStep(StrEnum):
    """What is being fetched."""

    INPUTS = "inputs"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Preparation:
    """How far a run is with one step."""

    step: PreparationStep
    done_bytes: int
    total_bytes: int
    """0: not known."""
    at_ms: int

    def is_of(self, job: Job) -> bool:
        """Whether the job is still being prepared, so that this says something about it."""
        return job.state is JobState.ASSIGNED


_STEPS = frozenset(step.value for step in PreparationStep)


def as_text(job_id: str, lease_epoch: int, found: Preparation) -> str:
    """A report as one line for other servers."""
    numbers = f"{found.done_bytes} {found.total_bytes} {found.at_ms}"
    return f"{job_id} {lease_epoch} {found.step.value} {numbers}"


def from_text(text: str) -> tuple[str, int, Preparation] | None:
    """The job, the lease's epoch and the report in a line; None for any other text."""
    found = _TEXT.fullmatch(text)
    if found is None or found[3] not in _STEPS:
        return None
    done, total, at_ms = (int(number) for number in found.groups()[3:])
    return found[1], int(found[2]), Preparation(PreparationStep(found[3]), done, total, at_ms)
