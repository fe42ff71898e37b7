"""Chooses the runner of jobs that are no inference, by what this machine has and its owner allows.

It must not know the session.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from daemon.runners import Runner
from daemon.runners.containers import keeper
from daemon.runners.containers.container import ContainerRunner
from daemon.runners.containers.docker import Docker, DockerRefusedError, DockerUnavailableError, EngineFacts
from daemon.runners.containers.settings import ContainerSettings
from daemon.runners.process import ProcessRunner

logger = logging.getLogger(__name__)


def problem(facts: EngineFacts) -> str:
    """Why containers cannot be run on an engine that answers; empty when they can."""
    if facts.architecture not in keeper.ARCHITECTURES:
        known = ", ".join(sorted(keeper.ARCHITECTURES))
        return f"its processor is {facts.architecture}, and jobs run on {known}"
    return ""


def owner_of(state_dir: Path) -> str:
    """What a daemon's containers are labelled with: no two of one machine may take each other's for own."""
    return hashlib.sha256(str(state_dir).encode()).hexdigest()[:16]


async def runner_of(
    settings: ContainerSettings,
    socket: Path,
    state_dir: Path,
    healthy_gpus: Callable[[], Sequence[str]],
    *,
    toolkit: Callable[[], str | None] = lambda: None,
    allow_process_runner: bool = False,
) -> Runner | None:
    """The container runner, where images are allowed and the engine answers.

    Where none are allowed: the process runner, if the owner said so, or none.
    """
    folder = state_dir / "artifacts"
    if not settings.images:
        if allow_process_runner:
            logger.warning(
                "NOT ISOLATED: jobs run as plain processes; "
                "they can read this machine's files and use its network"
            )
            return ProcessRunner(settings, folder)
        return None
    docker = Docker(str(socket))
    try:
        facts = await docker.facts()
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.error("no containers are run: the engine does not answer socket=%s error=%s", socket, error)
        await docker.close()
        return None
    if why := problem(facts):
        logger.error("no containers are run: %s", why)
        await docker.close()
        return None
    owner = owner_of(state_dir)
    logger.info("containers are run engine=%s images=%s", facts.version, ",".join(settings.images))
    return ContainerRunner(
        docker, facts, settings, owner=owner, folder=folder, healthy_gpus=healthy_gpus, toolkit=toolkit
    )
