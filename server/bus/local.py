"""The bus within one process: only watchers of jobs need it, since there is no other server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from server.bus import Heard, Topic, Wake


class LocalBus:
    """The bus of a market with one server."""

    def __init__(self) -> None:
        self._wakes: dict[str, list[Wake]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_connected = True
        """To nobody, and nobody is missed."""

    def publish(self, topic: Topic, ids: Iterable[str]) -> None:
        """Wakes who watches one of these jobs. It costs nothing if nobody does."""
        if topic is not Topic.JOB:
            return
        watched = [job_id for job_id in ids if job_id in self._wakes]
        if watched and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.wake, watched)

    def subscribe(self, job_id: str, wake: Wake) -> Wake:
        """Calls ``wake`` after each change; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._wakes.setdefault(job_id, []).append(wake)

        def end() -> None:
            self._wakes[job_id].remove(wake)
            if not self._wakes[job_id]:
                del self._wakes[job_id]

        return end

    def listen(self, topic: Topic, heard: Heard) -> None:
        """There is nobody else to hear."""

    async def start(self) -> None:
        """Nothing is to be connected."""

    async def stop(self) -> None:
        """Nothing was connected."""

    @property
    def watched(self) -> list[str]:
        """The jobs that somebody watches here."""
        return list(self._wakes)

    def wake(self, jobs: Iterable[str]) -> None:
        """Wakes who watches one of these jobs; call it on the event loop."""
        for job_id in jobs:
            for wake in tuple(self._wakes.get(job_id, ())):
                wake()
