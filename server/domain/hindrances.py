"""What keeps a provider from whole kinds of jobs, whatever they ask for: old software, failed GPUs or tests.

Pure. A machine without an NVIDIA driver needs none; what a machine with one does not tell is taken to
be missing where the operator asks for it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.domain.honesty import NOT_HEALTHY
from server.domain.jobs import NEED_IMAGE, JobType
from server.domain.placement import Obstacle
from server.domain.versions import is_older, parse

# The kinds of job that run in containers, for which a GPU needs the container toolkit.
IN_CONTAINERS = NEED_IMAGE | {JobType.IMAGE_GENERATION, JobType.VLLM_SERVE}
ALL = frozenset(JobType)


@dataclass(frozen=True, slots=True)
class Minimums:
    """The oldest versions that an operator admits to jobs; empty: any."""

    driver: str = ""
    toolkit: str = ""
    daemon: str = ""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How one engine or runner of a daemon did in its newest test."""

    name: str
    passed: bool
    reason: str
    models: tuple[str, ...]
    job_types: frozenset[JobType]
    is_pending: bool = False
    """Its first test has not ended yet."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """One thing that keeps jobs of some kinds away, and the same for a person."""

    obstacle: Obstacle
    message: str
    job_types: frozenset[JobType]


def hindrances(
    gpu_status: Mapping[str, Any], tests: Sequence[SelfTest], minimums: Minimums
) -> tuple[Hindrance, ...]:
    """Everything that hinders a provider now, by its newest report and self-tests."""
    found = list(
        _outdated(
            str(gpu_status.get("driver_version", "")),
            str(gpu_status.get("container_toolkit_version", "")),
            str(gpu_status.get("daemon_version", "")),
            minimums,
        )
    )
    devices = gpu_status.get("all_gpus", ())
    if devices and all(device.get("state") in NOT_HEALTHY for device in devices):
        found.append(Hindrance(Obstacle.GPUS_FAILED, "None of its GPUs is healthy now.", ALL))
    served = frozenset(kind for test in tests if test.passed for kind in test.job_types)
    for test in tests:
        if not test.passed:
            message = f"The self-test of {test.name} has not passed: {test.reason or 'no reason was told.'}"
            found.append(Hindrance(Obstacle.SELF_TEST_FAILED, message, test.job_types - served))
    return tuple(found)


def by_job_type(found: Iterable[Hindrance]) -> dict[JobType, Obstacle]:
    """The first hindrance of each kind of job that has one."""
    first: dict[JobType, Obstacle] = {}
    for hindrance in found:
        for kind in hindrance.job_types:
            first.setdefault(kind, hindrance.obstacle)
    return first


def is_pending(tests: Iterable[SelfTest], kind: JobType, model: str | None) -> bool:
    """Whether a first test is under way that may bring this kind of job and this model."""
    return any(
        test.is_pending and kind in test.job_types and (model is None or model in test.models)
        for test in tests
    )


def failing_models(tests: Iterable[SelfTest]) -> frozenset[str]:
    """The models that a passed test would bring."""
    return frozenset(model for test in tests if not test.passed for model in test.models)


@functools.lru_cache(maxsize=1024)
def _outdated(driver: str, toolkit: str, daemon: str, minimums: Minimums) -> tuple[Hindrance, ...]:
    found = []
    if is_before(daemon, minimums.daemon):
        text = f"Its daemon is {daemon or 'of an unknown version'}; at least {minimums.daemon} is needed."
        found.append(Hindrance(Obstacle.DAEMON_TOO_OLD, text, ALL))
    if driver and is_before(driver, minimums.driver):
        text = f"Its NVIDIA driver is {driver}; at least {minimums.driver} is needed."
        found.append(Hindrance(Obstacle.DRIVER_TOO_OLD, text, ALL))
    if driver and is_before(toolkit, minimums.toolkit):
        text = (
            f"Its NVIDIA Container Toolkit is {toolkit or 'missing'}; jobs in containers need at least "
            f"{minimums.toolkit}."
        )
        found.append(Hindrance(Obstacle.TOOLKIT_TOO_OLD, text, IN_CONTAINERS))
    return tuple(found)


def is_before(version: str, least: str) -> bool:
    """Whether a version is older than the least; an unknown one is older than any minimum but 0."""
    wanted = parse(least)
    if wanted is None or not any(wanted.release):
        return False
    return parse(version) is None or is_older(version, least)
