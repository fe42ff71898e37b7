"""The command `dcp-daemon`: from setup and register to run, update, and what concerns the account.

It owns signals, exit statuses and what is passed from the environment; what the
commands do is elsewhere. Exit: 0 done, 1 ended by the server or a failed check,
2 something must be corrected first, 3 another daemon with the same key took over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from common import tracing
from common.files import raise_file_limit
from common.health import report
from common.printing import print_anything
from common.telemetry import Telemetry, opened, refusal
from daemon.app import JOIN_SECONDS, Daemon, Options
from daemon.cli import arguments as command_line
from daemon.cli import control, logs, registration
from daemon.cli.findings import Finding, Level
from daemon.config.config import Config, ConfigError, NotThereError, config_path, load
from daemon.config.identity import IdentityError, identity_path, note_accepted, was_accepted
from daemon.config.identity import load as load_identity
from daemon.engines.build import attached_engines, container_engines, model_engine
from daemon.engines.warm import WarmModels
from daemon.journal.disk import FileDisk, JournalError, journal_folder
from daemon.journal.journal import Journal
from daemon.link import KeyRefusedError, RegistrationError, ServerAddress
from daemon.machine.gpus.provers import Prover
from daemon.machine.gpus.toolkit import Toolkit
from daemon.machine.gpus.watched import detect
from daemon.machine.health import Health
from daemon.machine.kept import KeptGpus
from daemon.machine.machine import Machine
from daemon.protocol.effects import EndReason
from daemon.runners import Runner
from daemon.runners.choose import runner_of
from daemon.runners.process import ProcessRunner
from daemon.service import unit, update
from daemon.service.installation import Installation, InstallationError
from daemon.service.notify import Manager
from daemon.service.reload import Reloader
from daemon.service.version import daemon_version
from daemon.telemetry import METRICS
from daemon.work.verdicts import Verdicts

# Modules of one command only, and those of containers, are imported where they are used: their libraries take
# half of the time of a start.
logger = logging.getLogger("daemon")

# The first self-tests, which the first Hello waits for, have the machine to themselves.
CHECKS_AFTER_SECONDS = JOIN_SECONDS + 1.0
_SEVERITIES = {Level.OK: logging.DEBUG, Level.WARN: logging.WARNING, Level.FAIL: logging.ERROR}
# A program that updates certificates takes their file away for some seconds.
FILE_PATIENCE_SECONDS = 20.0
FILE_RETRY_SECONDS = 2.0
# How soon a container engine that does not answer at the start is looked for again.
LOOK_SECONDS = 5.0
# Of systemd's TimeoutStopSec: what has not ended by then is ended, whatever hangs.
STOP_SECONDS = 50.0
# No restart mends it: two machines with one key would take the session from each other for ever.
SUPERSEDED_STATUS = 3

_FAULTS = (
    ConfigError,
    control.NotRunningError,
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
    print_anything()
    arguments = command_line.parser().parse_args(argv)
    raise_file_limit()
    try:
        return _COMMANDS[arguments.command](arguments)
    except _FAULTS as error:
        logs.report_fault(f"dcp-daemon: {error}", os.environ, sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _setup(arguments: argparse.Namespace) -> int:
    from daemon.cli import setup

    logs.set_up("warning", os.environ)
    try:
        setup.run(arguments, os.environ)
    except setup.SetupError as error:
        logs.report_fault(f"dcp-daemon: {error}", os.environ, sys.stderr)
        return 2
    if arguments.dry_run:
        return 0
    status = _doctor(arguments)
    print(f"next: {setup.next_command(_configured(arguments))}")
    return status


def _register(arguments: argparse.Namespace) -> int:
    logs.set_up("info", os.environ)
    print(registration.run(arguments, os.environ))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_serve(_configured_soon(arguments), arguments))


def _doctor(arguments: argparse.Namespace) -> int:
    found = asyncio.run(_diagnose(arguments))
    if arguments.json:
        print(json.dumps([finding.plain() for finding in found], indent=2))
    return int(any(finding.level is Level.FAIL for finding in found))


async def _diagnose(arguments: argparse.Namespace) -> list[Finding]:
    from daemon.cli import doctor

    found, config = [], _configured(arguments)
    async for finding in doctor.findings(config, allow_process_runner=arguments.allow_process_runner):
        found.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    return found


def _status(arguments: argparse.Namespace) -> int:
    from daemon.cli import status

    return status.run(_configured(arguments), once=arguments.once, as_json=arguments.json)


def _health(arguments: argparse.Namespace) -> int:
    state_dir = _configured(arguments).state_dir

    def fault() -> str:
        try:
            state = control.ask(state_dir, "status")["session"]["state"]
        except control.NotRunningError as error:
            return str(error)
        return "" if state == "open" else f"the session with the server is {state}"

    return report(fault, arguments.wait)


def _keep_gpu(arguments: argparse.Namespace) -> int:
    config = _configured(arguments)
    try:
        answer = control.ask(config.state_dir, arguments.command, gpu=arguments.gpu)
    except PermissionError:
        answer = {"error": f"{config.state_dir} belongs to another user: ask as that user, or with sudo"}
    if "gpu" not in answer:
        logs.report_fault(f"dcp-daemon: {answer.get('error')}", os.environ, sys.stderr)
        return 1
    if arguments.command == "drain":
        print(f"{answer['gpu']} takes no new jobs, also after a restart; what runs on it finishes")
    else:
        print(f"{answer['gpu']} takes jobs again")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    return _keep_gpu(arguments) if arguments.gpu else _account(arguments)


def _account(arguments: argparse.Namespace) -> int:
    from daemon.cli import account

    try:
        print(account.run(_configured(arguments), arguments))
    except account.AccountError as error:
        logs.report_fault(f"dcp-daemon: {error}", os.environ, sys.stderr)
        return 1
    return 0


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
    "setup": _setup,
    "register": _register,
    "run": _run,
    "doctor": _doctor,
    "status": _status,
    "health": _health,
    "drain": _keep_gpu,
    "resume": _resume,
    "pause": _account,
    "earnings": _account,
    "rates": _account,
    "withdraw": _account,
    "update": _update,
    "unit": _unit,
}


def _configured_soon(arguments: argparse.Namespace) -> Config:
    """The configuration; waits for a file that is away for a moment, or no restart would follow."""
    until = time.monotonic() + FILE_PATIENCE_SECONDS
    while True:
        try:
            return _configured(arguments)
        except NotThereError as error:
            if time.monotonic() >= until:
                raise
            logger.warning("waiting for a file that is not there: %s", error)
            time.sleep(FILE_RETRY_SECONDS)


def _configured(arguments: argparse.Namespace) -> Config:
    config = load(os.environ, arguments.config)
    logs.set_up(config.log_level, os.environ, format_=config.log_format)
    return config


async def _serve(config: Config, arguments: argparse.Namespace) -> int:
    key = _key(config)
    _check_serves(config, arguments.allow_process_runner)
    # Its lock says that no other daemon uses this state folder.
    disk = FileDisk(journal_folder(config.state_dir))
    measures = _measures(config)
    traces = tracing.opened(config.traces, "daemon", daemon_version())
    manager, health = Manager(os.environ), Health(KeptGpus(config.state_dir))
    warm = WarmModels(kept_gpus=health.kept_gpus)
    choose = partial(
        runner_of,
        config.containers,
        config.container_socket,
        config.state_dir,
        health.healthy_gpus,
        health.visible_gpus,
        toolkit=Toolkit().read,
        allow_process_runner=arguments.allow_process_runner,
    )
    runner = await choose()
    others: list[Runner] = [
        *container_engines(config, warm, health.healthy_gpus, health.kept_gpus),
        *([runner] if runner is not None else []),
    ]
    gpus = detect(config.engine_environment, lambda: [pid for other in others for pid in other.pids()])
    # What the owner gives to model servers stays the most that they see, whatever of it works.
    see = partial(health.visible_gpus, config.engine_environment.get("CUDA_VISIBLE_DEVICES"))
    reloader = Reloader(
        config, lambda model: model_engine(config, model, warm, see), others, attached_engines
    )
    daemon = Daemon(
        ServerAddress(config.server, config.tls_ca),
        key,
        reloader.engines,
        Journal(disk),
        Machine(gpus=gpus, health=health),
        config.rules,
        Options(
            on_ready=lambda provider_id: _ready(config, key, provider_id, manager),
            on_sample=warm.sampled,
            runs_plain_processes=isinstance(runner, ProcessRunner),
            is_key_known=was_accepted(config.state_dir, config.server, key),
            verdicts=Verdicts(config.state_dir),
            input_folder=config.state_dir / "inputs",
            input_room=config.input_room,
            telemetry=measures,
            traces=traces,
            start_prover=partial(Prover.start, environment=config.engine_environment)
            if config.proves_gpus
            else None,
        ),
    )
    _drain_on_signals(daemon, manager)
    _reload_on_hangup(daemon, reloader, manager, lambda: load(os.environ, arguments.config))
    beside = [
        asyncio.create_task(manager.keep_alive()),
        asyncio.create_task(_log_findings(config, arguments.allow_process_runner)),
    ]
    if runner is None and config.containers.images:
        beside.append(asyncio.create_task(_look_for_containers(choose, daemon, reloader, others)))
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
        for task in beside:
            task.cancel()
        measures.close()
        await asyncio.to_thread(traces.close)
    return _exit_status(reason)


async def _log_findings(config: Config, allow_process_runner: bool) -> None:
    """Says in the log what `doctor` would: most of it mends itself or is only a warning, so nothing ends."""
    await asyncio.sleep(CHECKS_AFTER_SECONDS)
    from daemon.cli import doctor

    try:
        async for finding in doctor.of_machine(config, allow_process_runner=allow_process_runner):
            logger.log(_SEVERITIES[finding.level], "check: %s", finding.text)
    except Exception:
        logger.exception("the checks of this machine failed")


async def _look_for_containers(
    choose: Callable[..., Awaitable[Runner | None]], daemon: Daemon, reloader: Reloader, others: list[Runner]
) -> None:
    """Runs containers as soon as their engine, which did not answer at the start, does."""
    runner = None
    while runner is None:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            runner = await choose(failure_level=logging.DEBUG)
            if runner is not None:
                await runner.sweep()
        except Exception:
            logger.exception("the container engine could not be looked for")
    others.append(runner)
    reloader.add(daemon, runner)


def _measures(config: Config) -> Telemetry:
    try:
        return opened(config.metrics_listen, METRICS, "daemon", daemon_version())
    except OSError as error:
        raise ConfigError(refusal(config.metrics_listen, error)) from None


def _check_serves(config: Config, allow_process_runner: bool) -> None:
    can_serve = config.models or config.engine_models or config.attached_url
    if not (can_serve or config.containers.images or allow_process_runner):
        from daemon.cli import doctor

        raise ConfigError(
            f"nothing to run: no model to serve ({doctor.model_remedy()}) "
            "and no image allowed (set DCP_CONTAINER_IMAGES)"
        )


def _answers(daemon: Daemon) -> control.Answers:
    return {
        "status": lambda _: daemon.state(),
        "drain": lambda request: daemon.set_gpu_drained(str(request.get("gpu")), True),
        "resume": lambda request: daemon.set_gpu_drained(str(request.get("gpu")), False),
    }


def _key(config: Config) -> str:
    return config.provider_key or load_identity(config.state_dir).api_key


def _ready(config: Config, key: str, provider_id: int, manager: Manager) -> None:
    note_accepted(config.state_dir, config.server, key)
    server = config.server
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
        _end_at_the_latest(STOP_SECONDS, 128 + number)
        daemon.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _end_at_the_latest(seconds: float, status: int) -> None:
    """Ends the process after this time: a driver or a disk that hangs would hold its threads for ever."""
    timer = threading.Timer(seconds, lambda: os._exit(status))
    timer.daemon = True
    timer.start()


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
        "dcp-daemon: another daemon with the same key took over, and this one stays down: stop one of the "
        "two, or register each machine as a provider of its own with dcp-daemon register --force",
        os.environ,
        sys.stderr,
    )
    return SUPERSEDED_STATUS


if __name__ == "__main__":
    sys.exit(main())
