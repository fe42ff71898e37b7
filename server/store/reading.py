"""Read transactions in threads: short ones, and apart from them those that may grow.

A read ends when its caller has waited long enough or has gone: the statement that runs is interrupted, in
PostgreSQL by a request to its server, and no other begins. Writes are never interrupted. Whose turn it is,
server.domain.reads decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import peewee

from server.domain.reads import LONG_READS, Purpose, Turns, present, too_slow

log = logging.getLogger(__name__)
T = TypeVar("T")
INTERRUPT_SECONDS = 0.05
"""An interruption that came just before the statement began is repeated after this, and then ever later."""
END_SECONDS = 10.0
"""The longest that a stop interrupts reads."""
CANCEL_SECONDS = 5.0
"""The longest wait for PostgreSQL to accept the request to cancel a statement."""
_reading = threading.local()


class StopsReads(peewee.Database):
    """A database that begins no statement of a read that nobody waits for."""

    def execute_sql(self, sql: str, params: Any = None, *rest: Any, **options: Any) -> Any:
        """Runs a statement. Raises TIMEOUT instead in a read that is to end."""
        read: Interruptible | None = getattr(_reading, "read", None)
        if read is not None and read.is_unwanted:
            raise too_slow()
        return super().execute_sql(sql, params, *rest, **options)


class Interruptible:
    """A read in its thread, and what another thread needs to interrupt it."""

    def __init__(self) -> None:
        self.is_unwanted = False
        """Nobody waits for it any more."""
        self.has_ended = False
        self._connection: Any = None
        self._lock = threading.Lock()

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """The block in which the driver's connection runs this read and nothing else."""
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def checked(self, work: Callable[[], T]) -> T:
        """Runs the read itself, without the statements that begin and end its transaction."""
        _reading.read = self
        try:
            return work()
        finally:
            _reading.read = None

    def interrupt(self) -> None:
        """Interrupts the statement that runs. It may wait for PostgreSQL."""
        with self._lock:  # until this is over, the connection is used for nothing else
            if self._connection is None:
                return
            if (interrupt := getattr(self._connection, "interrupt", None)) is not None:
                interrupt()
            else:
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)


class Reads:
    """Runs reads. ``snapshot`` runs one in the present thread, in a transaction; ``short`` has threads."""

    def __init__(
        self, snapshot: Callable[[Callable[[], Any], Interruptible], Any], short: ThreadPoolExecutor
    ) -> None:
        self._snapshot = snapshot
        self._short = short
        self.long = ThreadPoolExecutor(LONG_READS, thread_name_prefix="db-long")
        self._turns = Turns()
        self._interrupter = ThreadPoolExecutor(1, thread_name_prefix="db-interrupt")
        self._interrupting: dict[Interruptible, asyncio.Task[None]] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """Runs one read. Raises TIMEOUT at the caller's deadline; what may grow also raises RATE_LIMITED,
        OVERLOADED."""
        purpose = present()
        reading = _Reading(self, work)
        if purpose is None or not purpose.may_grow:
            reading.begin(self._short)
        else:
            reading.wait_in(self._turns, purpose)
        return await reading.answer_by(purpose.end_s if purpose is not None else None)

    def end_unwanted(self) -> None:
        """Interrupts what nobody waits for until it has ended, while the event loop stands still."""
        end_s = time.monotonic() + END_SECONDS
        while time.monotonic() < end_s:
            unwanted = [read for read in list(self._interrupting) if not read.has_ended]
            if not unwanted:
                return
            for read in unwanted:
                with contextlib.suppress(Exception):  # it is tried again
                    read.interrupt()
            time.sleep(INTERRUPT_SECONDS)

    def stop(self) -> None:
        """Ends the thread that interrupts. Call it after the reads have ended."""
        self._interrupter.shutdown(wait=True)

    def snapshot(self, work: Callable[[], Any], interruptible: Interruptible) -> Any:
        """Runs a read in the present thread."""
        try:
            return self._snapshot(work, interruptible)
        finally:
            interruptible.has_ended = True

    def interrupt(self, interruptible: Interruptible) -> None:
        """Interrupts a read until it ends."""
        task = asyncio.get_running_loop().create_task(self._interrupt(interruptible))
        self._interrupting[interruptible] = task
        task.add_done_callback(lambda _: self._interrupting.pop(interruptible))

    async def _interrupt(self, interruptible: Interruptible) -> None:
        loop, pause = asyncio.get_running_loop(), INTERRUPT_SECONDS
        while not interruptible.has_ended:
            try:
                await loop.run_in_executor(self._interrupter, interruptible.interrupt)
            except Exception:
                log.warning("could not interrupt a read", exc_info=True)
            await asyncio.sleep(pause)
            pause = min(2 * pause, CANCEL_SECONDS)


class _Reading:
    """One read, from its caller's side: it waits for its turn, runs in a thread, and is answered once."""

    def __init__(self, reads: Reads, work: Callable[[], Any]) -> None:
        self._reads = reads
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._interruptible = Interruptible()
        self._running: Future[Any] | None = None
        self._give_up: Callable[[], bool] | None = None

    def begin(self, threads: ThreadPoolExecutor, ended: Callable[[], None] | None = None) -> None:
        """Runs it in a thread; ``ended`` is called on the event loop when the thread is free again."""
        self._running = threads.submit(self._reads.snapshot, self._work, self._interruptible)
        self._running.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._finish, done, ended)
        )

    def wait_in(self, turns: Turns, purpose: Purpose) -> None:
        """Runs it when its turn comes."""
        begin = partial(self.begin, self._reads.long, partial(turns.leave, purpose.owner))
        self._give_up = partial(turns.give_up, purpose.owner, begin)
        turns.enter(purpose.owner, begin)

    async def answer_by(self, end_s: float | None) -> Any:
        """The value of the read, or its error; TIMEOUT at ``end_s``. It stops if the caller is cancelled."""
        timer = self._loop.call_at(end_s, self._expire) if end_s is not None else None
        try:
            return await self._answer
        except asyncio.CancelledError:
            self._stop()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(too_slow())
            self._stop()

    def _stop(self) -> None:
        self._interruptible.is_unwanted = True
        if self._running is None:
            if self._give_up is not None:
                self._give_up()
        elif not self._running.cancel() and not self._running.done():
            self._reads.interrupt(self._interruptible)

    def _finish(self, done: Future[Any], ended: Callable[[], None] | None) -> None:
        if ended is not None:
            ended()
        if self._answer.done() or done.cancelled():
            return
        if (error := done.exception()) is not None:
            self._answer.set_exception(error)
        else:
            self._answer.set_result(done.result())
