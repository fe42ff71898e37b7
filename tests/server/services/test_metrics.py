"""GPU metrics through the whole server: heartbeats by stream and by POST in, curves out."""

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


async def post_heartbeat(market: Market, provider: Party, report: gpus_pb2.GpuStatus) -> None:
    request = providers_pb2.HeartbeatRequest(gpu_status=report)
    await market.provider_service.Heartbeat(request, metadata=provider.metadata)


async def own_metrics(market: Market, provider: Party, **fields: Any) -> metrics_pb2.GetOwnMetricsResponse:
    request = metrics_pb2.GetOwnMetricsRequest(**fields)
    return await market.metric_service.GetOwnMetrics(request, metadata=provider.metadata)


async def count_rows(market: Market) -> int:
    return await market.sql(lambda: GpuMetrics.select().count())


def advance_to_next_bucket(market: Market, seconds: int) -> None:
    """Moves the clock to the beginning of the next bucket of this width."""
    market.clock.advance(seconds - market.clock.now() % seconds)


async def test_heartbeats_by_stream_and_post_give_one_curve(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider)
    advance_to_next_bucket(market, FINE_SECONDS)
    began_ms = round(market.clock.now() * 1000)
    await daemon.heartbeat(gpu_status=status(60, gpu_util_pct=10, memory_used_mb=100))
    await post_heartbeat(market, provider, status(65, gpu_util_pct=0))
    await daemon.heartbeat()  # without a GPU report
    market.clock.advance(120)  # a minute without a sample
    await daemon.heartbeat(gpu_status=status(61.26, power_w=200))
    for _ in range(2):  # first from memory, then from the database
        curves = await own_metrics(market, provider)
        assert (curves.range, curves.point_seconds) == (metrics_pb2.METRICS_RANGE_HOUR, 60)
        (gpu,) = curves.gpus
        assert (gpu.uuid, gpu.index, gpu.gpu_name) == ("GPU-a", 0, "RTX")
        first, last = gpu.points
        assert (first.at.ToMilliseconds(), last.at.ToMilliseconds()) == (began_ms, began_ms + 120_000)
        assert (first.temp_c, first.max_temp_c, first.gpu_util_pct) == (62.5, 65, 5)
        assert (first.memory_used_mb, first.max_memory_used_mb) == (100, 100)
        assert not first.HasField("power_w")  # a figure that was never reported is not zero
        assert not first.HasField("max_power_w")
        assert (last.temp_c, last.power_w) == (61.26, 200)
        assert not last.HasField("gpu_util_pct")
        await market.later(60)
    assert await count_rows(market) == 2  # the coarse bucket is still open


