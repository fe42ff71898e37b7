"""The gateway with a fake server: requests are real ASGI, calls are real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

from gateway.app import build_app
from gateway.channel import CHANNEL_OPTIONS
from tests.support import gateway_server
from tests.support.gateway_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with gateway_server.running() as fake:
        yield fake


@pytest.fixture
async def gateway(server: FakeServer) -> AsyncIterator[httpx.AsyncClient]:
    async with grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel:
        transport = httpx.ASGITransport(build_app(channel, deadline_seconds=5))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client
