"""GPU metrics through the edge: heartbeats of both kinds in, curves out."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import gpus_pb2, metrics_pb2, providers_pb2

from server.domain.gpus import GpuReport
from server.domain.metrics import COARSE_SECONDS, FINE_SECONDS
from server.store.models import GpuMetrics, tuples
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, bearer, refusal

DAY_SECONDS = 24 * 3600


def status(temp_c: float | None = None, **figures: Any) -> gpus_pb2.GpuStatus:
    device = gpus_pb2.GpuDevice(uuid="GPU-a", gpu_name="RTX", temp_c=temp_c, **figures)
    return gpus_pb2.GpuStatus(gpu_name="RTX", gpu_count=1, all_gpus=[device])


async def beat(market: Market, provider: Party, told: gpus_pb2.GpuStatus) -> None:
    request = providers_pb2.HeartbeatRequest(gpu_status=told)
    await market.provider_service.Heartbeat(request, metadata=provider.metadata)


async def own(market: Market, provider: Party, **which: Any) -> metrics_pb2.GetOwnMetricsResponse:
    request = metrics_pb2.GetOwnMetricsRequest(**which)
    return await market.metric_service.GetOwnMetrics(request, metadata=provider.metadata)


async def rows_of(market: Market) -> int:
    return await market.sql(lambda: GpuMetrics.select().count())


def to_next(market: Market, seconds: int) -> None:
    """Moves the clock to the beginning of the next bucket of a width."""
    market.clock.advance(seconds - market.clock.now() % seconds)


async def test_heartbeats_by_stream_and_post_make_one_curve(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider)
    to_next(market, FINE_SECONDS)
    began_ms = round(market.clock.now() * 1000)
    await daemon.heartbeat(gpu_status=status(60, gpu_util_pct=10, memory_used_mb=100))
    await beat(market, provider, status(65, gpu_util_pct=0))
    await daemon.heartbeat()  # says nothing of the GPUs
    market.clock.advance(120)  # and a minute without a word
    await daemon.heartbeat(gpu_status=status(61.26, power_w=200))
    for _ in range(2):  # waiting in memory, then stored
        told = await own(market, provider)
        assert (told.range, told.point_seconds) == (metrics_pb2.METRICS_RANGE_HOUR, 60)
        (gpu,) = told.gpus
        assert (gpu.uuid, gpu.index, gpu.gpu_name) == ("GPU-a", 0, "RTX")
        first, last = gpu.points
        assert (first.at.ToMilliseconds(), last.at.ToMilliseconds()) == (began_ms, began_ms + 120_000)
        assert (first.temp_c, first.max_temp_c, first.gpu_util_pct) == (62.5, 65, 5)
        assert (first.memory_used_mb, first.max_memory_used_mb) == (100, 100)
        assert not first.HasField("power_w")  # never told is no zero
        assert not first.HasField("max_power_w")
        assert (last.temp_c, last.power_w) == (61.26, 200)
        assert not last.HasField("gpu_util_pct")
        await market.later(60)
    assert await rows_of(market) == 2  # the coarse bucket is still open


@pytest.mark.parametrize(
    ("wanted", "points"),
    [
        (metrics_pb2.METRICS_RANGE_HOUR, 60),
        (metrics_pb2.METRICS_RANGE_SIX_HOURS, 120),
        (metrics_pb2.METRICS_RANGE_DAY, 120),
        (metrics_pb2.METRICS_RANGE_WEEK, 120),
    ],
)
async def test_every_range_has_a_bounded_number_of_points(
    market: Market, wanted: metrics_pb2.MetricsRange, points: int
) -> None:
    provider = await market.provider()
    record = market.server.services.metrics.record
    steps = [600] * (8 * DAY_SECONDS // 600) + [60] * (7 * 60)
    for step in steps:  # eight days with a word every ten minutes, then seven hours with one every minute
        market.clock.advance(step)
        record(provider.id, GpuReport(gpu_name="X", temp_c=50))
    told = await own(market, provider, range=wanted)
    (gpu,) = told.gpus
    width = told.point_seconds
    last = round(market.clock.now()) // width * width
    times = [point.at.ToMilliseconds() // 1000 for point in gpu.points]
    assert times == [last - age * width for age in reversed(range(points))]


async def test_heartbeats_cost_no_write_and_a_bucket_one_row(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    to_next(market, COARSE_SECONDS)
    for _ in range(COARSE_SECONDS // 10):
        await daemon.heartbeat(gpu_status=status(50))
        await market.later(10)
    query = GpuMetrics.select(GpuMetrics.width_seconds, GpuMetrics.gpus)
    stored = await market.sql(lambda: sorted(tuples(query)))
    assert [width for width, _ in stored] == [FINE_SECONDS] * 12 + [COARSE_SECONDS]
    assert stored[-1][1] == '[["GPU-a",0,"RTX",null,null,[72,3600.0,50.0],null]]'


async def test_a_stopped_server_loses_nothing_and_its_successor_goes_on(
    database_url: str, clock: ManualClock
) -> None:
    clock.advance(COARSE_SECONDS - clock.now() % COARSE_SECONDS)
    async with running_server.running(database_url, clock) as market:
        provider = await market.provider()
        await beat(market, provider, status(50))
    async with running_server.running(database_url, clock) as market:
        await beat(market, provider, status(70))  # in the same buckets
        for which in metrics_pb2.MetricsRange.values()[1:]:
            (gpu,) = (await own(market, provider, range=which)).gpus
            assert [(point.temp_c, point.max_temp_c) for point in gpu.points] == [(60, 70)]


async def test_64_gpus_have_64_curves_and_a_gpu_without_uuid_its_index(market: Market) -> None:
    provider = await market.provider()
    devices = [gpus_pb2.GpuDevice(index=n, uuid=f"GPU-{n}" if n else "", temp_c=n) for n in range(64)]
    await beat(market, provider, gpus_pb2.GpuStatus(gpu_count=64, all_gpus=devices))
    found = (await own(market, provider)).gpus
    assert [one.index for one in found] == list(range(64))
    assert [one.uuid for one in found] == ["", *(f"GPU-{n}" for n in range(1, 64))]
    assert not found[0].HasField("uuid")
    await beat(market, provider, gpus_pb2.GpuStatus(gpu_count=1, all_gpus=devices[:1]))
    market.clock.advance(60)
    await beat(market, provider, gpus_pb2.GpuStatus(gpu_count=1, all_gpus=devices[:1]))
    assert {len(one.points) for one in (await own(market, provider)).gpus[1:]} == {1}
    assert len((await own(market, provider)).gpus[0].points) == 2


async def test_report_that_is_no_number_is_refused_and_leaves_no_trace(market: Market) -> None:
    provider = await market.provider()
    refused = await refusal(beat(market, provider, status(float("nan"))))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "gpu_status.all_gpus[0].temp_c")
    assert not (await own(market, provider)).gpus


async def test_provider_sees_its_own_gpus_alone_and_an_operator_those_of_each(market: Market) -> None:
    provider, other = await market.provider(), await market.provider()
    await beat(market, provider, status(50))
    assert not (await own(market, other)).gpus

    async def by_operator(provider_id: int) -> metrics_pb2.GetProviderMetricsResponse:
        request = metrics_pb2.GetProviderMetricsRequest(
            provider_id=provider_id, range=metrics_pb2.METRICS_RANGE_DAY
        )
        return await market.metric_service.GetProviderMetrics(request, metadata=market.admin_metadata)

    (gpu,) = (await by_operator(provider.id)).gpus
    assert gpu.points[0].temp_c == 50
    assert (await refusal(by_operator(999))).reason == "PROVIDER_NOT_FOUND"
    request = metrics_pb2.GetProviderMetricsRequest(provider_id=provider.id)
    refused = await refusal(market.metric_service.GetProviderMetrics(request, metadata=bearer(provider.key)))
    assert refused.reason == "WRONG_ROLE"


async def test_range_that_nobody_knows_is_refused(market: Market) -> None:
    provider = await market.provider()
    for which in (metrics_pb2.METRICS_RANGE_UNSPECIFIED, 9):
        refused = await refusal(own(market, provider, range=which))
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "range")
