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

from common.files import raise_file_limit
from common.printing import print_anything
from gateway import serving
from gateway.channel import open_channel
from gateway.config import VARIABLES, Config, ConfigError
from gateway.limits import SPARE_FILES


async def serve(config: Config, listener: socket.socket, most_files: int) -> None:
    """Serves until a stop signal, with a connection to the server."""
    channel = open_channel(config)
    try:
        most = most_files - SPARE_FILES
        await serving.serve(channel, config, listener, most, config.daemon_server, _ready)
    finally:
        await channel.close()


def _ready(address: str) -> None:
    print(f"ready {address}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The console entry `dcp-gateway`. Returns 0 after a drain and 2 for an invalid setting."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    parse_arguments(arguments)
    try:
        config = Config.from_env(os.environ)
        listener = serving.listen(config.listen)
    except ConfigError as error:
        print(f"dcp-gateway: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, listener, raise_file_limit()))
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Handles --help and --version; all settings come from environment variables."""
    lines = [f"  {v.name:<27} {v.meaning} (default: {v.default or 'none'})" for v in VARIABLES]
    parser = argparse.ArgumentParser(
        prog="dcp-gateway",
        description="Serves the marketplace's JSON API over HTTP and calls the server over gRPC.",
        epilog="\n".join(["environment:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=metadata.version("dcp-marketplace"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
