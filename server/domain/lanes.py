"""The order in which a stream's messages about jobs are handled. Pure; it does not know what a message says.

Messages about one job are handled one after another, in the order of their arrival; those about different
jobs side by side, because each waits for its own commit. At most AT_ONCE are handled at once, and at most
WAITING more are taken; then the reader of the stream must wait, and so must its daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

AT_ONCE = 16
"""How many messages of one stream are handled at once."""
WAITING = 16
"""How many more of its messages may wait for their turn."""


class Lanes(Generic[T]):
    """The messages of one stream that were taken and not yet handled. Call ``start`` after each change."""

    __slots__ = ("_lanes", "_ready", "_size", "_under_way")

    def __init__(self) -> None:
        # Lists, as an empty deque takes 600 bytes of every idle stream.
        self._lanes: dict[str, list[T]] = {}
        """For each job with a message that is handled or ready: its messages that wait for that one."""
        self._ready: list[tuple[str, T]] = []
        """The first message of each job that has none under way."""
        self._under_way = 0
        self._size = 0

    @property
    def is_idle(self) -> bool:
        """Whether every message was handled."""
        return not self._size

    @property
    def is_full(self) -> bool:
        """Whether no message may be put until one was handled."""
        return self._size >= AT_ONCE + WAITING

    def put(self, job_id: str, message: T) -> None:
        """Adds a message about a job, behind the earlier ones about it."""
        self._size += 1
        if job_id in self._lanes:
            self._lanes[job_id].append(message)
        else:
            self._lanes[job_id] = []
            self._ready.append((job_id, message))

    def start(self) -> Iterator[tuple[str, T]]:
        """The messages to handle now, with their jobs; ``done`` must follow for each."""
        while self._ready and self._under_way < AT_ONCE:
            self._under_way += 1
            yield self._ready.pop(0)

    def done(self, job_id: str) -> None:
        """The job's message was handled, or failed."""
        self._under_way -= 1
        self._size -= 1
        if lane := self._lanes[job_id]:
            self._ready.append((job_id, lane.pop(0)))
        else:
            del self._lanes[job_id]
