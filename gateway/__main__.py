"""Owns the gateway's process: command line, socket, signals, exit code.

It does not know routes or messages: `app` builds the application that is served here.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import uvicorn
import uvloop

from common.files import raise_file_limit
from common.printing import print_anything
from gateway.app import build_app, open_channel
from gateway.config import VARIABLES, Address, Config, ConfigError
from gateway.connections import Door, http_settings
from gateway.limits import SPARE_FILES

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn that prints its address when it is ready, and exits with 0 after a stop signal."""

    def __init__(self, config: uvicorn.Config, door: Door, address: Address) -> None:
        super().__init__(config)
        self._door = door
        self._address = address

    async def on_tick(self, counter: int) -> bool:
        """Looks at the connections once a second; uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            self._door.sweep()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to serve, then prints `ready` and the address."""
        await super().startup(sockets)
        print(f"ready http://{self._address}", flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drains on a signal. uvicorn's own handler raises the signal again, so the exit code is not 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listen(address: Address) -> socket.socket:
    """Returns a socket that is bound to the address. Raises ConfigError if the address cannot be used."""
    try:
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"DCP_HTTP_LISTEN={address}: {error.strerror}: choose an address of this machine"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(f"DCP_HTTP_LISTEN={address}: {error.strerror}: choose another port") from None
    return listener


async def serve(config: Config, listener: socket.socket, most_files: int) -> None:
    """Serves on the socket until SIGTERM or SIGINT arrives, then lets running requests finish."""
    address = Address(config.listen.host, listener.getsockname()[1])
    channel = open_channel(config)
    try:
        door = Door(
            min(config.max_connections, most_files - SPARE_FILES),
            config.max_address_connections,
            config.trusted_proxies,
        )
        server = Server(
            http_settings(build_app(channel, daemon_server=config.daemon_server), door), door, address
        )
        await server.serve(sockets=[listener])
    finally:
        await channel.close()


def main(arguments: list[str] | None = None) -> int:
    """The console entry `dcp-gateway`. Returns 0 after a drain and 2 for an invalid setting."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    parse_arguments(arguments)
    try:
        config = Config.from_env(os.environ)
        listener = listen(config.listen)
    except ConfigError as error:
        print(f"dcp-gateway: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if not config.listen.is_loopback:
        log.warning(
            "DCP_HTTP_LISTEN=%s serves plain HTTP and DCP_INSECURE=true allows it: keys travel unencrypted "
            "unless a proxy that serves HTTPS stands in front",
            config.listen,
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
