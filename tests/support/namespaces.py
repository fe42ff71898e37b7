"""A network of the test's own: a bridge, and a network namespace with an address for each program.

Only this machine itself reaches its hosts, and they reach nothing else. Every packet between two of them can
be dropped, in both directions or in one. All of it is removed at the end, and nothing else is touched.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_network

_PROGRAMS = ("ip", "iptables", "nsenter", "setpriv")
_TRIES = 32


def missing() -> str:
    """Why no network can be created here; empty if one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(lacking)} missing: install iproute2, iptables and util-linux"
    try:
        with network() as tried:
            tried.cut(tried.host("a"), tried.host("b"))
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be used: {' '.join(error.cmd)}: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    name: str
    namespace: str
    address: str
    cable: str
    """The bridge's end of its interface."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that runs another one in it, in the same process."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}")

    def cut_off(self) -> None:
        """Pulls its cable: it reaches nobody and is reached by nobody."""
        _run("ip", "link", "set", self.cable, "down")

    def join(self) -> None:
        """Plugs its cable in again."""
        _run("ip", "link", "set", self.cable, "up")


@dataclass
class Network:
    """A bridge with hosts. It has an address too, by which this machine's own programs reach the hosts."""

    subnet: IPv4Network
    bridge: str
    hosts: dict[str, Host] = field(default_factory=dict)

    def host(self, name: str) -> Host:
        """The host of a name, which is created at its first mention."""
        if name not in self.hosts:
            number = len(self.hosts) + 1
            address = str(self.subnet[number + 1])
            # Noted first: what fails half-way is removed too.
            new = self.hosts[name] = Host(name, f"{self.bridge}-{number}", address, f"{self.bridge}p{number}")
            _run("ip", "netns", "add", new.namespace)
            _run("ip", "link", "add", new.cable, "type", "veth", "peer", "eth0", "netns", new.namespace)
            _run("ip", "link", "set", new.cable, "master", self.bridge, "up")
            _in(new, "ip", "address", "add", f"{address}/{self.subnet.prefixlen}", "dev", "eth0")
            _in(new, "ip", "link", "set", "eth0", "up")
            _in(new, "ip", "link", "set", "lo", "up")
        return self.hosts[name]

    def cut(self, sender: Host, receiver: Host) -> None:
        """Drops every packet from one host to another."""
        _in(receiver, "iptables", "-w", "-A", "INPUT", "-s", sender.address, "-j", "DROP")

    def mend(self, sender: Host, receiver: Host) -> None:
        """Ends one ``cut``."""
        _in(receiver, "iptables", "-w", "-D", "INPUT", "-s", sender.address, "-j", "DROP")

    def remove(self) -> None:
        """Removes what was created. Nothing may run in the hosts any more."""
        for host in self.hosts.values():
            # An interface ends with its peer, but a namespace lives on while a connection in it ends.
            for command in (("link", "delete", host.cable), ("netns", "delete", host.namespace)):
                subprocess.run(["ip", *command], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)


@contextmanager
def network() -> Iterator[Network]:
    """A network without hosts, which is removed at the end whatever happened in it."""
    made = Network(_free_subnet(), f"dcp{secrets.token_hex(3)}")
    try:
        _run("ip", "link", "add", made.bridge, "type", "bridge")
        _run("ip", "address", "add", f"{made.subnet[1]}/{made.subnet.prefixlen}", "dev", made.bridge)
        _run("ip", "link", "set", made.bridge, "up")
        yield made
    finally:
        made.remove()


def _free_subnet() -> IPv4Network:
    """A private network that no route of this machine leads to but the default one."""
    routes = json.loads(_run("ip", "-json", "-4", "route", "show", "table", "all"))
    taken = [ip_network(route["dst"]) for route in routes if route["dst"][0].isdigit()]
    for _ in range(_TRIES):
        subnet = IPv4Network(f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.0/24")
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise RuntimeError(f"no free private network among {_TRIES}")


def _in(host: Host, *command: str) -> str:
    return _run(*host.prefix, *command)


def _run(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, encoding="utf-8", timeout=30
    ).stdout
