"""Reads for callers: how long a caller waits, and whose turn it is to read what may grow.

It knows no database and no thread: server.store.reading runs what begins here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from server.domain.errors import DomainError, Reason

LONG_READS = 3
"""Reads that may grow, at once, of all accounts together; each account has at most one."""
WAITING_READS = 512
WAITING_READS_OF_ONE = 64
RETRY_SECONDS = 2
# A read ends this long before its caller stops waiting, so that the caller gets the answer.
ANSWER_SECONDS = 0.25

Begin: TypeAlias = Callable[[], object]


@dataclass(slots=True)
class Purpose:
    """What a call's reads are for. Reads outside of a call have none: they are short, and nobody waits."""

    owner: Hashable
    """Whose reads take turns: the account, or the address of a caller without one."""
    end_s: float | None = None
    """When its reads are interrupted, on the event loop's clock; None if the caller waits for ever."""
    may_grow: bool = False
    """Its reads grow with what is stored: they run apart from the short ones."""
    has_written: bool = False
    """A transaction of the call took effect: no later fault may be told as if nothing was done."""
    is_over: bool = False
    """The call has ended. What it left running reads as if there were no call."""


_present: ContextVar[Purpose | None] = ContextVar("purpose_of_reads", default=None)


def present() -> Purpose | None:
    """The purpose of reads that begin now; None outside of a call."""
    purpose = _present.get()
    return None if purpose is None or purpose.is_over else purpose


@contextmanager
def reading_for(purpose: Purpose) -> Iterator[Purpose]:
    """Sets the purpose of the reads in this block."""
    token = _present.set(purpose)
    try:
        yield purpose
    finally:
        purpose.is_over = True
        _present.reset(token)


def end_of_reads(now_s: float, seconds_left: float | None) -> float | None:
    """When the reads of a caller that waits so many seconds longer are interrupted."""
    if seconds_left is None:
        return None
    return now_s + max(seconds_left - ANSWER_SECONDS, seconds_left / 2)


class Turns:
    """Begins reads that may grow: at most ``most`` at once, one of each owner, and the owners take turns."""

    def __init__(
        self, most: int = LONG_READS, waiting: int = WAITING_READS, of_one: int = WAITING_READS_OF_ONE
    ) -> None:
        self._most = most
        self._most_waiting = waiting
        self._most_of_one = of_one
        self._running: set[Hashable] = set()
        self._waiting: OrderedDict[Hashable, deque[Begin]] = OrderedDict()
        self._count = 0

    def enter(self, owner: Hashable, begin: Begin) -> None:
        """Begins a read now, or when its turn comes. Raises RATE_LIMITED, OVERLOADED if too many wait."""
        if len(self._running) < self._most and owner not in self._running:
            self._running.add(owner)
            begin()
            return
        if len(self._waiting.get(owner, ())) >= self._most_of_one:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"{self._most_of_one} lists or reports of this account are being read or wait for it; "
                "ask for one after the other",
                retry_after_seconds=RETRY_SECONDS,
            )
        if self._count >= self._most_waiting:
            raise DomainError(
                Reason.OVERLOADED,
                "the server has too many lists and reports to read; try again",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._waiting.setdefault(owner, deque()).append(begin)
        self._count += 1

    def leave(self, owner: Hashable) -> None:
        """The owner's read has ended: begins those whose turn it is."""
        self._running.discard(owner)
        while len(self._running) < self._most and (found := self._next()) is not None:
            begin = self._take(found)
            self._running.add(found)
            begin()

    def give_up(self, owner: Hashable, begin: Begin) -> bool:
        """A read is no longer wanted; False if it has begun."""
        waiting = self._waiting.get(owner, deque())
        if begin not in waiting:
            return False
        waiting.remove(begin)
        self._count -= 1
        if not waiting:
            del self._waiting[owner]
        return True

    def _next(self) -> Hashable | None:
        return next((owner for owner in self._waiting if owner not in self._running), None)

    def _take(self, owner: Hashable) -> Begin:
        """The owner's oldest read; its next one comes after those of all others."""
        waiting = self._waiting[owner]
        begin = waiting.popleft()
        self._count -= 1
        self._waiting.move_to_end(owner)
        if not waiting:
            del self._waiting[owner]
        return begin


def too_slow() -> DomainError:
    """The error of a read that was interrupted because its caller waits no longer."""
    return DomainError(
        Reason.TIMEOUT,
        "this read took longer than its caller waits and was interrupted; nothing was changed: "
        "ask for less at once (fewer days, a smaller page), or try again later",
    )
