"""Owns which engines there are: those that serve, and those that leave when their last runs have ended.

It must not know the session; the leases of unfinished runs are arguments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from daemon.protocol.events import LeaseKey
from daemon.runners import Runner

logger = logging.getLogger(__name__)


class Roster:
    """The engines of this daemon."""

    def __init__(self, engines: Sequence[Runner]) -> None:
        self.engines = list(engines)
        """All of them; always this list, which attempts look for their engines in."""
        self._leaving: list[tuple[Runner, set[LeaseKey]]] = []
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> list[Runner]:
        """The engines that take jobs."""
        return [engine for engine in self.engines if not self.is_leaving(engine)]

    def is_leaving(self, engine: Runner) -> bool:
        """Whether an engine takes no more jobs."""
        return any(engine is leaving for leaving, _ in self._leaving)

    def replace(self, engines: Sequence[Runner], unfinished: Collection[LeaseKey]) -> None:
        """Serves with these engines from now on; the others leave when the present runs have ended."""
        self._leaving += [(engine, set(unfinished)) for engine in self.serving if engine not in engines]
        # A job that was accepted for an engine that leaves must still find it; what stays comes first.
        self.engines[:] = [*engines, *(engine for engine, _ in self._leaving)]
        self.close_unused(unfinished)

    def close_unused(self, unfinished: Collection[LeaseKey]) -> None:
        """Closes the engines that leave and whose runs have ended."""
        for leaving in [leaving for leaving in self._leaving if leaving[1].isdisjoint(unfinished)]:
            self._leaving.remove(leaving)
            self.engines.remove(leaving[0])
            closing = asyncio.create_task(_close(leaving[0]))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def refresh(self) -> None:
        """Has every engine look up what it serves now; one that cannot does not keep the others from it."""
        await asyncio.gather(*(_refresh(engine) for engine in self.engines))

    async def sweep(self) -> None:
        """Removes what ended jobs left behind."""
        for engine in self.engines:
            try:
                await engine.sweep()
            except Exception:
                logger.exception("what ended jobs left could not be removed")

    async def tidy(self) -> None:
        """Makes room on the disk; may take minutes."""
        for engine in self.engines:
            try:
                await engine.tidy()
            except Exception:
                logger.exception("an engine could not make room engine=%s", engine.name)

    async def close(self) -> None:
        """Closes every engine."""
        for engine in self.engines:
            await _close(engine)
        await asyncio.gather(*self._closing)


async def _refresh(engine: Runner) -> None:
    try:
        await engine.refresh()
    except Exception:
        logger.exception("an engine could not look up what it serves engine=%s", engine.name)


async def _close(engine: Runner) -> None:
    try:
        await engine.close()
    except Exception:
        logger.exception("an engine could not be closed")
