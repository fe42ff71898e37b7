"""Owns how long the daemon waits before it connects again. Pure; it must not know why a stream ended.

Full jitter under a ceiling that doubles with each stream that did not last: with the server's welcome alone
none has, since a session may end with the first message after it.
"""

from __future__ import annotations

from random import Random

MAX_BACKOFF_SECONDS = 60.0
# A server that does not know the key is asked again after this time, then later and later.
KEY_PAUSE_SECONDS = 30.0
MAX_KEY_PAUSE_SECONDS = 3600.0


class Backoff:
    """The pauses between the streams of one daemon."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0
        self._key_refusals = 0

    def lasted(self) -> None:
        """The server acknowledged a heartbeat: the session lasts."""
        self._failures = 0

    def key_accepted(self) -> None:
        """The server knows the key."""
        self._key_refusals = 0

    def seconds(self) -> float:
        """The pause after one more stream that ended, or that could not be opened."""
        ceiling = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return self._rng.uniform(0.0, ceiling)

    def key_seconds(self) -> float:
        """The pause after one more stream for which the server did not know the key."""
        ceiling = min(MAX_KEY_PAUSE_SECONDS, KEY_PAUSE_SECONDS * 2.0**self._key_refusals)
        self._key_refusals = min(self._key_refusals + 1, 10)
        return self._rng.uniform(ceiling / 2, ceiling)
