"""``dcp-server``: reads the settings, serves until SIGTERM or SIGINT, drains, exits."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

import uvloop

from common.files import raise_file_limit
from server.app import Server
from server.config import VARIABLES, Config, ConfigError
from server.store.database import DatabaseUrlError
from server.version import CURRENT


def main() -> int:
    """The console command. Exit status 0 after a drain, 2 on a bad setting."""
    _parser().parse_args()
    raise_file_limit()
    try:
        config = Config.from_env(os.environ)
        logging.basicConfig(
            level=config.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
        )
        # At debug, peewee logs statements with their values, which include prompts and names.
        logging.getLogger("peewee").setLevel(logging.INFO)
        uvloop.run(_serve(config))
    except ConfigError as error:
        print(f"dcp-server: {error}", file=sys.stderr)
        return 2
    except DatabaseUrlError as error:
        print(f"dcp-server: DCP_DATABASE_URL: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config)
    await server.start()
    print(f"ready {server.address}", flush=True)
    await stop.wait()
    await server.stop()


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {v.name:<18} {v.meaning} (default: {v.default or 'unset'})" for v in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="dcp-server",
        description="The marketplace's server: accounts, jobs, money, and the daemons' sessions, over gRPC.",
        epilog=f"settings, from the environment:\n{table}\n\nStops on SIGTERM after a drain.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=CURRENT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
