"""Owns `/healthz` and `/readyz`: whether this process lives, and whether it can do its work."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.channel import Channel
from gateway.errors import ApiError
from gateway.limits import READY_SECONDS


async def healthz(_: Request) -> Response:
    """Reports that this process serves. It does not check the server."""
    return JSONResponse({"status": "ok"})


class Readiness:
    """Reports whether requests can be carried out: the server answers, and its database does."""

    def __init__(self, channel: Channel) -> None:
        self._check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    async def readyz(self, _: Request) -> Response:
        """Responds with 200 or 503."""
        try:
            answer = await self._check(health_pb2.HealthCheckRequest(), timeout=READY_SECONDS)
        except grpc.aio.AioRpcError:
            raise ApiError("UNAVAILABLE", "The server cannot be reached over gRPC; is it running?") from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            text = "The server is stopping, or its database does not answer; see the server's log."
            raise ApiError("STORE_UNAVAILABLE", text)
        return JSONResponse({"status": "ready"})
