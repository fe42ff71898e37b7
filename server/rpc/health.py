"""grpc.health.v1 that knows the database, and reports the server's time and the newest daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from server.rpc.context import Context

log = logging.getLogger(__name__)

# A database that has not answered by then is as good as dead.
PROBE_SECONDS = 3.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ServerHealth(health_aio.HealthServicer):  # type: ignore[misc]
    """The usual health service: the server and each of its services serve while the database answers.

    A check's trailing metadata has HTTP's `date` and `dcp-newest-daemon`, for a daemon's doctor.
    """

    def __init__(
        self, services: Sequence[str], probe: Callable[[], Awaitable[None]], newest_daemon: str
    ) -> None:
        super().__init__()
        self._services = ("", *services)
        self._probe = probe
        self._pending: asyncio.Future[None] | None = None
        self._is_serving = False
        self._newest_daemon = newest_daemon

    async def Check(self, request: Any, context: Context) -> health_pb2.HealthCheckResponse:
        """Whether a service serves."""
        metadata = (("date", formatdate(usegmt=True)), ("dcp-newest-daemon", self._newest_daemon))
        context.set_trailing_metadata(metadata)
        return await super().Check(request, context)

    async def tick(self) -> None:
        """Asks the database, and reports what is new. A hanging database is asked only once at a time."""
        if self._pending is None or self._pending.done():
            self._pending = asyncio.ensure_future(self._probe())
            # One that fails after the wait was told already: its error is nobody's any more.
            self._pending.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        asked = self._pending
        done, _ = await asyncio.wait({asked}, timeout=PROBE_SECONDS)
        await self._report(asked.exception() if done else TimeoutError())

    async def _report(self, error: BaseException | None) -> None:
        if self._is_serving == (error is None):
            return
        self._is_serving = error is None
        if error is not None:
            log.error("stopped serving: the database did not answer error=%r", error)
        for service in self._services:
            await self.set(service, _SERVING if self._is_serving else _NOT_SERVING)
