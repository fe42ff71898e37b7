"""Limits the rate of calls by address and by account, and refuses callers that exceed it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dcp.v1 import options_pb2

from server.clock import Clock
from server.domain.errors import DomainError, Reason
from server.domain.limits import MAX_OPEN_STREAMS, Buckets, Limits
from server.services.keys import Caller

_REGISTRATION = options_pb2.RATE_CLASS_REGISTRATION
_DAEMON = options_pb2.RATE_CLASS_DAEMON
STREAMS_RETRY_SECONDS = 30


class RateLimits:
    """Token buckets by address and by account, in memory: each server process counts for itself."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._addresses = Buckets(limits.address_per_minute)
        self._accounts = Buckets(limits.key_per_minute)
        self._registrations = Buckets(limits.registrations_per_minute)
        self._failed_keys = Buckets(limits.failed_keys_per_minute)
        self._messages = Buckets(limits.messages_per_minute, burst=limits.messages_at_once)
        self._most_streams = limits.open_streams
        self._streams: Counter[str] = Counter()

    def count_call(self, rate: int, address: str) -> None:
        """Counts a call of a method of this rate class. Raises RATE_LIMITED."""
        if rate == _DAEMON:
            return
        buckets = self._registrations if rate == _REGISTRATION else self._addresses
        if wait := buckets.take(address, self._clock.now()):
            name = "registration" if rate == _REGISTRATION else "address"
            raise _refusal(name, "requests from this address", buckets, wait)

    def count_caller(self, caller: Caller) -> None:
        """Counts a call of this account, whose keys share one bucket. Raises RATE_LIMITED."""
        if wait := self._accounts.take((caller.role, caller.id), self._clock.now()):
            raise _refusal("key", "requests with keys of this account", self._accounts, wait)

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
        is_full = self._streams.total() >= MAX_OPEN_STREAMS or self._streams[address] >= self._most_streams
        if self._most_streams and is_full:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"at most {self._most_streams} streams may be open from this address without a key, and "
                f"{MAX_OPEN_STREAMS} from all; close others, or use Check instead of Watch",
                retry_after_seconds=STREAMS_RETRY_SECONDS,
            )
        self._streams[address] += 1
        try:
            yield
        finally:
            self._streams[address] -= 1
            if not self._streams[address]:
                del self._streams[address]

    def count_failed_key(self, address: str) -> None:
        """Counts an unknown credential from this address."""
        self._failed_keys.take(address, self._clock.now())

    def refusal_of_guesses(self, address: str) -> DomainError | None:
        """The refusal of an address that sent too many unknown credentials; None for any other."""
        wait = self._failed_keys.wait(address, self._clock.now())
        if not wait:
            return None
        return _refusal("failed-key", "unknown keys from this address", self._failed_keys, wait)


def _refusal(name: str, counted: str, buckets: Buckets, wait: float) -> DomainError:
    seconds = math.ceil(wait)
    return DomainError(
        Reason.RATE_LIMITED,
        f"more than {buckets.per_minute} {counted} arrived within a minute; try again in {seconds} s",
        retry_after_seconds=seconds,
        limit=name,
        limit_per_minute=buckets.per_minute,
    )
