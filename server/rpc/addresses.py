"""The address that a call comes from: the peer's, or the address that a trusted gateway reports.

This module counts nothing; ``server.rpc.limits`` does. What an address is, ``common.addresses`` decides.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from common import addresses
from common.addresses import Address, Network

FORWARDED = "x-forwarded-for"
REMEMBERED = 16_384
# A longer text is not remembered, so that texts from outside fill no memory.
LONGEST_REMEMBERED = 64


class Addresses:
    """Finds the address of a call.

    Any caller can send ``x-forwarded-for``, so it is believed only from peers on this machine and from the
    networks in ``trusted``, where the gateways are.
    """

    def __init__(self, trusted: Sequence[Network] = (), *, needs_certificate: bool = False) -> None:
        """``needs_certificate``: it is believed only from peers with a certificate."""
        self._trusted = trusted
        self.needs_certificate = needs_certificate
        self._remembered = functools.lru_cache(maxsize=REMEMBERED)(self._find)

    def of(self, peer: str, metadata: Iterable[tuple[str, Any]] | None, *, is_certified: bool = True) -> str:
        """The address by which the limits count a call from gRPC's ``peer``.

        It is an IPv4 address, or an IPv6 network of 64 bits, since one subscriber gets a whole network.
        """
        forwarded = ",".join(str(value) for key, value in metadata or () if key == FORWARDED)
        if not is_certified:
            forwarded = ""
        find = self._remembered if len(forwarded) <= LONGEST_REMEMBERED else self._find
        return find(peer, forwarded)

    def is_gateway(self, peer: str) -> bool:
        """Whether gRPC's ``peer`` is where gateways are: on this machine, or in their networks."""
        kind, address = _peer(peer)
        return kind == "unix" or (address is not None and self._is_trusted(address))

    def _find(self, peer: str, forwarded: str) -> str:
        kind, address = _peer(peer)
        if kind == "unix" or (address is not None and self._is_trusted(address)):
            address = addresses.client(address, forwarded, self._is_trusted)
        return peer if address is None else addresses.counted(address)

    def _is_trusted(self, address: Address) -> bool:
        return address.is_loopback or addresses.is_within(address, self._trusted)


def _peer(peer: str) -> tuple[str, Address | None]:
    """The kind of gRPC's ``peer``, and its address if it has one."""
    kind, _, rest = peer.partition(":")
    return kind, addresses.parse(unquote(rest)) if kind in ("ipv4", "ipv6") else None
