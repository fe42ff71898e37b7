"""Handles the messages of one stream, those about different jobs side by side, in tasks of asyncio.

The order is that of ``server.domain.lanes``. A message about the session, such as a heartbeat, may concern
all of its jobs: it is handled alone, after all earlier messages and before all later ones.
"""

from __future__ import annotations

import asyncio
import logging

from server.domain.errors import DomainError, Reason
from server.domain.lanes import Lanes
from server.domain.messages import DaemonMessage, lease_of
from server.services.sessions import Session

log = logging.getLogger(__name__)


class LaneRunner:
    """The messages of one stream, on their way through its session."""

    __slots__ = ("_changed", "_is_over", "_lanes", "_session", "_tasks")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lanes: Lanes[DaemonMessage] = Lanes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: asyncio.Future[None] | None = None
        self._is_over = False

    async def handle(self, message: DaemonMessage) -> None:
        """Takes a message. Returns when it was handled; if it is about a job, as soon as there is room.

        Raises DomainError if a message about the session must end the stream; a message about a job ends it
        by ``Session.fail``.
        """
        lease = lease_of(message)
        if lease is None:
            await self.settle()
            await self._session.handle(message)
            return
        while self._lanes.is_full:
            await self._change()
        self._lanes.put(lease.job_id, message)
        self._start()

    async def settle(self) -> None:
        """Waits until every message was handled."""
        while not self._lanes.is_idle:
            await self._change()

    def stop(self) -> None:
        """Ends the handling: the stream is over. Writes that were requested are still carried out."""
        self._is_over = True
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        if self._is_over:
            return
        for job_id, message in self._lanes.start():
            task = asyncio.create_task(self._run(job_id, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job_id: str, message: DaemonMessage) -> None:
        try:
            await self._handle(message)
        except DomainError as error:
            self._session.fail(error)
        except Exception:
            log.exception("could not end a lease")
            self._session.fail(DomainError(Reason.INTERNAL, "the server failed at a message; connect again"))
        finally:
            self._lanes.done(job_id)
            self._start()
            if self._changed is not None and not self._changed.done():
                self._changed.set_result(None)

    async def _handle(self, message: DaemonMessage) -> None:
        try:
            await self._session.handle(message)
        except DomainError:
            raise
        except Exception:
            # The daemon would repeat the message on each new stream, and all its jobs would stand still.
            lease = lease_of(message)
            assert lease is not None, "only messages about jobs have lanes"
            log.exception("failed at a message job_id=%.100r lease_epoch=%d", lease.job_id, lease.lease_epoch)
            await self._session.lose(lease)

    async def _change(self) -> None:
        """Waits until a message was handled. Only the reader of the stream waits."""
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed
        self._changed = None
