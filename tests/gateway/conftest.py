"""The gateway with a fake server: requests are real ASGI, calls are real gRPC or embedded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.app import build_app
from tests.support import gateway_server
from tests.support.gateway_server import FakeServer

BY_WIRE, EMBEDDED = "by wire", "embedded"
# What depends on how calls end and how streams flow; the rest of the gateway cannot tell the forms apart.
_BOTH_FORMS = ("test_errors.py", "test_events.py", "test_files.py", "test_routes.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests of some files with both forms of the server."""
    if "server" in metafunc.fixturenames and metafunc.definition.path.name in _BOTH_FORMS:
        metafunc.parametrize("server", [BY_WIRE, EMBEDDED], indirect=True)


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[FakeServer]:
    embedded = getattr(request, "param", BY_WIRE) == EMBEDDED
    async with gateway_server.running(embedded=embedded) as fake:
        yield fake


@pytest.fixture
async def gateway(server: FakeServer) -> AsyncIterator[httpx.AsyncClient]:
    async with server.open_channel() as channel:
        transport = httpx.ASGITransport(build_app(channel, deadline_seconds=5))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client
