"""Owns the gateway's process: command line, settings, exit code. `serving` serves the application."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from importlib import metadata

import uvloop

from common import tracing
from common.files import raise_file_limit
from common.logs import formatter
from common.printing import print_anything
from common.telemetry import Telemetry, opened, refusal
from common.tracing import Traces
from gateway import health, serving
from gateway.channel import open_channel
from gateway.config import VARIABLES, Config, ConfigError
from gateway.limits import SPARE_FILES
from gateway.telemetry import METRICS


async def serve(
    config: Config, listener: socket.socket, most_files: int, telemetry: Telemetry, traces: Traces
) -> None:
    """Serves until a stop signal, with a connection to the server."""
    channel = open_channel(config)
    try:
        most = most_files - SPARE_FILES
        await serving.serve(channel, config, listener, most, config.daemon_server, _ready, telemetry, traces)
    finally:
        await channel.close()


def _ready(address: str) -> None:
    print(f"ready {address}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The console entry `dcp-gateway`. Returns 0 after a drain and 2 for an invalid setting."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    asked = parse_arguments(arguments)
    try:
        config = Config.from_env(os.environ)
        if asked.command == "health":
            return health.run(config.listen, asked.wait)
        listener = serving.listen(config.listen)
    except ConfigError as error:
        print(f"dcp-gateway: {error}", file=sys.stderr)
        return 2
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(config.log_format))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
    try:
        telemetry = opened(config.metrics_listen, METRICS, "gateway", metadata.version("dcp-marketplace"))
    except OSError as error:
        print(f"dcp-gateway: {refusal(config.metrics_listen, error)}", file=sys.stderr)
        return 2
    traces = tracing.opened(config.traces, "gateway", metadata.version("dcp-marketplace"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, listener, raise_file_limit(), telemetry, traces))
    telemetry.close()
    traces.close()
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Handles the command, --help and --version; all settings come from environment variables."""
    lines = [f"  {v.name:<27} {v.meaning} (default: {v.default or 'none'})" for v in VARIABLES]
    parser = argparse.ArgumentParser(
        prog="dcp-gateway",
        description="Serves the marketplace's JSON API over HTTP and calls the server over gRPC.\n"
        "Without a command it serves until SIGTERM, and stops after a drain.",
        epilog="\n".join(["environment:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=metadata.version("dcp-marketplace"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    asking = commands.add_parser(
        "health",
        help="ask the running gateway of these settings whether it is ready",
        description="Exit status 0 if it is ready, 1 if it is not, 2 if a setting is wrong.",
    )
    asking.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may take (default: 0)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
