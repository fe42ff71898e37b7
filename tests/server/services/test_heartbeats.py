"""Heartbeats: what is stored when, and what providers see."""

from __future__ import annotations

import json
from typing import Any

from dcp.v1 import gpus_pb2, providers_pb2

from server.domain.gpus import GpuReport
from server.services.fleet import Fleet
from server.store.models import Provider
from tests.server.services.test_verdicts import gpu_status
from tests.support.running_server import Daemon, Market, Party


async def stored(market: Market, provider: Party) -> dict[str, Any]:
    row = await market.sql(lambda: Provider.get_by_id(provider.id))
    return {**json.loads(row.gpu_status), "last_heartbeat_ms": row.last_heartbeat_ms}


async def shown(market: Market, provider: Party) -> gpus_pb2.GpuStatus:
    request = providers_pb2.GetOwnProviderRequest()
    own = await market.provider_service.GetOwnProvider(request, metadata=provider.metadata)
    return own.provider.gpu_status


async def beat(market: Market, daemon: Daemon, celsius: int, driver: str = "550.1") -> None:
    """A heartbeat, ten seconds after the one before, which the server stores."""
    market.clock.advance(10)
    await daemon.heartbeat(gpu_status=gpu_status("GPU-a", driver=driver, temp_c=celsius))
    await market.tick()


def celsius_of(report: dict[str, Any]) -> float:
    return float(report["all_gpus"][0]["temp_c"])


async def test_figures_of_a_live_provider_are_stored_once_a_minute_and_shown_at_once(
    any_market: Market,
) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a", driver="550.1", temp_c=40))
    first = await stored(market, provider)
    assert celsius_of(first) == 40  # with the Hello
    for celsius in range(41, 46):
        await beat(market, daemon, celsius)
        now = await stored(market, provider)
        assert celsius_of(now) == 40
        assert now["last_heartbeat_ms"] > first["last_heartbeat_ms"]
        assert (await shown(market, provider)).all_gpus[0].temp_c == celsius
    await beat(market, daemon, 46)
    assert celsius_of(await stored(market, provider)) == 46


async def test_anything_but_a_figure_is_stored_with_the_next_batch(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a", driver="550.1", temp_c=40))
    for driver, celsius in (("560.2", 41), ("550.1", 42)):
        await beat(market, daemon, celsius, driver)
        now = await stored(market, provider)
        assert (now["driver_version"], celsius_of(now)) == (driver, celsius)


async def test_report_that_waits_is_not_lost_by_a_hello_without_one(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    before = await market.daemon(provider, gpu_status=gpu_status("GPU-a", driver="550.1"))
    await before.heartbeat(gpu_status=gpu_status("GPU-a", driver="560.2"))
    market.clock.advance(1)
    await market.daemon(provider)
    await market.tick()
    assert (await stored(market, provider))["driver_version"] == "560.2"


async def test_report_that_waits_does_not_replace_that_of_a_newer_hello(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    before = await market.daemon(provider, gpu_status=gpu_status("GPU-a", driver="550.1"))
    await before.heartbeat(gpu_status=gpu_status("GPU-a", driver="560.2"))
    market.clock.advance(1)
    daemon = await market.daemon(provider, gpu_status=gpu_status("GPU-a", driver="570.3"))
    await market.tick()
    assert (await stored(market, provider))["driver_version"] == "570.3"
    await beat(market, daemon, 41, "560.2")
    assert (await stored(market, provider))["driver_version"] == "560.2"


def test_report_in_memory_is_shown_unless_another_server_stored_a_newer_heartbeat() -> None:
    fleet, report = Fleet(), GpuReport(temp_c=41.0)
    fleet.beat(1, 1000, report)
    assert fleet.newest_report(1, 999) is report
    assert fleet.newest_report(1, 1001) is None
    assert fleet.newest_report(2, None) is None
    fleet.forget_before(1001)
    assert fleet.newest_report(1, None) is None
