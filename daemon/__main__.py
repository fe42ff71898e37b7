"""The command `dcp-daemon`: register, run, doctor, status, update, unit.

It owns signals, exit statuses and what is passed from the environment; what the
commands do is elsewhere. Exit: 0 done, 1 ended by the server or a failed check,
2 something must be corrected first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.files import raise_file_limit
from daemon.app import Daemon, Options
from daemon.cli import arguments as command_line
from daemon.cli import control, doctor, logs, registration, status
from daemon.config.config import Config, ConfigError, config_path, load
from daemon.config.identity import IdentityError, identity_path
from daemon.config.identity import load as load_identity
from daemon.engines.build import attached_engines, container_engines, model_engine
from daemon.engines.warm import WarmModels
from daemon.journal.disk import FileDisk, JournalError, journal_folder
from daemon.journal.journal import Journal
from daemon.link import KeyRefusedError, RegistrationError, ServerAddress
from daemon.machine.gpus.nvml import detect
from daemon.machine.gpus.toolkit import Toolkit
from daemon.machine.health import Health
from daemon.machine.machine import Machine
from daemon.protocol.effects import EndReason
from daemon.runners.choose import runner_of
from daemon.runners.process import ProcessRunner
from daemon.service import unit, update
from daemon.service.installation import Installation, InstallationError
from daemon.service.notify import Manager
from daemon.service.reload import Reloader

logger = logging.getLogger("daemon")

_FAULTS = (
    ConfigError,
    IdentityError,
    JournalError,
    KeyRefusedError,
    RegistrationError,
    InstallationError,
    update.UpdateError,
    unit.UnitError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    arguments = command_line.parser().parse_args(argv)
    raise_file_limit()
    try:
        return _COMMANDS[arguments.command](arguments)
    except _FAULTS as error:
        logs.report_fault(f"dcp-daemon: {error}", os.environ, sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _register(arguments: argparse.Namespace) -> int:
    logs.set_up("info", os.environ)
    print(registration.run(arguments, os.environ))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_serve(_configured(arguments), arguments))


def _doctor(arguments: argparse.Namespace) -> int:
    found = []
    for finding in doctor.findings(
        _configured(arguments), allow_process_runner=arguments.allow_process_runner
    ):
        found.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    if arguments.json:
        print(json.dumps([finding.plain() for finding in found], indent=2))
    return int(any(finding.level is doctor.Level.FAIL for finding in found))


def _status(arguments: argparse.Namespace) -> int:
    return status.run(_configured(arguments), once=arguments.once, as_json=arguments.json)


def _update(arguments: argparse.Namespace) -> int:
    config = _configured(arguments)
    wish = update.Wish(arguments.source, arguments.allow_downgrade, arguments.ready_seconds)
    if arguments.check:
        print(update.check(config, wish))
        return 0
    root = arguments.root
    installation = Installation(root.absolute()) if root else Installation.of_this_process()
    flags = ["--config", str(config.path)] if config.path else []
    print(update.run(config, wish, installation, update.supervisor_of(config, installation, flags)))
    return 0


def _unit(arguments: argparse.Namespace) -> int:
    config = config_path(os.environ, arguments.config) if arguments.config else unit.CONFIG
    print(
        unit.render(user=arguments.user, root=arguments.root, config=config, docker=arguments.docker), end=""
    )
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "register": _register,
    "run": _run,
    "doctor": _doctor,
    "status": _status,
    "update": _update,
    "unit": _unit,
}


def _configured(arguments: argparse.Namespace) -> Config:
    config = load(os.environ, arguments.config)
    logs.set_up(config.log_level, os.environ)
    return config


async def _serve(config: Config, arguments: argparse.Namespace) -> int:
    key = _key(config)
    _check_serves(config, arguments.allow_process_runner)
    # Its lock says that no other daemon uses this state folder.
    disk = FileDisk(journal_folder(config.state_dir))
    manager, health = Manager(os.environ), Health()
    warm = WarmModels()
    runner = await runner_of(
        config.containers,
        config.container_socket,
        config.state_dir,
        health.healthy_gpus,
        toolkit=Toolkit().version,
        allow_process_runner=arguments.allow_process_runner,
    )
    others = [
        *container_engines(config, warm, health.healthy_gpus),
        *attached_engines(config),
        *([runner] if runner is not None else []),
    ]
    gpus = detect(lambda: [pid for other in others for pid in other.pids()])
    if gpus.reason:
        logger.warning("no GPU telemetry reason=%r", gpus.reason)
    reloader = Reloader(config, lambda model: model_engine(config, model, warm), others)
    daemon = Daemon(
        ServerAddress(config.server, config.tls_ca),
        key,
        reloader.engines,
        Journal(disk),
        Machine(gpus=gpus, health=health),
        config.rules,
        Options(
            on_ready=lambda provider_id: _say_ready(config.server, provider_id, manager),
            on_sample=warm.sampled,
            runs_plain_processes=isinstance(runner, ProcessRunner),
        ),
    )
    _drain_on_signals(daemon, manager)
    _reload_on_hangup(daemon, reloader, manager, lambda: load(os.environ, arguments.config))
    alive = asyncio.create_task(manager.keep_alive())
    try:
        async with control.serve(config.state_dir, _answers(daemon)):
            manager.notify("READY=1", f"STATUS=connecting to {config.server}")
            reason = await daemon.run()
    except KeyRefusedError as error:
        raise KeyRefusedError(
            f"{config.server} refused the provider's key ({error}): "
            f"check DCP_PROVIDER_KEY or {identity_path(config.state_dir)}, or run dcp-daemon register --force"
        ) from None
    finally:
        alive.cancel()
    return _exit_status(reason)


def _check_serves(config: Config, allow_process_runner: bool) -> None:
    can_serve = config.models or config.engine_models or config.attached_url
    if not (can_serve or config.containers.images or allow_process_runner):
        raise ConfigError(
            f"nothing to run: no model to serve ({doctor.model_remedy()}) "
            "and no image allowed (set DCP_CONTAINER_IMAGES)"
        )


def _answers(daemon: Daemon) -> dict[str, Callable[[], dict[str, Any]]]:
    return {"status": daemon.state}


def _key(config: Config) -> str:
    return config.provider_key or load_identity(config.state_dir).api_key


def _say_ready(server: str, provider_id: int, manager: Manager) -> None:
    manager.notify(f"STATUS=session with {server} as provider {provider_id}")
    print(f"ready session with {server} as provider {provider_id}", flush=True)


def _drain_on_signals(daemon: Daemon, manager: Manager) -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        if len(seen) > 1:
            # Children see the end of their stdin and follow; the journal shows
            # the next start what was not acknowledged.
            os._exit(128 + number)
        manager.notify("STOPPING=1", "STATUS=draining")
        daemon.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _reload_on_hangup(
    daemon: Daemon, reloader: Reloader, manager: Manager, read: Callable[[], Config]
) -> None:
    was_in_a_terminal = sys.stdin.isatty()

    def on_hangup() -> None:
        if was_in_a_terminal and not sys.stdin.isatty():
            # The terminal is gone, and with it whoever started this: not a wish for other settings.
            daemon.drain()
            return
        # A reload takes milliseconds, all in this call: to the manager it is one step.
        reloader.reload(daemon, read)
        manager.notify("READY=1")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)


def _exit_status(reason: EndReason) -> int:
    if reason is EndReason.DRAINED:
        return 0
    logs.report_fault(
        "dcp-daemon: another daemon with the same key took over; stop one of the two, "
        "or register each machine as a provider of its own",
        os.environ,
        sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
