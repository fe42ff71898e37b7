"""The port through which programs tell one another that a job has changed, and its form within one process.

A message is a hint without content: who hears it reads what is stored. One that is lost costs only time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

Wake = Callable[[], None]


class Bus(Protocol):
    """What a bus between servers has to do."""

    def publish(self, jobs: Iterable[str]) -> None:
        """Says that jobs have changed, after the commit. It is called in any thread, and never raises."""

    def subscribe(self, job_id: str, wake: Wake) -> Wake:
        """Calls ``wake`` on the event loop after each change of a job; returns what ends that."""


class LocalBus:
    """The bus of a market with one server."""

    def __init__(self) -> None:
        self._wakes: dict[str, list[Wake]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def publish(self, jobs: Iterable[str]) -> None:
        """Wakes who watches one of these jobs. It costs nothing if nobody does."""
        watched = [job_id for job_id in jobs if job_id in self._wakes]
        if watched and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake, watched)

    def subscribe(self, job_id: str, wake: Wake) -> Wake:
        """Calls ``wake`` after each change; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._wakes.setdefault(job_id, []).append(wake)

        def end() -> None:
            self._wakes[job_id].remove(wake)
            if not self._wakes[job_id]:
                del self._wakes[job_id]

        return end

    def _wake(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            for wake in tuple(self._wakes.get(job_id, ())):
                wake()
