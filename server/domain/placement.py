"""Placement: what keeps a provider from running a job, and which one gets a job that names none.

Deterministic: the same candidates give the same answer. Order: the model is warm, then reliability,
then the most free slots, then the lowest id. Price is no part of it: a job that names no provider costs
the same wherever it runs, so whoever asks for less would only buy a better place than its record earned.
A provider that asks for more than the job was quoted does not get it. Who is suspect comes after
everybody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain.jobs import NEED_IMAGE, JobType
from server.domain.providers import ProviderStatus

# A rate that no job is quoted.
NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a daemon serves."""

    name: str
    context_tokens: int = 0
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider as placement sees it."""

    provider_id: int
    free_slots: int
    job_types: frozenset[JobType]
    models: tuple[Model, ...] = ()
    gpu_model: str = ""
    vram_mib: int = 0
    vram_reserve_mib: int = 0
    """What of its memory its owner keeps: jobs see the rest."""
    own_rates: Mapping[JobType, int] = field(default_factory=dict)
    """In halala per minute, where they differ from the card."""
    is_open: bool = True
    """Within the hours in which its owner lets it take jobs."""
    is_too_hot: bool = False
    """Its GPU is hotter than its owner lets a job start on, or has not cooled down since."""
    reliability: float = 1.0
    """The part of its past attempts that succeeded, of those that were its to fail."""
    status: ProviderStatus = ProviderStatus.ONLINE
    has_session: bool = True
    has_refused: bool = False
    """It refused this very job, or let its offer expire, a moment ago."""
    hindered: Mapping[JobType, Obstacle] = field(default_factory=dict, hash=False)
    """What keeps it from whole kinds of jobs, whatever a job asks for."""
    failing_models: frozenset[str] = frozenset()
    """The models that it would serve if its self-tests passed."""
    runs_plain_processes: bool = False
    """It runs commands without their image, in no container: only for jobs that name it."""
    is_suspect: bool = False
    """What its machine reports contradicts itself, its claims or what is known: it gets jobs last."""

    @property
    def open_job_types(self) -> frozenset[JobType]:
        """The kinds of job that nothing hinders."""
        return self.job_types.difference(self.hindered)

    def least_quote(self, kind: JobType) -> int:
        """The least rate for which it takes a job that names nobody."""
        return NEVER if self.runs_plain_processes and kind in NEED_IMAGE else self.own_rates.get(kind, 0)


@dataclass(frozen=True, slots=True)
class Wants:
    """What a job needs of its provider."""

    job_type: JobType
    model: str | None = None
    gpu_model: str | None = None
    min_vram_mib: int | None = None
    quoted_halala_per_minute: int | None = None
    """What it was quoted, when it names no provider; one that does was quoted that provider's own rate."""
    names_nobody: bool = False


class Obstacle(StrEnum):
    """What keeps a provider from running a job now."""

    NONE = "NONE"
    NOT_LIVE = "NOT_LIVE"
    NO_SESSION = "NO_SESSION"
    PAUSED = "PAUSED"
    DRAINING = "DRAINING"
    NOT_ADMITTED = "NOT_ADMITTED"
    JOB_TYPE_NOT_SERVED = "JOB_TYPE_NOT_SERVED"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"
    OTHER_GPU = "OTHER_GPU"
    TOO_LITTLE_VRAM = "TOO_LITTLE_VRAM"
    BUSY = "BUSY"
    REFUSED = "REFUSED"
    OUTSIDE_HOURS = "OUTSIDE_HOURS"
    TOO_HOT = "TOO_HOT"
    RATE_ABOVE_QUOTE = "RATE_ABOVE_QUOTE"
    NO_CONTAINERS = "NO_CONTAINERS"
    VRAM_RESERVED = "VRAM_RESERVED"
    DAEMON_TOO_OLD = "DAEMON_TOO_OLD"
    DRIVER_TOO_OLD = "DRIVER_TOO_OLD"
    TOOLKIT_TOO_OLD = "TOOLKIT_TOO_OLD"
    GPUS_FAILED = "GPUS_FAILED"
    SELF_TEST_FAILED = "SELF_TEST_FAILED"


