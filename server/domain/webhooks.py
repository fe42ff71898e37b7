"""Rules of webhooks: where events may be sent, how they are signed, and when they are sent again."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from server.domain.errors import invalid_field

GIVE_UP_SECONDS = 2 * 3600
"""An event is sent again for this long after it happened."""
RETRY_SECONDS = (10, 30, 60, 120, 300, 600, 1200)
"""The delay after each attempt until the next; the last value repeats."""
PAUSE_SECONDS = 10
"""After a failed attempt, nothing is sent to that address for this long."""
# IPv6 ranges that contain an IPv4 address: a translator could lead them into a private network.
_TRANSLATED = tuple(
    ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


class WebhookEvent(StrEnum):
    """The kinds of events."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    BALANCE_LOW = "balance.low"
    TEST = "webhook.test"


class DeliveryStatus(StrEnum):
    """The state of a delivery."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one attempt: the HTTP status, if there was an answer, and the error."""

    status_code: int | None
    error: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.error is None


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The header ``DCP-Signature``; it covers the time and the raw body, so neither can be changed."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def next_attempt_ms(created_ms: int, attempts: int, now_ms: int) -> int | None:
    """When an event that was sent ``attempts`` times is sent again; None means never."""
    after = now_ms + RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * 1000
    return after if after <= created_ms + GIVE_UP_SECONDS * 1000 else None


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
    """Whether an IP address belongs to the public internet.

    Private, loopback, link-local, metadata and multicast addresses do not, nor do IPv6 addresses that contain
    such an IPv4 address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.is_site_local or any(ip in network for network in _TRANSLATED):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
