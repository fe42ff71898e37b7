"""Placement: the obstacles between a job and a provider, and the choice for a job that names no provider.

The choice is deterministic: the same candidates give the same answer. The order is standing, warm model,
reliability in steps of a tenth, most free slots, lowest id. The price does not matter: a job that names
no provider costs the same on each of them, so a lower rate would only buy a provider a better place than its
reliability earned. A provider whose own rate is above the job's quote does not get the job. This module does
not know the queue or the store.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from common.images import ImageNameError, is_allowed, parse
from server.domain.gpu_models import satisfies
from server.domain.jobs import NEED_IMAGE, OF_MODELS, JobRequest, JobType
from server.domain.levels import Standing, Unasked, tier
from server.domain.pricing import NO_PRICES, Price, Prices
from server.domain.providers import ProviderStatus
from server.domain.reliability import NO_RECORD, TrackRecord

Rank = tuple[int, bool, int, int, int, int]
# What a model serves of which its daemon says nothing.
CHATS = frozenset({JobType.LLM_INFERENCE})


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a daemon serves."""

    name: str
    context_tokens: int = 0
    warm: bool = False
    job_types: frozenset[JobType] = CHATS
    """Those that it serves, of the types that models serve."""

    def serves(self, kind: JobType) -> bool:
        """Whether it is one for jobs of this type."""
        return kind in self.job_types or kind not in OF_MODELS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider as placement sees it."""

    provider_id: int
    free_slots: int
    job_types: frozenset[JobType]
    models: tuple[Model, ...] = ()
    gpu_model: str = ""
    vram_mib: int | None = None
    """The memory of its first GPU; None if it is not known."""
    vram_reserve_mib: int = 0
    """GPU memory reserved for the owner, in MiB; jobs may use the rest."""
    own_prices: Prices = NO_PRICES
    """Its own, where they differ from the platform's."""
    is_open: bool = True
    """Whether it is within the hours in which its owner lets it take jobs."""
    is_too_hot: bool = False
    """Whether its GPU exceeded the temperature that its owner allows, and has not cooled down since."""
    record: TrackRecord = NO_RECORD
    """Of its newest attempts."""
    status: ProviderStatus = ProviderStatus.ONLINE
    has_session: bool = True
    has_refused: bool = False
    """Whether it recently refused this job, or let an offer of it expire."""
    hindered: Mapping[JobType, Obstacle] = field(default_factory=dict, hash=False)
    """The job types that it gets no jobs of, whatever a job asks for, each with the obstacle."""
    failing_models: frozenset[str] = frozenset()
    """The models that it would serve if its self-tests passed."""
    image_patterns: tuple[str, ...] | None = None
    """Of the images that its owner allows; None if its daemon does not report them."""
    architecture: str = ""
    """Its processor, as images name it; empty if its daemon does not report it."""
    runs_plain_processes: bool = False
    """Whether it runs commands as plain processes, without a container: only for jobs that name it."""
    standing: Standing = Standing.NEW
    """As which it gets jobs that name nobody."""
    is_checked: bool = True
    """False: it is new, and its standing is low because no check of its work passed yet."""
    free_since_ms: int | None = None
    """Since when it has had a free slot; None: it has none, or it is not known."""
    value_left_micros: int | None = None
    """What the holds of further jobs that name no provider may come to; None: no bound now."""

    @property
    def open_job_types(self) -> frozenset[JobType]:
        """Its job types without those that are hindered."""
        return self.job_types.difference(self.hindered)


@dataclass(frozen=True, slots=True)
class Wants:
    """What a job requires of its provider."""

    job_type: JobType
    model: str | None = None
    gpu_model: str | None = None
    min_vram_mib: int | None = None
    quoted: Price | None = None
    """The quote of a job that names no provider; None if it names one, which gets its own price."""
    image: str | None = None
    """The image of a job that brings one, by its full name."""
    architecture: str | None = None
    """The processor that the image is for, if the job says so."""
    unasked: Unasked | None = None
    """Which providers get it; None if it names one."""
    least_standing: Standing | None = None
    """Set by whoever knows which providers are there: the least standing that gets it now."""


def wants_for(request: JobRequest) -> Wants:
    """What a new job requires, but for its quote."""
    return Wants(
        request.job_type,
        request.model,
        request.gpu_model,
        request.min_vram_mib,
        image=request.image,
        architecture=request.architecture,
        unasked=None if request.provider_id is not None else request.unasked or Unasked.BEST,
    )


