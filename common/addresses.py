"""Owns how addresses are read, and the one rule for a client's: the peer's, or what trusted proxies report.

It knows neither HTTP nor gRPC, and counts nothing.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# A longer list of proxies is not believed: nobody has as many, and each entry costs time.
MAX_HOPS = 32
SITE_FACTOR = 8
"""The limit of a site, in limits of one address: whoever asks gets one, with 65,536 networks of 64 bits."""
_REMEMBERED = 16_384
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|([\d.]+):\d{1,5}", re.ASCII)


def parse(text: str) -> Address | None:
    """The IP address in a proxy's entry, which may have brackets, a port and a zone; None for anything else.

    An IPv4 address inside an IPv6 address is returned as IPv4.
    """
    host = text.strip()
    if found := _WITH_PORT.fullmatch(host):
        host = found[1] or found[2] or ""
    if ":" in host:
        host = host.partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def host_port(text: str, least_port: int = 0) -> tuple[str, int] | None:
    """The host, without brackets, and the port of `HOST:PORT`; None for anything else."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not host or not host.isprintable() or not is_number or not least_port <= int(port) <= 65535:
        return None
    return host, int(port)


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks contains the address."""
    return any(address in network for network in networks)


def client(peer: Address | None, forwarded: str, is_trusted: Callable[[Address], bool]) -> Address | None:
    """The address that a trusted peer's X-Forwarded-For reports: the last one that is not a trusted proxy's.

    Whatever is not an address is worth nothing: the peer's own address counts.
    """
    found = peer
    for entry in reversed(forwarded.rsplit(",", MAX_HOPS)):
        address = parse(entry)
        if address is None:
            return peer
        found = address
        if not is_trusted(address):
            break
    return found


def counted(address: Address) -> str:
    """The name by which limits count an address: an IPv6 subscriber has a whole network of 64 bits."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


@functools.lru_cache(maxsize=_REMEMBERED)
def site(name: str) -> str:
    """The name of the site of a counted address: the IPv6 network of 48 bits; empty for any other name."""
    if not name.endswith("::/64"):
        return ""
    return str(ipaddress.ip_network((name.removesuffix("/64"), 48), strict=False))