# These pass by themselves: the provider is there and can run the job.
PASSING = frozenset({Obstacle.NONE, Obstacle.REFUSED, Obstacle.BUSY})
_STANDING = {
    ProviderStatus.SUSPENDED: Obstacle.NOT_ADMITTED,
    ProviderStatus.PENDING_APPROVAL: Obstacle.NOT_ADMITTED,
    ProviderStatus.PAUSED: Obstacle.PAUSED,
    ProviderStatus.DRAINING: Obstacle.DRAINING,
    ProviderStatus.OFFLINE: Obstacle.NOT_LIVE,
}


def obstacle(candidate: Candidate, wants: Wants) -> Obstacle:
    """The first thing that keeps a provider from running a job: what lasts longest is told first."""
    if candidate.status in _STANDING:
        return _STANDING[candidate.status]
    if not candidate.has_session:
        return Obstacle.NO_SESSION
    if wants.job_type in candidate.hindered:
        return candidate.hindered[wants.job_type]
    if wants.job_type not in candidate.job_types:
        return Obstacle.JOB_TYPE_NOT_SERVED
    if wants.model is not None and all(model.name != wants.model for model in candidate.models):
        failed = wants.model in candidate.failing_models
        return Obstacle.SELF_TEST_FAILED if failed else Obstacle.MODEL_NOT_SERVED
    if wants.gpu_model is not None and wants.gpu_model.casefold() not in candidate.gpu_model.casefold():
        return Obstacle.OTHER_GPU
    if wants.min_vram_mib is not None and candidate.vram_mib < wants.min_vram_mib:
        return Obstacle.TOO_LITTLE_VRAM
    if wants.min_vram_mib is not None and vram_for_jobs_mib(candidate) < wants.min_vram_mib:
        return Obstacle.VRAM_RESERVED
    least, quoted = candidate.least_quote(wants.job_type), wants.quoted_halala_per_minute
    if least == NEVER and (wants.names_nobody or quoted is not None):
        return Obstacle.NO_CONTAINERS
    if quoted is not None and least > quoted:
        return Obstacle.RATE_ABOVE_QUOTE
    if (closed := closure(candidate)) is not Obstacle.NONE:
        return closed
    if candidate.free_slots <= 0:
        return Obstacle.BUSY
    return Obstacle.REFUSED if candidate.has_refused else Obstacle.NONE


def closure(candidate: Candidate) -> Obstacle:
    """What keeps every job from a provider for now, by its owner's settings."""
    if not candidate.is_open:
        return Obstacle.OUTSIDE_HOURS
    return Obstacle.TOO_HOT if candidate.is_too_hot else Obstacle.NONE


def vram_for_jobs_mib(candidate: Candidate) -> int:
    """The memory that jobs see."""
    return max(0, candidate.vram_mib - candidate.vram_reserve_mib)


def can_run(candidate: Candidate, wants: Wants) -> bool:
    """Whether the provider is there, serves the type and model and has the GPU that the job asks for."""
    return obstacle(candidate, wants) in PASSING


def ranked(candidates: Iterable[Candidate], wants: Wants) -> list[Candidate]:
    """The providers that can run the job now, the best first."""

    def rank(candidate: Candidate) -> tuple[bool, bool, float, int, int]:
        warm = any(model.warm and model.name == wants.model for model in candidate.models)
        return (
            candidate.is_suspect,
            not warm,
            -candidate.reliability,
            -candidate.free_slots,
            candidate.provider_id,
        )

    return sorted((c for c in candidates if obstacle(c, wants) is Obstacle.NONE), key=rank)


def choose(candidates: Iterable[Candidate], wants: Wants) -> Candidate | None:
    """The best provider with a free slot; None when no one has."""
    return next(iter(ranked(candidates, wants)), None)