class Obstacle(StrEnum):
    """Why a job cannot run on a provider now."""

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
    VRAM_UNKNOWN = "VRAM_UNKNOWN"
    DAEMON_TOO_OLD = "DAEMON_TOO_OLD"
    DRIVER_TOO_OLD = "DRIVER_TOO_OLD"
    TOOLKIT_TOO_OLD = "TOOLKIT_TOO_OLD"
    GPUS_FAILED = "GPUS_FAILED"
    SELF_TEST_FAILED = "SELF_TEST_FAILED"
    TWO_DAEMONS = "TWO_DAEMONS"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    OTHER_ARCHITECTURE = "OTHER_ARCHITECTURE"
    STANDING_TOO_LOW = "STANDING_TOO_LOW"
    VALUE_AT_RISK = "VALUE_AT_RISK"


# These obstacles pass by themselves: the provider is connected and able to run the job.
PASSING = frozenset({Obstacle.NONE, Obstacle.REFUSED, Obstacle.BUSY, Obstacle.VALUE_AT_RISK})
# These depend on what the job asks for: waiting longer for the same provider does not help.
OF_THE_JOB = frozenset(
    {
        Obstacle.JOB_TYPE_NOT_SERVED,
        Obstacle.MODEL_NOT_SERVED,
        Obstacle.IMAGE_NOT_ALLOWED,
        Obstacle.OTHER_ARCHITECTURE,
        Obstacle.OTHER_GPU,
        Obstacle.TOO_LITTLE_VRAM,
        Obstacle.VRAM_UNKNOWN,
    }
)
_STANDING = {
    ProviderStatus.SUSPENDED: Obstacle.NOT_ADMITTED,
    ProviderStatus.PENDING_APPROVAL: Obstacle.NOT_ADMITTED,
    ProviderStatus.PAUSED: Obstacle.PAUSED,
    ProviderStatus.DRAINING: Obstacle.DRAINING,
    ProviderStatus.OFFLINE: Obstacle.NOT_LIVE,
}


def obstacle(candidate: Candidate, wants: Wants) -> Obstacle:
    """The first obstacle between a provider and a job; obstacles that last longer are checked first."""
    if candidate.status in _STANDING:
        return _STANDING[candidate.status]
    if not candidate.has_session:
        return Obstacle.NO_SESSION
    if wants.job_type in candidate.hindered:
        return candidate.hindered[wants.job_type]
    if wants.job_type not in candidate.job_types:
        return Obstacle.JOB_TYPE_NOT_SERVED
    if wants.model is not None and not serves(candidate.models, wants.model, wants.job_type):
        failed = wants.model in candidate.failing_models
        return Obstacle.SELF_TEST_FAILED if failed else Obstacle.MODEL_NOT_SERVED
    if wants.image is not None and not allows(candidate.image_patterns, wants.image):
        return Obstacle.IMAGE_NOT_ALLOWED
    if wants.architecture is not None and candidate.architecture != wants.architecture:
        return Obstacle.OTHER_ARCHITECTURE
    by_gpu = gpu_obstacle(candidate.gpu_model, candidate.vram_mib, candidate.vram_reserve_mib, wants)
    if by_gpu is not Obstacle.NONE:
        return by_gpu
    plain, gpu = candidate.runs_plain_processes, candidate.gpu_model
    by_price = price_obstacle(candidate.own_prices, gpu, wants, runs_plain_processes=plain)
    if by_price is not Obstacle.NONE:
        return by_price
    if not reaches(candidate.standing, wants):
        return Obstacle.STANDING_TOO_LOW
    if (by_owner := owners_obstacle(candidate)) is not Obstacle.NONE:
        return by_owner
    if candidate.free_slots <= 0:
        return Obstacle.BUSY
    if (
        wants.unasked is not None
        and candidate.value_left_micros is not None
        and candidate.value_left_micros <= 0
    ):
        return Obstacle.VALUE_AT_RISK
    return Obstacle.REFUSED if candidate.has_refused else Obstacle.NONE


def serves(models: Iterable[Model], name: str, kind: JobType) -> bool:
    """Whether one of the models is the one of a job, and serves jobs of its type."""
    return any(model.name == name and model.serves(kind) for model in models)


