"""Rate limits: their values, and the token buckets that enforce them. The clock is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from common.addresses import SITE_FACTOR, site

WINDOW_SECONDS = 60
_SECOND = 1_000_000_000
MAX_BUCKETS = 50_000
MAX_OPEN_STREAMS = 1000
"""Open streams without a credential, from all addresses together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The values of the limits; 0 switches a limit off."""

    key_per_minute: int = 6000
    """Calls by one account, with any of its keys."""
    address_per_minute: int = 12000
    """Calls from one address; calls by daemons do not count."""
    registrations_per_minute: int = 30
    """Accounts registered from one address."""
    failed_keys_per_minute: int = 30
    """Unknown credentials sent from one address."""
    open_jobs: int = 1000
    """Jobs of one renter that have not ended, at most."""
    streams: int = 8
    """Open streams of one provider: that of its session, and those that are about to replace it."""
    open_streams: int = 16
    """Open streams without a credential (of health and reflection) from one address."""
    messages_per_minute: int = 60_000
    """Messages of one provider's sessions; further ones are read later. A job takes its daemon at least four,
    so this is 250 jobs a second, more than a server handles. Two seconds' worth may come at once: the results
    of a thousand slots after an outage, with what belongs to them."""

    @property
    def messages_at_once(self) -> int:
        """How many messages a provider may send without a pause."""
        return self.messages_per_minute // 30


OFF = Limits(0, 0, 0, 0, 0, 0, 0, 0)


class Shortage(NamedTuple):
    """Why an address waits: how long, for which limit, and the site whose limit it is; empty for its own."""

    seconds: float
    per_minute: int
    site: str = ""


class Buckets:
    """A token bucket for each holder, of ``burst`` or ``per_minute``. It starts full and refills evenly.

    At most ``size`` buckets are kept; dropping the least recently used bucket has the effect of refilling it.
    Each bucket is stored as the time at which it is full again, in whole nanoseconds, so that sums are exact.
    """

    __slots__ = ("_full_at", "_size", "_token", "_whole", "per_minute")

    def __init__(self, per_minute: int, size: int = MAX_BUCKETS, burst: int = 0) -> None:
        self.per_minute = per_minute
        self._token = WINDOW_SECONDS * _SECOND // per_minute if per_minute else 0
        self._whole = self._token * (burst or per_minute)
        self._size = size
        self._full_at: OrderedDict[Hashable, int] = OrderedDict()

    def take(self, holder: Hashable, now: float) -> float:
        """Takes a token and returns 0; without a token, only returns the seconds until there is one."""
        if not self._token:
            return 0.0
        now_ns = int(now * _SECOND)
        full_at = max(self._full_at.get(holder, 0), now_ns) + self._token
        missing = full_at - now_ns - self._whole
        if missing > 0:
            self._full_at.move_to_end(holder)
            return missing / _SECOND
        self._full_at[holder] = full_at
        self._full_at.move_to_end(holder)
        if len(self._full_at) > self._size:
            self._full_at.popitem(last=False)
        return 0.0

    def wait(self, holder: Hashable, now: float) -> float:
        """The seconds until a token is available, 0 if one is; takes nothing."""
        missing = self._full_at.get(holder, 0) + self._token - int(now * _SECOND) - self._whole
        return max(missing, 0) / _SECOND

    def __len__(self) -> int:
        return len(self._full_at)


class AddressBuckets:
    """Buckets of addresses, each of which shares a larger bucket with the other addresses of its site."""

    __slots__ = ("_addresses", "_sites")

    def __init__(self, per_minute: int) -> None:
        self._addresses = Buckets(per_minute)
        self._sites = Buckets(SITE_FACTOR * per_minute)

    def take(self, address: str, now: float) -> Shortage | None:
        """Takes a token of the address and one of its site, or says which is missing."""
        if wait := self._addresses.take(address, now):
            return Shortage(wait, self._addresses.per_minute)
        if (at := site(address)) and (wait := self._sites.take(at, now)):
            return Shortage(wait, self._sites.per_minute, at)
        return None

    def shortage(self, address: str, now: float) -> Shortage | None:
        """What keeps the address waiting; takes nothing."""
        if wait := self._addresses.wait(address, now):
            return Shortage(wait, self._addresses.per_minute)
        if (at := site(address)) and (wait := self._sites.wait(at, now)):
            return Shortage(wait, self._sites.per_minute, at)
        return None
