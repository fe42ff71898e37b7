"""grpc.health.v1 that also reports the server's time and the newest daemon, for a daemon's doctor."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from server.rpc.context import Context


class DatedHealth(health_aio.HealthServicer):  # type: ignore[misc]
    """The usual health service; a check's trailing metadata has HTTP's `date` and `dcp-newest-daemon`."""

    def __init__(self, newest_daemon: str) -> None:
        super().__init__()
        self._newest_daemon = newest_daemon

    async def Check(self, request: Any, context: Context) -> health_pb2.HealthCheckResponse:
        """Whether a service serves."""
        metadata = (("date", formatdate(usegmt=True)), ("dcp-newest-daemon", self._newest_daemon))
        context.set_trailing_metadata(metadata)
        return await super().Check(request, context)