def reaches(standing: Standing, wants: Wants) -> bool:
    """Whether a standing is enough for a job: always, if the job names its provider."""
    return wants.least_standing is None or standing.reaches(wants.least_standing)


def value_left_micros(bound_micros: int | None, open_micros: int) -> int | None:
    """What the holds of further unasked jobs may come to. One job is always allowed, whatever it holds."""
    return bound_micros - open_micros if bound_micros is not None and open_micros else None


def price_obstacle(own: Prices, gpu_model: str, wants: Wants, *, runs_plain_processes: bool) -> Obstacle:
    """The obstacle between a job and what a provider takes for it, or how it runs it."""
    names_nobody = wants.unasked is not None or wants.quoted is not None
    if names_nobody and runs_plain_processes and wants.job_type in NEED_IMAGE:
        return Obstacle.NO_CONTAINERS
    asks = own.of(wants.job_type, wants.model, gpu_model) if wants.quoted is not None else None
    is_met = asks is None or wants.quoted is None or asks.is_within(wants.quoted)
    return Obstacle.NONE if is_met else Obstacle.RATE_ABOVE_QUOTE


def gpu_obstacle(gpu_model: str, vram_mib: int | None, vram_reserve_mib: int, wants: Wants) -> Obstacle:
    """The obstacle between a job and a GPU with this memory, of which the owner reserves a part."""
    if wants.gpu_model is not None and not satisfies(gpu_model, vram_mib, wants.gpu_model):
        return Obstacle.OTHER_GPU
    if wants.min_vram_mib is None:
        return Obstacle.NONE
    if vram_mib is None:
        return Obstacle.VRAM_UNKNOWN if gpu_model else Obstacle.TOO_LITTLE_VRAM
    if vram_mib < wants.min_vram_mib:
        return Obstacle.TOO_LITTLE_VRAM
    is_reserved = vram_mib - vram_reserve_mib < wants.min_vram_mib
    return Obstacle.VRAM_RESERVED if is_reserved else Obstacle.NONE


@functools.lru_cache(maxsize=4096)
def allows(patterns: tuple[str, ...] | None, image: str) -> bool:
    """Whether an owner's patterns allow an image; what a daemon does not report, it decides itself."""
    if patterns is None:
        return True
    try:
        return is_allowed(parse(image), patterns)
    except ImageNameError:
        return False


def owners_obstacle(candidate: Candidate) -> Obstacle:
    """The obstacle that the owner's settings put before every job of this provider now."""
    return settings_obstacle(is_open=candidate.is_open, is_too_hot=candidate.is_too_hot)


def settings_obstacle(*, is_open: bool, is_too_hot: bool) -> Obstacle:
    """The obstacle that follows from an owner's settings: hours, then temperature."""
    if not is_open:
        return Obstacle.OUTSIDE_HOURS
    return Obstacle.TOO_HOT if is_too_hot else Obstacle.NONE


def vram_for_jobs_mib(vram_mib: int | None, reserve_mib: int) -> int | None:
    """The GPU memory that jobs may use: all but what is reserved for the owner; None if it is not known."""
    return None if vram_mib is None else max(0, vram_mib - reserve_mib)


def can_run(candidate: Candidate, wants: Wants) -> bool:
    """Whether the provider is able to run the job, now or as soon as a slot is free."""
    return obstacle(candidate, wants) in PASSING


def able(candidates: Iterable[Candidate], wants: Wants) -> Iterator[Candidate]:
    """Those that can run the job now, in their order."""
    return (candidate for candidate in candidates if obstacle(candidate, wants) is Obstacle.NONE)


class Ranked(Protocol):
    """What decides a provider's place among those that can run a job."""

    @property
    def provider_id(self) -> int: ...
    @property
    def free_slots(self) -> int: ...
    @property
    def record(self) -> TrackRecord: ...
    @property
    def standing(self) -> Standing: ...
    @property
    def models(self) -> tuple[Model, ...]: ...


def rank(provider: Ranked, model: str | None) -> Rank:
    """A provider's place among those that can run a job with this model: the lowest is the best."""
    warm = any(served.warm and served.name == model for served in provider.models)
    return (
        -tier(provider.standing).level,
        not warm,
        # In steps: a share that is better by a hair must not send every job to the same machine. Of those
        # that have proved nothing, the unknown come before those that failed.
        -math.floor(10 * provider.record.lower),
        -math.floor(10 * provider.record.upper),
        -provider.free_slots,
        provider.provider_id,
    )
