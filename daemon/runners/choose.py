"""Chooses the runner of jobs that are no inference, by what this machine has and its owner allows.

It must not know the session.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.runners import Runner
from daemon.runners.containers import keeper
from daemon.runners.containers.settings import ContainerSettings
from daemon.runners.process import ProcessRunner

if TYPE_CHECKING:
    from daemon.runners.containers.docker import EngineFacts

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
    visible_gpus: Callable[[], Sequence[str] | None],
    *,
    toolkit: Callable[[], str | None] = lambda: None,
    allow_process_runner: bool = False,
    failure_level: int = logging.ERROR,
) -> Runner | None:
    """The container runner, where images are allowed and the engine answers.

    Where none are allowed: the process runner, if the owner said so, or none. `visible_gpus`: what plain
    processes may see; None: all GPUs. `failure_level`: how it is logged that the engine cannot be used.
    """
    folder = state_dir / "artifacts"
    if not settings.images:
        if allow_process_runner:
            logger.warning(
                "NOT ISOLATED: jobs run as plain processes; "
                "they can read this machine's files and use its network"
            )
            return ProcessRunner(settings, folder, visible_gpus)
        return None
    return await _container_runner(
        settings, socket, owner_of(state_dir), folder, healthy_gpus, toolkit, failure_level
    )


async def _container_runner(
    settings: ContainerSettings,
    socket: Path,
    owner: str,
    folder: Path,
    healthy_gpus: Callable[[], Sequence[str]],
    toolkit: Callable[[], str | None],
    failure_level: int,
) -> Runner | None:
    # Only here, as the library takes long to load and many daemons run no containers.
    from daemon.runners.containers.container import ContainerRunner
    from daemon.runners.containers.docker import Docker, DockerRefusedError, DockerUnavailableError

    docker = Docker(str(socket))
    try:
        facts = await docker.facts()
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.log(
            failure_level,
            "no containers are run: the engine does not answer socket=%s error=%s",
            socket,
            error,
        )
        await docker.close()
        return None
    if why := problem(facts):
        logger.log(failure_level, "no containers are run: %s", why)
        await docker.close()
        return None
    logger.info("containers are run engine=%s images=%s", facts.version, ",".join(settings.images))
    return ContainerRunner(
        docker, facts, settings, owner=owner, folder=folder, healthy_gpus=healthy_gpus, toolkit=toolkit
    )
