"""Owns how often it is reported how far a run is before its start. It must not know what is fetched."""

from __future__ import annotations

from collections.abc import Callable

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.machine.clock import Clock
from daemon.protocol.events import AttemptPreparing

LEAST_SECONDS = 1.0
"""Between two reports of one run."""


class Preparing:
    """Reports for one run what its runner and its downloads say, at most once a second."""

    def __init__(
        self, lease: sessions_pb2.Lease, emit: Callable[[AttemptPreparing], None], clock: Clock
    ) -> None:
        self._lease = lease
        self._emit = emit
        self._clock = clock
        self._next = clock.monotonic()

    def __call__(self, step: jobs_pb2.PreparationStep.ValueType, done_bytes: int, total_bytes: int) -> None:
        """So many bytes of so many are there; 0: their number is not known."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + LEAST_SECONDS
        self._emit(AttemptPreparing(self._lease, step, done_bytes, max(done_bytes, total_bytes)))
