"""ProviderService at the wire."""

from __future__ import annotations

import re

from dcp.v1 import providers_pb2 as pb
from dcp.v1 import providers_pb2_grpc

from server.domain.errors import no_page
from server.domain.payouts import HOUR_MS
from server.domain.providers import AccountDecision
from server.domain.versions import is_older
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, caller_address
from server.rpc.terms import settings_message
from server.rpc.validate import mailbox_of
from server.services.heartbeats import Heartbeats
from server.services.market import Market
from server.services.providers import ProviderProfile, Providers
from server.services.registration import Registration

_PLACE = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")


class ProviderServicer(providers_pb2_grpc.ProviderServiceServicer):
    def __init__(
        self,
        providers: Providers,
        registration: Registration,
        heartbeats: Heartbeats,
        market: Market,
        newest_daemon: str,
    ) -> None:
        self._providers = providers
        self._registration = registration
        self._heartbeats = heartbeats
        self._market = market
        self._newest_daemon = newest_daemon

    async def RegisterProvider(
        self, request: pb.RegisterProviderRequest, context: Context
    ) -> pb.RegisterProviderResponse:
        registered = await self._registration.provider(
            name=request.name.strip(),
            email=request.email,
            mailbox=mailbox_of(request.email),
            gpu_model=request.gpu_model,
            os=request.os.strip(),
            phone=request.phone,
            address=caller_address(),
        )
        return pb.RegisterProviderResponse(
            success=True, provider_id=registered.id, api_key=registered.api_key
        )

    async def GetOwnProvider(
        self, request: pb.GetOwnProviderRequest, context: Context
    ) -> pb.GetOwnProviderResponse:
        profile = await self._providers.profile(caller().id)
        return pb.GetOwnProviderResponse(
            provider=message(profile),
            recent_jobs=[convert.providers_job(job) for job in profile.recent_jobs],
        )

    async def PauseOwnProvider(
        self, request: pb.PauseOwnProviderRequest, context: Context
    ) -> pb.PauseOwnProviderResponse:
        status = await self._providers.pause(caller().id, AccountDecision.PAUSE)
        return pb.PauseOwnProviderResponse(success=True, status=convert.provider_status(status))

    async def ResumeOwnProvider(
        self, request: pb.ResumeOwnProviderRequest, context: Context
    ) -> pb.ResumeOwnProviderResponse:
        status = await self._providers.pause(caller().id, AccountDecision.RESUME)
        return pb.ResumeOwnProviderResponse(success=True, status=convert.provider_status(status))

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        status = await self._heartbeats.post(caller().id, convert.gpu_report(request.gpu_status))
        return pb.HeartbeatResponse(
            success=True,
            status=convert.provider_status(status),
            update_available=is_older(request.gpu_status.daemon_version, self._newest_daemon),
        )

    async def ListProviderHistory(
        self, request: pb.ListProviderHistoryRequest, context: Context
    ) -> pb.ListProviderHistoryResponse:
        found, last = await self._market.history(
            request.provider_id, _place(request.before), request.page_size
        )
        return pb.ListProviderHistoryResponse(
            attempts=[convert.past_attempt(attempt) for attempt in found],
            next_before=f"{last[0]}-{last[1]}" if last is not None else None,
        )

    async def GetOwnMissedJobs(
        self, request: pb.GetOwnMissedJobsRequest, context: Context
    ) -> pb.GetOwnMissedJobsResponse:
        waiting, offers = await self._market.missed(caller().id, request.limit)
        return pb.GetOwnMissedJobsResponse(
            waiting=[convert.waiting_needs(*needs) for needs in waiting],
            offers=[convert.missed_offer(offer) for offer in offers],
        )


def message(profile: ProviderProfile) -> pb.Provider:
    """A provider as it and operators see it."""
    row = profile.provider
    return pb.Provider(
        id=row.id,
        status=convert.provider_status(profile.status),
        total_jobs=profile.total_jobs,
        name=row.name,
        email=row.email,
        gpu_model=row.gpu_model,
        os=row.os,
        phone=row.phone,
        created_at=convert.timestamp(row.created_ms),
        last_heartbeat_at=convert.timestamp(profile.last_heartbeat_ms),
        connected=row.connected,
        gpu_status=convert.gpu_status(row.report),
        earnings=_earnings(profile),
        models=[model.name for model in profile.models],
        embedding_models=convert.embedding_models(profile.models),
        reliability=profile.record.reliability,
        reliability_attempts=profile.record.counted,
        reliability_lower=profile.record.lower,
        standing=convert.standing(profile.standing),
        settings=settings_message(profile.settings),
        verification=convert.verification(row),
        self_tests=convert.self_tests(row),
        hindrances=convert.hindrances(profile.hindrances),
        stored_bytes=profile.stored_bytes,
        stored_bytes_limit=profile.stored_bytes_limit or None,
        email_verified=row.email_verified_ms is not None,
    )


def _place(before: str) -> tuple[int, int] | None:
    """A position in the history: the end of an attempt and its number. Raises PAGE_NOT_FOUND."""
    if not before:
        return None
    if (found := _PLACE.fullmatch(before)) is None:
        raise no_page("before")
    return int(found[1]), int(found[2])


def _earnings(profile: ProviderProfile) -> pb.Earnings:
    money, wait_ms = profile.money, profile.maturing_ms
    return convert.with_money(
        pb.Earnings(maturing_hours=wait_ms // HOUR_MS if wait_ms is not None else None),
        total=profile.earned_micros,
        claimable=money.claimable_micros,
        today=profile.earned_today_micros,
        this_week=profile.earned_this_week_micros,
        maturing=money.maturing_micros,
        held=money.held_micros,
        disputed=money.disputed_micros,
        debt=money.debt_micros,
    )
