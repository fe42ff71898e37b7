"""Limits the rate of calls by address and by account, and refuses callers that exceed it."""

from __future__ import annotations

import math

from dcp.v1 import options_pb2

from server.clock import Clock
from server.domain.errors import DomainError, Reason
from server.domain.limits import Buckets, Limits
from server.services.keys import Caller

_REGISTRATION = options_pb2.RATE_CLASS_REGISTRATION
_DAEMON = options_pb2.RATE_CLASS_DAEMON


class RateLimits:
    """Token buckets by address and by account, in memory: each server process counts for itself."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._addresses = Buckets(limits.address_per_minute)
        self._accounts = Buckets(limits.key_per_minute)
        self._registrations = Buckets(limits.registrations_per_minute)
        self._failed_keys = Buckets(limits.failed_keys_per_minute)

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
