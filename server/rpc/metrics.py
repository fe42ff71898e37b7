"""MetricService at the wire."""

from __future__ import annotations

from dcp.v1 import metrics_pb2 as pb
from dcp.v1 import metrics_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.metrics import Figure, MetricsRange, Point, Series
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller
from server.services.metrics import Metrics
from server.services.providers import Providers

_RANGES = member_map(MetricsRange, pb.MetricsRange)
_NUMBERS = enum_map(MetricsRange, pb.MetricsRange)
_WITH_GREATEST = (Figure.MEMORY, Figure.TEMPERATURE, Figure.POWER)
_DECIMALS = 2


class MetricServicer(metrics_pb2_grpc.MetricServiceServicer):
    def __init__(self, metrics: Metrics, providers: Providers) -> None:
        self._metrics = metrics
        self._providers = providers

    async def GetOwnMetrics(
        self, request: pb.GetOwnMetricsRequest, context: Context
    ) -> pb.GetOwnMetricsResponse:
        wanted = _range(request)
        return pb.GetOwnMetricsResponse(
            range=_NUMBERS[wanted],
            point_seconds=wanted.point_seconds,
            gpus=[_series(series) for series in await self._metrics.series(caller().id, wanted)],
        )

    async def GetProviderMetrics(
        self, request: pb.GetProviderMetricsRequest, context: Context
    ) -> pb.GetProviderMetricsResponse:
        wanted = _range(request)
        await self._providers.status(request.provider_id)  # raises PROVIDER_NOT_FOUND
        return pb.GetProviderMetricsResponse(
            range=_NUMBERS[wanted],
            point_seconds=wanted.point_seconds,
            gpus=[_series(series) for series in await self._metrics.series(request.provider_id, wanted)],
        )


def _range(request: pb.GetOwnMetricsRequest | pb.GetProviderMetricsRequest) -> MetricsRange:
    if not request.HasField("range"):
        return MetricsRange.HOUR
    wanted = _RANGES.get(request.range)
    if wanted is None:
        raise invalid_field("range", "must be one of: 1h, 6h, 24h, 7d")
    return wanted


def _series(series: Series) -> pb.GpuSeries:
    return pb.GpuSeries(
        uuid=series.uuid or None,
        index=series.index,
        gpu_name=series.name or None,
        points=[_point(point) for point in series.points],
    )


def _point(point: Point) -> pb.GpuPoint:
    """One point; a figure that was not reported stays unset."""
    message = pb.GpuPoint(at=convert.timestamp(point.start_ms))
    for figure, tally in point.figures.items():
        setattr(message, figure.value, round(tally.average, _DECIMALS))
        if figure in _WITH_GREATEST:
            setattr(message, f"max_{figure.value}", round(tally.greatest, _DECIMALS))
    return message
