"""Limits the rate of calls by address and by account, and refuses callers that exceed it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dcp.v1 import options_pb2

from common.addresses import SITE_FACTOR, site
from server.bus import Bus, Topic
from server.bus.local import LocalBus
from server.clock import Clock
from server.domain.errors import DomainError, Reason
from server.domain.limits import MAX_OPEN_STREAMS, AddressBuckets, Buckets, Limits, Shortage
from server.services.keys import Caller

_REGISTRATION = options_pb2.RATE_CLASS_REGISTRATION
_DAEMON = options_pb2.RATE_CLASS_DAEMON
STREAMS_RETRY_SECONDS = 30
LONGEST_ADDRESS = 64


class RateLimits:
    """Token buckets by address and by account, in memory.

    Each server counts for itself what only protects itself; open jobs and budgets are in the database.
    Unknown keys are told by the bus, so that more servers are no more guesses.
    """

    def __init__(self, limits: Limits, clock: Clock, bus: Bus | None = None) -> None:
        self._clock = clock
        self._bus = bus or LocalBus()
        self._bus.listen(Topic.GUESS, self._hear_of_guesses)
        self._addresses = AddressBuckets(limits.address_per_minute)
        self._accounts = Buckets(limits.key_per_minute)
        self._registrations = AddressBuckets(limits.registrations_per_minute)
        self._failed_keys = AddressBuckets(limits.failed_keys_per_minute)
        self._messages = Buckets(limits.messages_per_minute, burst=limits.messages_at_once)
        self._most_streams = limits.open_streams
        self._open_streams = 0
        self._streams: Counter[str] = Counter()
        """Open streams by address and by site."""

    def count_call(self, rate: int, address: str) -> None:
        """Counts a call of a method of this rate class. Raises RATE_LIMITED."""
        if rate == _DAEMON:
            return
        buckets = self._registrations if rate == _REGISTRATION else self._addresses
        if shortage := buckets.take(address, self._clock.now()):
            name = "registration" if rate == _REGISTRATION else "address"
            raise _address_refusal(name, "requests", shortage)

    def count_caller(self, caller: Caller) -> None:
        """Counts a call of this account, whose keys share one bucket. Raises RATE_LIMITED."""
        if wait := self._accounts.take((caller.role, caller.id), self._clock.now()):
            raise _refusal("key", "requests with keys of this account", self._accounts.per_minute, wait)

    async def pass_message(self, provider_id: int) -> None:
        """Counts a message of a provider's session, and waits until it may be handled.

        Meanwhile nothing more is read of its stream, so gRPC's flow control makes the daemon wait, too.
        """
        wait = self._messages.take(provider_id, self._clock.now())
        while wait:
            await asyncio.sleep(wait)
            wait = self._messages.take(provider_id, self._clock.now())

    @contextmanager
    def open_stream(self, address: str) -> Iterator[None]:
        """Counts a stream without a credential while it is open. Raises RATE_LIMITED."""
        at = site(address)
        is_full = (
            self._open_streams >= MAX_OPEN_STREAMS
            or self._streams[address] >= self._most_streams
            or (at and self._streams[at] >= SITE_FACTOR * self._most_streams)
        )
        if self._most_streams and is_full:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"at most {self._most_streams} streams may be open from this address without a key, and "
                f"{MAX_OPEN_STREAMS} from all; close others, or use Check instead of Watch",
                retry_after_seconds=STREAMS_RETRY_SECONDS,
            )
        self._open_streams += 1
        self._streams.update(filter(None, (address, at)))
        try:
            yield
        finally:
            self._open_streams -= 1
            self._streams.subtract(filter(None, (address, at)))
            for name in (address, at):
                if not self._streams[name]:
                    del self._streams[name]

    def count_failed_key(self, address: str) -> None:
        """Counts an unknown credential from this address, at every server."""
        self._failed_keys.take(address, self._clock.now())
        self._bus.publish(Topic.GUESS, [address])

    def _hear_of_guesses(self, addresses: frozenset[str]) -> None:
        for address in addresses:
            if len(address) <= LONGEST_ADDRESS:
                self._failed_keys.take(address, self._clock.now())

    def refusal_of_guesses(self, address: str) -> DomainError | None:
        """The refusal of an address that sent too many unknown credentials; None for any other."""
        shortage = self._failed_keys.shortage(address, self._clock.now())
        return _address_refusal("failed-key", "unknown keys", shortage) if shortage else None


def _address_refusal(name: str, counted: str, shortage: Shortage) -> DomainError:
    source = f"the network {shortage.site}" if shortage.site else "this address"
    return _refusal(name, f"{counted} from {source}", shortage.per_minute, shortage.seconds)


def _refusal(name: str, counted: str, per_minute: int, wait: float) -> DomainError:
    seconds = math.ceil(wait)
    return DomainError(
        Reason.RATE_LIMITED,
        f"more than {per_minute} {counted} arrived within a minute; try again in {seconds} s",
        retry_after_seconds=seconds,
        limit=name,
        limit_per_minute=per_minute,
    )
