"""Readiness, from the database over the server's health to the gateway's /readyz."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from functools import partial

import orjson
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.domain.errors import DomainError, Reason
from server.rpc import health
from tests.support import http_gateway, running_server
from tests.support.databases import execute
from tests.support.gateway_server import FakeServer
from tests.support.http_gateway import Gateway
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, Market

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
READY = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LIVE = READY.replace(b"readyz", b"healthz")


@pytest.fixture
async def gateway(any_market: Market) -> AsyncIterator[Gateway]:
    async with http_gateway.serving(FakeServer(any_market.server.address)) as running:
        yield running


async def status(market: Market, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(market.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def answered(gateway: Gateway, request: bytes) -> tuple[int, str]:
    head, _, body = (await gateway.exchanged(request)).partition(b"\r\n\r\n")
    answer = orjson.loads(body)
    return int(head.split()[1]), answer.get("code") or answer["status"]


async def beat(market: Market) -> None:
    """Runs the duty that reports health once."""
    assert await market.server.loops[-1].tick() == []


async def rename(market: Market, old: str, new: str) -> None:
    await market.sql(partial(execute, market.server._database, f"ALTER TABLE {old} RENAME TO {new}"))


async def test_server_whose_database_is_dead_does_not_serve_until_it_is_back(
    any_market: Market, gateway: Gateway
) -> None:
    assert await answered(gateway, READY) == (200, "ready")
    await rename(any_market, "schema_migration", "gone")
    await beat(any_market)
    for service in ("", "dcp.v1.JobService", "dcp.v1.SessionService"):
        assert await status(any_market, service) == NOT_SERVING
    assert await answered(gateway, READY) == (503, "STORE_UNAVAILABLE")
    assert await answered(gateway, LIVE) == (200, "ok")
    await rename(any_market, "gone", "schema_migration")
    await beat(any_market)
    assert await status(any_market, "dcp.v1.JobService") == SERVING
    assert await answered(gateway, READY) == (200, "ready")


async def test_database_that_hangs_is_dead_and_is_asked_once_at_a_time(
    sqlite_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.05)
    async with running_server.running(sqlite_url, clock) as market:
        asked: list[asyncio.Future[None]] = []

        def hang() -> asyncio.Future[None]:
            asked.append(asyncio.get_running_loop().create_future())
            return asked[-1]

        monkeypatch.setattr(market.server._health, "_probe", hang)
        for _ in range(3):
            await beat(market)
        assert await status(market) == NOT_SERVING
        assert len(asked) == 1
        for future in asked:
            future.set_result(None)
        await asyncio.sleep(0)
        monkeypatch.undo()
        async with asyncio.timeout(HANG_SECONDS):
            while await status(market) != SERVING:
                await beat(market)


async def test_gateway_without_a_server_lives_but_is_not_ready(any_market: Market, gateway: Gateway) -> None:
    await any_market.stop()
    assert await answered(gateway, READY) == (503, "UNAVAILABLE")
    assert await answered(gateway, LIVE) == (200, "ok")


async def test_probe_that_fails_after_the_wait_leaves_no_unheard_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.01)
    is_cut = asyncio.Event()

    async def probe() -> None:
        await is_cut.wait()
        raise DomainError(Reason.STORE_UNAVAILABLE, "the database is down")

    reporter = health.ServerHealth((), probe, "")
    await reporter.tick()
    is_cut.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del reporter
    gc.collect()
    assert "never retrieved" not in caplog.text
