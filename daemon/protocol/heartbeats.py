"""Owns the rhythm of heartbeats on one stream: when the next is due, which are unanswered, who is silent.

Pure. It must not know what a heartbeat says beyond the leases that it lists.
"""

from __future__ import annotations

from collections import deque
from random import Random

from daemon.protocol.events import LeaseKey

DEFAULT_HEARTBEAT_SECONDS = 10.0
HEARTBEAT_JITTER = 0.1
SILENT_INTERVALS = 6


class Heartbeats:
    """The heartbeats of the present stream, counted from 1."""

    def __init__(self, rng: Random) -> None:
        self.interval_seconds = DEFAULT_HEARTBEAT_SECONDS
        self.greeted_at = 0.0
        """When the stream's Hello left."""
        self._rng = rng
        self._next_at = 0.0
        self._sequence = 0
        self._unanswered: deque[tuple[int, float, list[LeaseKey]]] = deque(maxlen=64)
        self._heard_at = 0.0
        self._is_welcome = False

    def greet(self, now: float) -> None:
        """Hello leaves."""
        self._unanswered.clear()
        self._is_welcome = False
        self.greeted_at = self._heard_at = now

    def open(self, interval_seconds: float, now: float) -> None:
        """Welcome came: heartbeats begin."""
        self.interval_seconds = interval_seconds or DEFAULT_HEARTBEAT_SECONDS
        self._is_welcome = True
        self._sequence = 0
        self._schedule(now)

    def heard(self, now: float) -> None:
        """The server said something."""
        self._heard_at = now

    def due(self, now: float) -> bool:
        """Whether it is time for the next."""
        return now >= self._next_at

    def beat(self, listed: list[LeaseKey], now: float) -> int:
        """One leaves that lists these leases; its number."""
        self._schedule(now)
        self._sequence += 1
        self._unanswered.append((self._sequence, now, listed))
        return self._sequence

    def answered(self, sequence: int) -> tuple[list[LeaseKey], float] | None:
        """The leases that the answered heartbeat listed, and when it left; None: no such is unanswered."""
        while self._unanswered and self._unanswered[0][0] <= sequence:
            number, sent_at, listed = self._unanswered.popleft()
            if number == sequence:
                return listed, sent_at
        return None

    def is_silent(self, now: float) -> bool:
        """Whether something said long ago is unanswered; a quiet server that owes nothing is well."""
        if self._is_welcome and not self._unanswered:
            return False
        asked_at = self._unanswered[0][1] if self._unanswered else self.greeted_at
        return now - max(asked_at, self._heard_at) > SILENT_INTERVALS * self.interval_seconds

    def _schedule(self, now: float) -> None:
        jitter = self._rng.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
        self._next_at = now + self.interval_seconds * jitter
