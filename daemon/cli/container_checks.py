"""What `doctor` and the start of the daemon find out about the container engine and what it serves.

Apart from the other checks, because it loads the engine's library.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from common import images
from daemon.cli.findings import Finding, Level
from daemon.config.config import Config
from daemon.machine.gpus.toolkit import Toolkit
from daemon.runners import choose
from daemon.runners.containers.docker import Docker, DockerRefusedError, DockerUnavailableError, EngineFacts
from daemon.runners.containers.minimums import outdated

_NO_ENGINE = "start Docker or Podman's socket, let this user use it, or correct DCP_CONTAINER_SOCKET"


async def findings(config: Config) -> AsyncIterator[Finding]:
    """What prevents jobs in containers, and models that are served in containers, where there are any."""
    if config.containers.images:
        async for finding in _container_engine(config):
            yield finding
    async for finding in _served_in_containers(config):
        yield finding


async def _container_engine(config: Config) -> AsyncIterator[Finding]:
    settings, socket = config.containers, config.container_socket
    try:
        facts = await _facts(str(socket))
    except (DockerUnavailableError, DockerRefusedError) as error:
        yield Finding(Level.FAIL, f"container engine {socket}: {error}; {_NO_ENGINE}")
        return
    if why := choose.problem(facts):
        yield Finding(Level.FAIL, f"container engine: {why}")
    versions = {"runc": facts.runc, "toolkit": await asyncio.to_thread(Toolkit().version) or ""}
    if why := await asyncio.to_thread(outdated, versions, settings.minimums):
        yield Finding(Level.FAIL, f"container engine: jobs are not run, as {why}")
    if not any("seccomp" in option and "unconfined" not in option for option in facts.security):
        yield Finding(
            Level.WARN, "container engine: it has no seccomp profile, which jobs would be kept in; turn it on"
        )
    yield Finding(Level.OK, f"{_named(facts)}: images {', '.join(settings.images)}")
    if not facts.hands_out_gpus:
        yield Finding(
            Level.WARN,
            f"{_named(facts)}: it hands out no GPUs; jobs that need one need Podman 5.4 or Docker here",
        )
    if "*" in settings.images:
        yield Finding(Level.WARN, "containers: every image is allowed; name those that you trust")
    if settings.network != "none":
        yield Finding(
            Level.WARN, f"containers: jobs are on the network {settings.network}, and reach what it reaches"
        )


def _named(facts: EngineFacts) -> str:
    return f"container engine {'Podman ' if facts.is_podman else ''}{facts.version}"


async def _served_in_containers(config: Config) -> AsyncIterator[Finding]:
    for model in config.engine_models:
        if not model.path.exists():
            text = f"model {model.name}: {model.path} does not exist; correct DCP_ENGINE_MODELS"
            yield Finding(Level.FAIL, text)
        elif os.geteuid() == 0 and not _readable_by_all(model.path):
            text = f"model {model.name}: the server in the container is another user and cannot read it"
            yield Finding(Level.WARN, f"{text}: run chmod -R a+rX {model.path}")
        else:
            yield Finding(Level.OK, f"model {model.name}: served by {config.engine.image}")
    if config.engine_models:
        yield await _engine_image(config)


def _readable_by_all(path: Path) -> bool:
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    return all(file.stat().st_mode & 0o004 for file in files)


async def _engine_image(config: Config) -> Finding:
    docker = Docker(str(config.container_socket))
    try:
        is_there = await docker.inspect_image(images.parse(config.engine.image).exact) is not None
    except (DockerUnavailableError, DockerRefusedError) as error:
        return Finding(Level.FAIL, f"engine container: {config.container_socket}: {error}; {_NO_ENGINE}")
    finally:
        await docker.close()
    if not is_there:
        text = f"engine container: {config.engine.image} is not on this machine; the daemon will download it"
        return Finding(Level.WARN, f"{text}, or run docker pull {config.engine.image}")
    return Finding(Level.OK, f"engine container: {config.engine.image} is there")


async def images_of(socket: Path) -> tuple[str, list[str]] | None:
    """What the container engine at this socket is called, and the images it has; None: it does not answer."""
    docker = Docker(str(socket))
    try:
        return _named(await docker.facts()).removeprefix("container "), await docker.image_names()
    except (DockerUnavailableError, DockerRefusedError):
        return None
    finally:
        await docker.close()


async def _facts(socket: str) -> EngineFacts:
    docker = Docker(socket)
    try:
        return await docker.facts()
    finally:
        await docker.close()
