"""Rules of targets: the URLs and addresses of strangers to which this server may send requests.

Only addresses of ordinary hosts on the public internet are targets. This module resolves no names; whoever
connects asks ``is_public`` about each address that a name has.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from server.domain.errors import invalid_field

# The IANA registry of special-purpose addresses, whole, and multicast: the standard library's tables differ
# between versions of Python, and call the anycast networks of the registry (AS112, AMT, PCP, TURN) global.
_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Hosts have addresses from this block. All others are special: translation (64:ff9b::/96, 64:ff9b:1::/48),
# discard, segment routing (5f00::/16), local, site-local, multicast, or not assigned.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # whole: Teredo, benchmarks, ORCHID, and anycast networks
        "2001:db8::/32",
        "2002::/16",  # 6to4: a relay could lead to the private IPv4 address that it contains
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def check_url(url: str, *, allow_private: bool) -> None:
    """Raises INVALID_FIELD if events can never be sent to this URL.

    A name may resolve to a private address later, so addresses are checked again when the server connects.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise invalid_field("url", "is not a URL; write one such as https://renter.example/events") from None
    if parts.scheme not in schemes or not host or port == 0:
        raise invalid_field("url", f"write an address that begins with {schemes[0]}:// and names a host")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise invalid_field(
            "url", "write it in ASCII without spaces: other letters percent-encoded or as xn--"
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise invalid_field("url", "write it without a user name, a password and a fragment")
    if not allow_private and _is_private_literal(host):
        raise invalid_field(
            "url", "is not a public address; write one that is reachable from the public internet"
        )


def is_public(address: str) -> bool:
    """Whether an IP address can belong to an ordinary host on the public internet.

    Private, loopback, link-local, metadata, multicast and all other special-purpose addresses cannot, nor can
    IPv6 addresses that contain an IPv4 address, except a mapped one that is public itself.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return ip.is_global and ip in _UNICAST and not any(ip in network for network in _SPECIAL_IPV6)
        ip = ip.ipv4_mapped
    return ip.is_global and not any(ip in network for network in _SPECIAL_IPV4)


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
