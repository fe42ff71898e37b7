"""Owns how the application is served over HTTP: the socket, the stop signals, the drain.

It does not know routes or messages: `app` builds the application that is served here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from common import tracing
from common.telemetry import OFF, Telemetry
from common.tracing import Traces
from gateway.app import build_app
from gateway.channel import Channel
from gateway.config import Address, Config, ConfigError
from gateway.connections import Door, http_settings
from gateway.exchanges import Exchanges

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn that reports when it is ready, and exits with 0 after a stop signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        door: Door,
        on_ready: Callable[[], None],
        telemetry: Telemetry = OFF,
    ) -> None:
        super().__init__(config)
        self._telemetry = telemetry
        self._door = door
        self._on_ready = on_ready

    async def on_tick(self, counter: int) -> bool:
        """Looks at the connections once a second; uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            self._door.sweep()
            self._telemetry.set("dcp_http_connections_open", self._door.connections)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to serve, then reports it."""
        await super().startup(sockets)
        self._on_ready()

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


async def serve(
    channel: Channel,
    config: Config,
    listener: socket.socket,
    most_connections: int,
    daemon_server: Address,
    on_ready: Callable[[str], None],
    telemetry: Telemetry = OFF,
    traces: Traces = tracing.OFF,
) -> None:
    """Serves on the socket until SIGTERM or SIGINT arrives, then lets running requests finish.

    ``most_connections``: what the system's limit of open files allows. ``daemon_server``: the server as
    the pages name it to providers. ``on_ready`` is called with the address when requests are served.
    """
    if not config.listen.is_loopback:
        log.warning(
            "DCP_HTTP_LISTEN=%s serves plain HTTP and DCP_INSECURE=true allows it: keys travel unencrypted "
            "unless a proxy that serves HTTPS stands in front",
            config.listen,
        )
    door = Door(
        min(config.max_connections, most_connections),
        config.max_address_connections,
        config.trusted_proxies,
        telemetry=telemetry,
    )
    is_recorded = telemetry.is_on or traces.is_on or config.access_log
    exchanges = Exchanges(telemetry, traces, has_log=config.access_log) if is_recorded else None
    app = build_app(channel, daemon_server=daemon_server, exchanges=exchanges)
    address = f"http://{Address(config.listen.host, listener.getsockname()[1])}"
    server = Server(http_settings(app, door), door, functools.partial(on_ready, address), telemetry)
    duty = asyncio.ensure_future(app.duty())
    try:
        await server.serve(sockets=[listener])
    finally:
        duty.cancel()
        await asyncio.wait([duty])
