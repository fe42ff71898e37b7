"""What keeps every job of a kind away from a provider: old software, failed GPUs or failed self-tests.

Pure. The minimums for NVIDIA's software apply only to machines with its driver. There, a version that
is not reported counts as missing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.domain.gpus import GpuReport
from server.domain.jobs import NEED_IMAGE, JobType
from server.domain.placement import Obstacle
from server.domain.versions import is_older, parse

# The kinds of job that run in containers, where a GPU needs the container toolkit.
IN_CONTAINERS = NEED_IMAGE | {JobType.IMAGE_GENERATION, JobType.VLLM_SERVE}
ALL = frozenset(JobType)


@dataclass(frozen=True, slots=True)
class Minimums:
    """The oldest versions that an operator admits to jobs; empty for any version."""

    driver: str = ""
    toolkit: str = ""
    daemon: str = ""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The result of the newest test of an engine or runner of a daemon."""

    name: str
    passed: bool
    reason: str
    models: tuple[str, ...]
    job_types: frozenset[JobType]
    is_pending: bool = False
    """Its first test has not ended yet."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Something that keeps jobs of some kinds away, as a code and as a sentence for a person."""

    obstacle: Obstacle
    message: str
    job_types: frozenset[JobType]


TWO_DAEMONS = Hindrance(
    Obstacle.TWO_DAEMONS,
    "Two daemons use this provider's key and take the session from each other, which ends their jobs: stop "
    "one of them, or register its machine as a provider of its own.",
    frozenset(),
)


def hindrances(report: GpuReport, tests: Sequence[SelfTest], minimums: Minimums) -> tuple[Hindrance, ...]:
    """Everything that hinders a provider now, by its newest report and self-tests."""
    driver, toolkit = report.driver_version or "", report.container_toolkit_version or ""
    found = list(_outdated(driver, toolkit, report.daemon_version or "", minimums))
    if report.all_gpus and not any(gpu.is_healthy for gpu in report.all_gpus):
        found.append(Hindrance(Obstacle.GPUS_FAILED, "None of its GPUs is healthy now.", ALL))
    elif report.all_gpus and not any(gpu.takes_work for gpu in report.all_gpus):
        found.append(Hindrance(Obstacle.DRAINING, "Its owner keeps its GPUs for now.", ALL))
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
    """Whether a first test is running that, once passed, would add this kind of job and this model."""
    return any(
        test.is_pending and kind in test.job_types and (model is None or model in test.models)
        for test in tests
    )


def failing_models(tests: Iterable[SelfTest]) -> frozenset[str]:
    """The models of the tests that have not passed."""
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
    """Whether a version is older than the minimum; an unknown version is older than any minimum but 0."""
    wanted = parse(least)
    if wanted is None or not any(wanted.release):
        return False
    return parse(version) is None or is_older(version, least)
