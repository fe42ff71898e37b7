"""A market of several servers, each program in a network namespace with an address and a cable of its own.

The servers speak TLS to gateways and daemons, as between machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from scripts.cluster import Cluster, Nats
from scripts.postgres import PostgresProgram
from tests.support.namespaces import Host, Network, network
from tests.support.proxied_cluster import SETTINGS, Site, wrong_clocks

GATEWAYS = 2
_NAME = "servers.example"


class PartedCluster(Site):
    """A site in a network whose packets can be dropped."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        network: Network,
        servers: int,
        daemons: int,
        skews: Mapping[int, float],
    ) -> None:
        super().__init__()
        self.network = network
        self._servers, self._daemons = servers, daemons
        self._folder = folder
        store, bus = network.host("postgres"), network.host("nats")
        self.postgres = stack.enter_context(PostgresProgram(store.address, store.prefix))
        self.nats = Nats(folder, bus.address, bus.prefix)
        stack.callback(self.nats.stop)
        names = [*self._names("server", servers), *self._names("gateway", GATEWAYS)]
        hosts = {name: network.host(name) for name in (*names, *self._names("daemon", daemons))}
        self._certify([hosts[name] for name in names])
        clocks = wrong_clocks(skews)
        self.cluster = Cluster(
            folder,
            self.postgres.url(),
            servers=servers,
            gateways=GATEWAYS,
            bus=self.nats.url,
            settings={**SETTINGS, "DCP_TLS_CERT": self._pem("server"), "DCP_TLS_KEY": self._pem("key")},
            # Only this machine reaches the gateways' network.
            gateway_settings={**self.daemon_settings, "DCP_TLS_SERVER_NAME": _NAME, "DCP_INSECURE": "true"},
            prefixes={name: (*host.prefix, *clocks.get(name, ())) for name, host in hosts.items()},
            hosts={name: hosts[name].address for name in names},
        )
        stack.callback(self.end)
        self.cluster.start()
        for _ in range(daemons):
            self.add_daemon()

    @property
    def daemon_settings(self) -> Mapping[str, str]:
        """What a caller of the servers needs to trust them."""
        return {"DCP_TLS_CA": self._pem("authority")}

    @property
    def ways(self) -> dict[str, tuple[Host, Host]]:
        """Both ends of each way between two programs, the one that calls first, by their names."""
        servers = self._names("server", self._servers)
        callers = [*self._names("gateway", GATEWAYS), *self._names("daemon", self._daemons)]
        pairs = [(caller, server) for caller in callers for server in servers]
        pairs += [(server, needed) for server in servers for needed in ("postgres", "nats")]
        host = self.network.host
        return {f"{caller} {called}": (host(caller), host(called)) for caller, called in pairs}

    def _names(self, kind: str, count: int) -> list[str]:
        return [f"{kind}-{number}" for number in range(count)]

    def _pem(self, name: str) -> str:
        return str(self._folder / f"{name}.pem")

    def _certify(self, hosts: list[Host]) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._pem("authority"))
        issued = authority.issue_cert(_NAME, *(host.address for host in hosts))
        issued.private_key_pem.write_to_path(self._pem("key"))
        issued.cert_chain_pems[0].write_to_path(self._pem("server"))


@contextmanager
def parted(
    folder: Path, *, servers: int, daemons: int, skews: Mapping[int, float]
) -> Iterator[PartedCluster]:
    """A running market, and the end of all its programs and of its network. ``skews``: as for ``built``."""
    with ExitStack() as stack:
        yield PartedCluster(folder, stack, stack.enter_context(network()), servers, daemons, skews)
