"""Attended jobs: each is cancelled once the last reader that attends it has gone.

The answer of a request of `/v1` has no other reader: when its client, or the gateway between, has gone,
nobody waits for it, and its renter pays only for what was delivered. A reader that comes back in time keeps
the job.

With several servers it may come back at another one, so before a job is cancelled they are asked over the
bus. While hints may be lost they are asked again; without the bus the job is left alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from server.bus import Bus, Topic
from server.domain.errors import DomainError
from server.services.keys import Caller

LEFT_SECONDS = 0.7
"""How long a reader may be away before other servers are asked for one."""
ASK_SECONDS = 0.8
"""How long their answers may take."""
ASKED_TIMES = 60


@dataclass(slots=True)
class Attending:
    """What a reader has seen of its job."""

    has_seen_end: bool = False


class Attendance:
    """The readers of this server that attend their jobs."""

    def __init__(self, bus: Bus, cancel: Callable[[Caller, str], Awaitable[Any]]) -> None:
        self._bus = bus
        self._cancel = cancel
        self._readers: Counter[str] = Counter()
        self._left: dict[str, asyncio.Task[None]] = {}
        """The jobs without a reader here."""
        self._elsewhere: set[str] = set()
        """Those of them that are attended at another server."""
        self._missed = 0
        """How often hints may have been lost."""
        bus.listen(Topic.LEFT, self._asked)
        bus.listen(Topic.ATTENDED, self._answered)

    @contextmanager
    def of(self, caller: Caller, job_id: str) -> Iterator[Attending]:
        """While a reader attends a job, which the caller may cancel."""
        if (leaving := self._left.pop(job_id, None)) is not None:
            leaving.cancel()
        self._readers[job_id] += 1
        attending = Attending()
        try:
            yield attending
        finally:
            self._readers[job_id] -= 1
            if not self._readers[job_id]:
                del self._readers[job_id]
                if not attending.has_seen_end:
                    self.expect(caller, job_id)

    def expect(self, caller: Caller, job_id: str) -> None:
        """Cancels a job, which the caller may cancel, unless a reader attends it soon."""
        if job_id not in self._readers and job_id not in self._left:
            self._left[job_id] = asyncio.create_task(self._leave(caller, job_id))

    async def stop(self) -> None:
        """Cancels no job any more: the readers come again, here or elsewhere."""
        for task in self._left.values():
            task.cancel()
        await asyncio.gather(*self._left.values(), return_exceptions=True)

    async def _leave(self, caller: Caller, job_id: str) -> None:
        try:
            await asyncio.sleep(LEFT_SECONDS)
            if await self._is_alone(job_id):
                with suppress(DomainError):  # it has ended meanwhile
                    await self._cancel(caller, job_id)
        finally:
            self._elsewhere.discard(job_id)
            if self._left.get(job_id) is asyncio.current_task():
                del self._left[job_id]

    async def _is_alone(self, job_id: str) -> bool:
        """Whether no other server has a reader that attends the job."""
        for _ in range(ASKED_TIMES):
            missed = self._missed
            self._bus.publish(Topic.LEFT, [job_id])
            await asyncio.sleep(ASK_SECONDS)
            if job_id in self._elsewhere:
                return False
            if self._bus.is_connected and missed == self._missed:
                return True
        return False

    def _asked(self, job_ids: frozenset[str]) -> None:
        if attended := [job_id for job_id in job_ids if job_id in self._readers]:
            self._bus.publish(Topic.ATTENDED, attended)

    def _answered(self, job_ids: frozenset[str]) -> None:
        self._missed += not job_ids
        self._elsewhere |= job_ids & self._left.keys()
