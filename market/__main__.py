"""``dcp-market``: server and gateway in one process, with the settings of both, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence

import uvloop

import gateway.config
import gateway.telemetry
import server.config
import server.telemetry
from common import tracing
from common.files import raise_file_limit
from common.printing import print_anything
from common.telemetry import Telemetry
from common.tracing import Traces
from gateway import serving
from gateway.config import Address
from market.channel import EmbeddedChannel
from server import logs
from server.program import collect_seldom, exit_status, leave_out_drivers, measuring, stop_signal
from server.version import CURRENT

# The way from a gateway to its server, which here is none.
_WITHOUT = ("DCP_SERVER", "DCP_TLS_CA")
METRICS = (*server.telemetry.METRICS, *gateway.telemetry.METRICS)


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Exit status 0 after a drain, 2 for a bad setting."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    most_files = raise_file_limit()
    _parser().parse_args(argv)
    # Half of the files are for daemons' connections and the database.
    return exit_status("dcp-market", lambda: _run(most_files // 2))


def _run(most_connections: int) -> int:
    try:
        config = server.config.Config.from_env(os.environ)
        http = gateway.config.Config.from_env(_for_gateway(os.environ))
        logs.set_up(config.log_level, config.log_format)
        leave_out_drivers(config.database_url)
        measures = measuring(config.metrics_listen, METRICS, "market")
        traces = tracing.opened(config.traces, "market", CURRENT)
        try:
            listener = serving.listen(http.listen)
            uvloop.run(_serve(config, http, listener, most_connections, measures, traces))
        finally:
            measures.close()
            traces.close()
    except gateway.config.ConfigError as error:
        raise server.config.ConfigError(str(error)) from None
    return 0


async def _serve(
    config: server.config.Config,
    http: gateway.config.Config,
    listener: socket.socket,
    most_connections: int,
    measures: Telemetry,
    traces: Traces,
) -> None:
    """Starts the server, then HTTP; at the end HTTP is drained first, as its requests need the server."""
    from server.app import Server  # it loads the drivers that are not left out

    collect_seldom()
    stopped = stop_signal()
    running = Server(config, telemetry=measures, traces=traces)
    await running.start()
    try:
        _ready(running.address)
        if not stopped.is_set():
            port = int(running.address.rpartition(":")[2])
            async with EmbeddedChannel(running.methods.handler) as channel:
                daemon_server = http.public_server or Address("", port)
                await serving.serve(
                    channel, http, listener, most_connections, daemon_server, _ready, measures, traces
                )
    finally:
        await running.stop()


def _ready(address: str) -> None:
    print(f"ready {address}", flush=True)


def _for_gateway(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in _WITHOUT}


def _parser() -> argparse.ArgumentParser:
    lines = {
        name: f"  {name:<27} {meaning} (default: {default or 'unset'})"
        for name, default, meaning in (*server.config.VARIABLES, *gateway.config.VARIABLES)
        if name not in _WITHOUT
    }
    parser = argparse.ArgumentParser(
        prog="dcp-market",
        description="dcp-server and dcp-gateway in one process, with the settings and the ports of both.\n"
        "Prints the address of each port when it is ready, and serves until SIGTERM.",
        epilog=f"settings, from the environment ({' and '.join(_WITHOUT)} are ignored):\n"
        + "\n".join(lines.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=CURRENT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
