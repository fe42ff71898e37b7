"""``dcp-server``: reads the settings, serves until SIGTERM or SIGINT, drains, exits; or runs a command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import uvloop

from common import tracing
from common.files import raise_file_limit
from common.printing import print_anything
from common.telemetry import Telemetry
from common.tracing import Traces
from server import logs
from server.commands import arguments as command_line
from server.config import Config
from server.domain.errors import DatabaseAwayError, DatabaseUrlError
from server.program import collect_seldom, exit_status, leave_out_drivers, measuring, stop_signal
from server.telemetry import METRICS
from server.version import CURRENT


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Exit status 0 after a drain, 2 on a bad setting; --help has those of commands."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    raise_file_limit()
    arguments = command_line.parser().parse_args(argv)
    return exit_status("dcp-server", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    config = Config.from_env(os.environ)
    logs.set_up(config.log_level, config.log_format)
    leave_out_drivers(config.database_url)
    if arguments.command:
        try:
            return _COMMANDS[arguments.command](config, arguments)
        except DatabaseAwayError as error:
            raise DatabaseUrlError(str(error)) from None  # commands have meanings of their own for status 1
    measures = measuring(config.metrics_listen, METRICS, "server")
    traces = tracing.opened(config.traces, "server", CURRENT)
    try:
        uvloop.run(_serve(config, measures, traces))
    finally:
        measures.close()
        traces.close()
    return 0


# Like server.app, the commands load the drivers that are not left out.


def _backup(config: Config, arguments: argparse.Namespace) -> int:
    from server.commands import backup

    return backup.run(config.database_url, arguments.file, os.environ)


def _restore(config: Config, arguments: argparse.Namespace) -> int:
    from server.commands import restore

    return restore.run(config.database_url, arguments.file, os.environ, replace=arguments.replace)


def _migrate(config: Config, arguments: argparse.Namespace) -> int:
    from server.commands import migrate

    return migrate.run(config.database_url, check=arguments.check)


def _prove(config: Config, _: argparse.Namespace) -> int:
    from server.commands import prove

    return prove.run(config.database_url)


def _invite(config: Config, arguments: argparse.Namespace) -> int:
    from server.commands import invite

    return invite.run(config.database_url, config.public_url, arguments.name.strip(), arguments.role)


def _health(config: Config, arguments: argparse.Namespace) -> int:
    from server.commands import health

    return health.run(config, arguments.wait)


_COMMANDS: dict[str, Callable[[Config, argparse.Namespace], int]] = {
    "backup": _backup,
    "restore": _restore,
    "migrate": _migrate,
    "prove": _prove,
    "invite": _invite,
    "health": _health,
}


async def _serve(config: Config, measures: Telemetry, traces: Traces) -> None:
    from server.app import Server

    collect_seldom()
    stop = stop_signal()
    server = Server(config, telemetry=measures, traces=traces)
    await server.start()
    print(f"ready {server.address}", flush=True)
    if server.gateway_address:
        print(f"ready {server.gateway_address}", flush=True)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    sys.exit(main())