@pytest.mark.parametrize(
    ("metrics_range", "points"),
    [
        (metrics_pb2.METRICS_RANGE_HOUR, 60),
        (metrics_pb2.METRICS_RANGE_SIX_HOURS, 120),
        (metrics_pb2.METRICS_RANGE_DAY, 120),
        (metrics_pb2.METRICS_RANGE_WEEK, 120),
    ],
)
async def test_every_range_has_a_maximum_number_of_points(
    market: Market, metrics_range: metrics_pb2.MetricsRange, points: int
) -> None:
    provider = await market.provider()
    record = market.server.services.metrics.record
    steps = [600] * (8 * DAY_SECONDS // 600) + [60] * (7 * 60)
    for (
        step
    ) in steps:  # eight days with a sample every ten minutes, then seven hours with a sample every minute
        market.clock.advance(step)
        record(provider.id, GpuReport(gpu_name="X", temp_c=50))
    curves = await own_metrics(market, provider, range=metrics_range)
    (gpu,) = curves.gpus
    width = curves.point_seconds
    last = round(market.clock.now()) // width * width
    times = [point.at.ToMilliseconds() // 1000 for point in gpu.points]
    assert times == [last - age * width for age in reversed(range(points))]


async def test_heartbeats_write_nothing_and_each_bucket_writes_one_row(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    advance_to_next_bucket(market, COARSE_SECONDS)
    for _ in range(COARSE_SECONDS // 10):
        await daemon.heartbeat(gpu_status=status(50))
        await market.later(10)
    query = GpuMetrics.select(GpuMetrics.width_seconds, GpuMetrics.gpus)
    stored = await market.sql(lambda: sorted(tuples(query)))
    assert [width for width, _ in stored] == [FINE_SECONDS] * 12 + [COARSE_SECONDS]
    assert stored[-1][1] == '[["GPU-a",0,"RTX",null,null,[72,3600.0,50.0],null]]'


async def test_bucket_that_cannot_be_stored_is_given_up_and_holds_up_no_other(market: Market) -> None:
    broken, healthy = await market.provider(), await market.provider()
    advance_to_next_bucket(market, FINE_SECONDS)
    unwritable = (
        f"CREATE TRIGGER unwritable BEFORE INSERT ON gpu_metrics WHEN NEW.provider_id = {broken.id} "
        "BEGIN SELECT RAISE(ABORT, 'a row that cannot be written'); END"
    )
    await market.sql(lambda: GpuMetrics._meta.database.execute_sql(unwritable))
    for provider in (broken, healthy):
        await post_heartbeat(market, provider, status(50))
    await market.later(FINE_SECONDS)
    stored = await market.sql(lambda: [row.provider_id for row in GpuMetrics.select()])
    assert stored == [healthy.id]
    assert await market.server.services.metrics._store() == 0


async def test_metrics_survive_a_stopped_server_and_its_successor_continues_the_buckets(
    database_url: str, clock: ManualClock
) -> None:
    clock.advance(COARSE_SECONDS - clock.now() % COARSE_SECONDS)
    async with running_server.running(database_url, clock) as market:
        provider = await market.provider()
        await post_heartbeat(market, provider, status(50))
    async with running_server.running(database_url, clock) as market:
        await post_heartbeat(market, provider, status(70))  # in the same buckets
        for metrics_range in metrics_pb2.MetricsRange.values()[1:]:
            (gpu,) = (await own_metrics(market, provider, range=metrics_range)).gpus
            assert [(point.temp_c, point.max_temp_c) for point in gpu.points] == [(60, 70)]


async def test_64_gpus_have_64_curves_and_a_gpu_without_uuid_is_known_by_its_index(market: Market) -> None:
    provider = await market.provider()
    devices = [gpus_pb2.GpuDevice(index=n, uuid=f"GPU-{n}" if n else "", temp_c=n) for n in range(64)]
    await post_heartbeat(market, provider, gpus_pb2.GpuStatus(gpu_count=64, all_gpus=devices))
    found = (await own_metrics(market, provider)).gpus
    assert [gpu.index for gpu in found] == list(range(64))
    assert [gpu.uuid for gpu in found] == ["", *(f"GPU-{n}" for n in range(1, 64))]
    assert not found[0].HasField("uuid")
    await post_heartbeat(market, provider, gpus_pb2.GpuStatus(gpu_count=1, all_gpus=devices[:1]))
    market.clock.advance(60)
    await post_heartbeat(market, provider, gpus_pb2.GpuStatus(gpu_count=1, all_gpus=devices[:1]))
    assert {len(gpu.points) for gpu in (await own_metrics(market, provider)).gpus[1:]} == {1}
    assert len((await own_metrics(market, provider)).gpus[0].points) == 2


async def test_sample_that_is_not_a_number_is_refused_and_not_stored(market: Market) -> None:
    provider = await market.provider()
    refused = await refusal(post_heartbeat(market, provider, status(float("nan"))))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "gpu_status.all_gpus[0].temp_c")
    assert not (await own_metrics(market, provider)).gpus


async def test_provider_sees_only_its_own_gpus_and_an_operator_those_of_each(market: Market) -> None:
    provider, other = await market.provider(), await market.provider()
    await post_heartbeat(market, provider, status(50))
    assert not (await own_metrics(market, other)).gpus

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


async def test_unknown_range_is_refused(market: Market) -> None:
    provider = await market.provider()
    for unknown in (metrics_pb2.METRICS_RANGE_UNSPECIFIED, 9):
        refused = await refusal(own_metrics(market, provider, range=unknown))
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "range")
