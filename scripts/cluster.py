"""A market of several servers on this machine: PostgreSQL, NATS, servers and gateways, until Ctrl-C.

Everything is new at each start and deleted at the end. Tests and benchmarks use ``Cluster`` too.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from common.interrupts import interrupts
from scripts.market import Market, NotReadyError, Program, server_env
from scripts.postgres import postgres_server

READY_SECONDS = 20.0
LOOPBACK = "127.0.0.1"


class Nats:
    """A NATS server of one's own, on the loopback or on ``host``, where the command ``prefix`` runs it."""

    def __init__(self, folder: Path, host: str = LOOPBACK, prefix: Sequence[str] = ()) -> None:
        self.log = folder / "nats.log"
        self._host, self._prefix = host, prefix
        self.port, self._monitoring_port = _free_ports(2)
        self.start()

    @property
    def url(self) -> str:
        """Where it listens, as DCP_BUS."""
        return f"nats://{self._host}:{self.port}"

    def counters(self) -> dict[str, Any]:
        """What it has counted since its start, such as ``in_msgs`` and ``out_bytes``."""
        answer: dict[str, Any] = httpx.get(f"http://{self._host}:{self._monitoring_port}/varz").json()
        return answer

    def start(self) -> None:
        """Starts it and waits until it accepts connections. Raises NotReadyError."""
        program = _installed("nats-server")
        ports = ("-p", str(self.port), "-m", str(self._monitoring_port))
        command = [*self._prefix, program, "-a", self._host, *ports]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection((self._host, self.port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        words = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise NotReadyError(f"nats-server did not become ready:\n{words}")

    def stop(self) -> None:
        """Kills it: it keeps nothing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Cluster:
    """Several servers on one database, and gateways before them."""

    folder: Path
    database_url: str
    servers: int = 2
    gateways: int = 2
    bus: str = ""
    """DCP_BUS; empty: the servers look each second."""
    apart: bool = False
    """The gateway of each number calls only the server of that number; else every gateway calls all."""
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    settings: Mapping[str, str] = field(default_factory=dict)
    """Additional DCP_ settings for the servers."""
    own_settings: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Additional DCP_ settings for the server of a number."""
    before: Callable[[str, str], str] = lambda client, address: address
    """The address by which a program, such as gateway-0, calls a server: a test's proxy has its own."""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands that run a program, by its name, such as server-0 with faketime's."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Where a server or gateway listens, by its name; the others on the loopback."""
    gateway_settings: Mapping[str, str] = field(default_factory=dict)
    """Additional DCP_ settings for the gateways."""
    server_programs: list[Program] = field(default_factory=list, init=False)
    gateway_programs: list[Program] = field(default_factory=list, init=False)
    daemons: list[Program] = field(default_factory=list, init=False)
    _starting: list[threading.Thread] = field(default_factory=list, init=False)
    _started: dict[int, Program | Exception] = field(default_factory=dict, init=False)
    markets: list[Market] = field(default_factory=list, init=False)
    """The market as each gateway shows it."""

    def start(self) -> Cluster:
        """Starts all programs, the servers at once, and waits until each gateway is ready."""
        self._starting = [threading.Thread(target=self._start_server, args=(n,)) for n in range(self.servers)]
        for thread in self._starting:
            thread.start()
        for thread in self._starting:
            thread.join()
        for number in range(self.servers):
            started = self._started[number]
            if isinstance(started, Exception):
                raise started
            self.server_programs.append(started)
        for number in range(self.gateways):
            self._start_gateway(number)
        return self

    @property
    def addresses(self) -> str:
        """The addresses of all servers, as DCP_SERVER of gateways and daemons."""
        return ",".join(program.address for program in self.server_programs)

    def _way(self, client: str, number: int | None) -> str:
        """DCP_SERVER of a program: the server of a number, or all."""
        programs = self.server_programs if number is None else [self.server_programs[number]]
        return ",".join(self.before(client, program.address) for program in programs)

    def add_daemon(
        self,
        provider_key: str,
        *,
        server: int | None = None,
        settings: Mapping[str, str] | None = None,
        name: str = "",
        command: Sequence[str] = (),
    ) -> Program:
        """Starts a daemon at one server, or at any, and waits until it has a session."""
        name = name or f"daemon-{len(self.daemons)}"
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        daemon = Program(
            "dcp-daemon",
            "run",
            env={
                "HOME": str(folder),
                "DCP_SERVER": self._way(name, server),
                "DCP_PROVIDER_KEY": provider_key,
                "DCP_STATE_DIR": str(folder / "state"),
                **(settings or {}),
            },
            folder=folder,
            command=self._command(name, command or (_installed("dcp-daemon"),)),
        )
        self.daemons.append(daemon)
        return daemon

    def stop(self) -> None:
        """Checks the ledger, then ends all programs. Raises UnbalancedError."""
        try:
            if self.markets and all(program.is_running for program in self.server_programs):
                self.markets[0].check_ledger()
        finally:
            for market in self.markets:
                market.http.close()
            # After an interruption some may be starting; a join that was interrupted cannot be repeated.
            begun = sum(thread.ident is not None for thread in self._starting)
            while len(self._started) < begun:
                time.sleep(0.05)
            started = [each for each in self._started.values() if isinstance(each, Program)]
            for program in (*self.daemons, *self.gateway_programs, *started):
                program.stop()

    def __enter__(self) -> Cluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self, name: str, command: Sequence[str]) -> tuple[str, ...]:
        return (*self.prefixes.get(name, ()), *command)

    def _start_server(self, number: int) -> None:
        name = f"server-{number}"
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            program = Program(
                "dcp-server",
                env={
                    **server_env(
                        self.folder,
                        self.database_url,
                        f"{self.hosts.get(name, LOOPBACK)}:0",
                        self.admin_token,
                    ),
                    "DCP_SERVER_NAME": name,
                    "DCP_BUS": self.bus,
                    **self.settings,
                    **self.own_settings.get(number, {}),
                },
                folder=folder,
                command=self._command(name, (_installed("dcp-server"),)),
            )
            program.env["DCP_GRPC_LISTEN"] = program.address
            self._started[number] = program
        except Exception as error:
            self._started[number] = error

    def _start_gateway(self, number: int) -> None:
        name = f"gateway-{number}"
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        server = self._way(name, number if self.apart else None)
        market = Market(
            folder,
            admin_token=self.admin_token,
            gateway_settings=self.gateway_settings,
            http_listen=f"{self.hosts.get(name, LOOPBACK)}:0",
            embedded=False,
        )
        gateway = market.start_gateway(server, command=self._command(name, (_installed("dcp-gateway"),)))
        self.gateway_programs.append(gateway)
        self.markets.append(market)
        market.wait_ready()


def _installed(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def main() -> int:
    """Starts a cluster, prints its addresses and waits for Ctrl-C or SIGTERM."""
    options = _options()
    os.umask(0o077)
    with ExitStack() as stack:
        stopped = stack.enter_context(interrupts(signal.SIGINT, signal.SIGTERM))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dcp-cluster-")))
        try:
            url = stack.enter_context(postgres_server(in_memory=False))
            bus = ""
            if not options.no_bus:
                nats = Nats(folder)
                stack.callback(nats.stop)
                bus = nats.url
            cluster = Cluster(
                folder,
                url,
                servers=options.servers,
                gateways=options.gateways,
                bus=bus,
                settings={"DCP_SANDBOX_TOPUP": "true"},
            )
            stack.enter_context(cluster)
            for count in range(1, options.daemons + 1):
                _, key = cluster.markets[0].register_provider(
                    f"Provider {count}", f"provider-{count}@example.com"
                )
                cluster.add_daemon(key)
            _show(cluster, url, bus, folder)
            while not stopped(1.0):
                pass
            print("\nstopping", flush=True)
        except (NotReadyError, httpx.HTTPError) as error:
            print(f"cluster: {error}", file=sys.stderr)
            return 1
    return 0


def _show(cluster: Cluster, url: str, bus: str, folder: Path) -> None:
    print("gateways:", *(market.url for market in cluster.markets))
    print("servers: ", cluster.addresses)
    print("NATS:    ", bus or "none: the servers look each second")
    print("database:", url)
    print("logs:    ", folder)
    print("operator's token:", cluster.admin_token)
    print("\nCtrl-C stops all of it and deletes its data.", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description="Runs a market of several servers on this machine until Ctrl-C: PostgreSQL, NATS,\n"
        "servers, gateways that call all of them, and daemons that connect to any. All data is new, and\n"
        "deleted at the end.",
        epilog="example:\n  scripts/cluster --servers 3 --gateways 2 --daemons 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--servers", type=int, default=2, metavar="N", help="how many (default: 2)")
    parser.add_argument("--gateways", type=int, default=2, metavar="N", help="how many (default: 2)")
    parser.add_argument("--daemons", type=int, default=0, metavar="N", help="how many (default: 0)")
    parser.add_argument("--no-bus", action="store_true", help="without NATS: the servers look each second")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
