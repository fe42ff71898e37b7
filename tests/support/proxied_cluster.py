"""A market of several servers on this machine with a proxy on each way between two of its programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.cluster import Cluster, Nats
from scripts.market import UNLIMITED, Program
from scripts.postgres import PostgresProgram
from tests.support.scene import SCRIPTED
from tests.support.tcp_proxy import TcpProxy

SETTINGS = {**UNLIMITED, "DCP_SANDBOX_TOPUP": "true"}


def wrong_clocks(skews: Mapping[int, float]) -> dict[str, tuple[str, ...]]:
    """Commands that run servers, by their numbers, with clocks that are wrong by these seconds."""
    clock = (sys.executable, "-m", "tests.support.wrong_clock")
    return {f"server-{number}": (*clock, f"{skew:.0f}") for number, skew in skews.items()}


class Site:
    """PostgreSQL and NATS of one's own, servers, gateways, and daemons that know all servers."""

    postgres: PostgresProgram
    nats: Nats
    cluster: Cluster

    def __init__(self) -> None:
        self.providers: dict[int, str] = {}
        """Their keys by their ids."""

    def add_daemon(self) -> tuple[int, Program]:
        """Starts a daemon of a new provider, and waits until it has a session."""
        email = f"p{len(self.providers)}@example.com"
        provider_id, key = self.cluster.markets[0].register_provider("Node", email)
        self.providers[provider_id] = key
        return provider_id, self.cluster.add_daemon(key, command=SCRIPTED, settings=self.daemon_settings)

    @property
    def daemon_settings(self) -> Mapping[str, str]:
        """Additional settings of daemons."""
        return {}

    @property
    def programs(self) -> dict[str, Program]:
        """Every program of ours, by name."""
        cluster = self.cluster
        return {
            **{f"server-{n}": each for n, each in enumerate(cluster.server_programs)},
            **{f"gateway-{n}": each for n, each in enumerate(cluster.gateway_programs)},
            **{f"daemon-{n}": each for n, each in enumerate(cluster.daemons)},
        }

    def end(self) -> None:
        """Kills every program of ours."""
        for market in self.cluster.markets:
            market.http.close()
        for program in self.programs.values():
            program.kill()


class ProxiedCluster(Site):
    """A site whose programs call one another through proxies."""

    def __init__(
        self, folder: Path, stack: ExitStack, servers: int, skews: Mapping[int, float], *, apart: bool
    ) -> None:
        super().__init__()
        self._stack = stack
        self.ways: dict[str, TcpProxy] = {}
        """The proxies by the names of both ends, the one that calls first: ``gateway-0 server-1``."""
        self.postgres = stack.enter_context(PostgresProgram())
        self.nats = Nats(folder)
        stack.callback(self.nats.stop)
        own: dict[int, dict[str, str]] = {}
        for number in range(servers):
            database = self._way(f"server-{number} postgres", self.postgres.address)
            bus = self._way(f"server-{number} nats", self.nats.url.removeprefix("nats://"))
            own[number] = {"DCP_DATABASE_URL": self.postgres.url(database), "DCP_BUS": f"nats://{bus}"}
        self.cluster = Cluster(
            folder,
            "",
            servers=servers,
            apart=apart,
            own_settings=own,
            prefixes=wrong_clocks(skews),
            settings=SETTINGS,
            before=lambda client, address: self._way(f"{client} {self._name(address)}", address),
        )
        stack.callback(self.end)
        self.cluster.start()

    def _name(self, address: str) -> str:
        return f"server-{[program.address for program in self.cluster.server_programs].index(address)}"

    def _way(self, name: str, address: str) -> str:
        if name not in self.ways:
            self.ways[name] = self._stack.enter_context(TcpProxy(address))
        return self.ways[name].address


@contextmanager
def built(
    folder: Path, *, servers: int, daemons: int, skews: Mapping[int, float] | None = None, apart: bool = False
) -> Iterator[ProxiedCluster]:
    """A running market, and the end of all its programs. ``skews``: how wrong clocks are, by server.

    ``apart``: as for Cluster.
    """
    with ExitStack() as stack:
        site = ProxiedCluster(folder, stack, servers, skews or {}, apart=apart)
        for _ in range(daemons):
            site.add_daemon()
        yield site
