"""Placement: which provider gets a job that names none, and whether one can run a job at all.

Deterministic: the same candidates give the same answer. Order: the model is warm, then the most
free slots, then the lowest id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.domain.jobs import JobType


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a daemon serves."""

    name: str
    context_tokens: int = 0
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider with a session, as placement sees it."""

    provider_id: int
    free_slots: int
    job_types: frozenset[JobType]
    models: tuple[Model, ...] = ()
    gpu_model: str = ""
    vram_mib: int = 0


@dataclass(frozen=True, slots=True)
class Wants:
    """What a job needs of its provider."""

    job_type: JobType
    model: str | None = None
    gpu_model: str | None = None
    min_vram_mib: int | None = None


def can_run(candidate: Candidate, wants: Wants) -> bool:
    """Whether the provider serves the type and model and has the GPU that the job asks for."""
    return (
        wants.job_type in candidate.job_types
        and (wants.model is None or any(model.name == wants.model for model in candidate.models))
        and (wants.gpu_model is None or wants.gpu_model.casefold() in candidate.gpu_model.casefold())
        and (wants.min_vram_mib is None or candidate.vram_mib >= wants.min_vram_mib)
    )


def ranked(candidates: Iterable[Candidate], wants: Wants) -> list[Candidate]:
    """The providers that have a free slot and can run the job, the best first."""

    def rank(candidate: Candidate) -> tuple[bool, int, int]:
        warm = any(model.warm and model.name == wants.model for model in candidate.models)
        return (not warm, -candidate.free_slots, candidate.provider_id)

    return sorted((c for c in candidates if c.free_slots > 0 and can_run(c, wants)), key=rank)


def choose(candidates: Iterable[Candidate], wants: Wants) -> Candidate | None:
    """The best provider with a free slot; None when no one has."""
    return next(iter(ranked(candidates, wants)), None)
