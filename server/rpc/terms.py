"""TermsService at the wire."""

from __future__ import annotations

from dcp.v1 import terms_pb2 as pb
from dcp.v1 import terms_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.terms import Settings, Spread, Weekday, time_of_day, window
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map, member_map
from server.rpc.interceptors import caller
from server.services.terms import OwnRate, OwnTerms

_WEEKDAYS = member_map(Weekday, pb.Weekday)
_WEEKDAY_NUMBERS = enum_map(Weekday, pb.Weekday)


class TermsServicer(terms_pb2_grpc.TermsServiceServicer):
    def __init__(self, terms: OwnTerms) -> None:
        self._terms = terms

    async def SetOwnRate(self, request: pb.SetOwnRateRequest, context: Context) -> pb.SetOwnRateResponse:
        kind = convert.job_type(request.job_type)
        if kind is None:
            raise invalid_field("job_type", "is not a job type that this server knows")
        rate = request.halala_per_minute if request.HasField("halala_per_minute") else None
        rates = await self._terms.set_rate(caller().id, kind, rate)
        return pb.SetOwnRateResponse(success=True, rates=_rates(rates))

    async def ListOwnRates(
        self, request: pb.ListOwnRatesRequest, context: Context
    ) -> pb.ListOwnRatesResponse:
        return pb.ListOwnRatesResponse(rates=_rates(await self._terms.rates(caller().id)))

    async def SetOwnSettings(
        self, request: pb.SetOwnSettingsRequest, context: Context
    ) -> pb.SetOwnSettingsResponse:
        settings = await self._terms.set_settings(caller().id, _settings(request))
        return pb.SetOwnSettingsResponse(success=True, settings=settings_message(settings))

    async def GetOwnSettings(
        self, request: pb.GetOwnSettingsRequest, context: Context
    ) -> pb.GetOwnSettingsResponse:
        settings = await self._terms.settings(caller().id)
        return pb.GetOwnSettingsResponse(settings=settings_message(settings))


def settings_message(settings: Settings) -> pb.ProviderSettings:
    """The settings as owners and daemons receive them."""
    return pb.ProviderSettings(
        hours=[
            pb.WeeklyHours(
                days=[_WEEKDAY_NUMBERS[day] for day in sorted(hours.days)],
                start=time_of_day(hours.start_minute),
                end=time_of_day(hours.end_minute),
            )
            for hours in settings.hours
        ],
        timezone=settings.timezone,
        max_temp_c=settings.max_temp_c,
        vram_reserve_mib=settings.vram_reserve_mib,
    )


def _settings(request: pb.SetOwnSettingsRequest) -> Settings:
    """The settings of a request. Raises INVALID_FIELD."""
    hours = tuple(
        window(_days(weekly, f"hours[{number}].days"), weekly.start, weekly.end)
        for number, weekly in enumerate(request.hours)
    )
    most = request.max_temp_c if request.HasField("max_temp_c") else None
    return Settings(hours, request.timezone, most, request.vram_reserve_mib)


def _days(hours: pb.WeeklyHours, path: str) -> list[Weekday]:
    unknown = [number for number in hours.days if number not in _WEEKDAYS]
    if unknown:
        raise invalid_field(path, f"must be some of: {', '.join(day.name.lower() for day in Weekday)}")
    return [_WEEKDAYS[number] for number in hours.days]


def _rates(rates: list[OwnRate]) -> list[pb.OwnRate]:
    return [
        pb.OwnRate(
            job_type=convert.job_type_number(rate.kind),
            halala_per_minute=rate.rate,
            own=rate.is_own,
            platform_halala_per_minute=rate.platform_rate,
            least_halala_per_minute=rate.bounds[0],
            most_halala_per_minute=rate.bounds[1],
            others=_others(rate.others) if rate.others is not None else None,
        )
        for rate in rates
    ]


def _others(spread: Spread) -> pb.OthersRates:
    return pb.OthersRates(
        providers=spread.count,
        lowest_halala_per_minute=spread.lowest,
        lower_quartile_halala_per_minute=spread.lower_quartile,
        median_halala_per_minute=spread.median,
        upper_quartile_halala_per_minute=spread.upper_quartile,
        highest_halala_per_minute=spread.highest,
    )
