"""Owns how a run ends that uses up its time: shortly before the limit it is asked to end, then killed.

This stops the meter before the session's own limit fires, and what it
left can still be handed over. It must not know the container engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dcp.v1 import jobs_pb2

from daemon.runners import RunnerError

ASKED_SECONDS = 5.0
MADE_SECONDS = 1.0


def margins(limit_seconds: float) -> tuple[float, float]:
    """How long before its limit a run is asked to end, and is killed."""
    asked = min(ASKED_SECONDS, limit_seconds / 10)
    return asked, min(MADE_SECONDS, asked / 2)


class TimeLimit:
    """The end of one run's time."""

    def __init__(self, limit_seconds: float, signal: Callable[[str], Awaitable[None]]) -> None:
        """`signal` sends the signal of a name to the run."""
        self._limit_seconds = limit_seconds
        self._signal = signal
        self.is_reached = False
        """The run was asked to end, whether it did or not."""

    @staticmethod
    def error() -> RunnerError:
        """How a run ends that reached it."""
        text = "The job reached its longest time."
        return RunnerError(jobs_pb2.FAILURE_REASON_DURATION_LIMIT, text)

    @asynccontextmanager
    async def kept(self, ran_seconds: float = 0.0) -> AsyncIterator[None]:
        """Keeps the limit while the block lasts; `ran_seconds`: how long it has run before."""
        keeping = asyncio.create_task(self._keep(self._limit_seconds - ran_seconds))
        try:
            yield
        finally:
            keeping.cancel()
            # An engine that does not answer cannot be asked: the session ends the run then.
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, left_seconds: float) -> None:
        asked, killed = margins(self._limit_seconds)
        await asyncio.sleep(max(0.0, left_seconds - asked))
        self.is_reached = True
        await self._signal("SIGTERM")
        # One that was found past its limit gets the same time to save what it has.
        await asyncio.sleep(asked - killed)
        await self._signal("SIGKILL")
