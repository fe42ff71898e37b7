"""The address that a call comes from: the peer's, or the address that a trusted gateway reports.

This module counts nothing; ``server.rpc.limits`` does.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from server.config import Network

FORWARDED = "x-forwarded-for"
REMEMBERED = 16_384


class Addresses:
    """Finds the address of a call.

    Any caller can send ``x-forwarded-for``, so it is believed only from peers on this machine and from the
    networks in ``trusted``, where the gateways are.
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = trusted
        self._read_peer = functools.lru_cache(maxsize=REMEMBERED)(self._read)

    def of(self, peer: str, metadata: Iterable[tuple[str, Any]] | None) -> str:
        """The address by which the limits count a call from gRPC's ``peer``.

        It is an IPv4 address, or an IPv6 network of 64 bits, since one subscriber gets a whole network.
        """
        address, is_trusted = self._read_peer(peer)
        if is_trusted:
            for key, value in metadata or ():
                if key == FORWARDED:
                    return _counted(str(value))
        return address

    def _read(self, peer: str) -> tuple[str, bool]:
        kind, _, rest = peer.partition(":")
        host = unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
        try:
            address = _plain(ipaddress.ip_address(host))
        except ValueError:
            return peer, kind == "unix"
        is_trusted = address.is_loopback or any(address in network for network in self._trusted)
        return _counted(host), is_trusted


@functools.lru_cache(maxsize=REMEMBERED)
def _counted(text: str) -> str:
    try:
        address = _plain(ipaddress.ip_address(text.rpartition(",")[2].strip()))
    except ValueError:
        return text[:64]
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside an IPv4-mapped IPv6 address; any other address unchanged."""
    return getattr(address, "ipv4_mapped", None) or address
