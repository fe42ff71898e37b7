"""RenterService at the wire."""

from __future__ import annotations

from dcp.v1 import renters_pb2 as pb
from dcp.v1 import renters_pb2_grpc

from server.domain.hindrances import by_job_type
from server.domain.money import whole_halala
from server.domain.providers import ProviderStatus
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, caller_address
from server.rpc.repeats import once
from server.rpc.validate import mailbox_of
from server.services.market import Market, Offering
from server.services.registration import Registration
from server.services.renters import Renters


class RenterServicer(renters_pb2_grpc.RenterServiceServicer):
    def __init__(self, renters: Renters, registration: Registration, market: Market) -> None:
        self._renters = renters
        self._registration = registration
        self._market = market

    async def RegisterRenter(
        self, request: pb.RegisterRenterRequest, context: Context
    ) -> pb.RegisterRenterResponse:
        registered = await self._registration.renter(
            name=request.name.strip(),
            email=request.email,
            mailbox=mailbox_of(request.email),
            organization=request.organization.strip(),
            phone=request.phone,
            address=caller_address(),
        )
        return pb.RegisterRenterResponse(success=True, renter_id=registered.id, api_key=registered.api_key)

    async def GetOwnRenter(
        self, request: pb.GetOwnRenterRequest, context: Context
    ) -> pb.GetOwnRenterResponse:
        profile = await self._renters.profile(caller().id)
        row = profile.renter
        return pb.GetOwnRenterResponse(
            renter=convert.with_money(
                pb.Renter(
                    id=row.id,
                    name=row.name,
                    email=row.email,
                    organization=row.organization,
                    created_at=convert.timestamp(row.created_ms),
                    total_jobs=profile.total_jobs,
                    stored_bytes=profile.stored_bytes,
                    stored_bytes_limit=profile.stored_bytes_limit or None,
                    email_verified=row.email_verified_ms is not None,
                ),
                balance=profile.balance_micros,
                held=profile.held_micros,
                spent=profile.spent_micros,
            ),
            recent_jobs=[convert.job(job) for job in profile.recent_jobs],
        )

    async def ListAvailableProviders(
        self, request: pb.ListAvailableProvidersRequest, context: Context
    ) -> pb.ListAvailableProvidersResponse:
        page, page_size = request.page, request.page_size
        found, total, nearest = await self._market.available(
            gpu_model=request.gpu_model.strip() or None,
            min_vram_mib=round(request.min_vram_gb * 1024) or None,
            model=request.model.strip() or None,
            after_id=request.after_id,
            page=page,
            page_size=page_size,
            verified=request.verified,
            min_standing=convert.standing_member(request.min_standing),
            architecture=request.architecture.strip() or None,
        )
        return pb.ListAvailableProvidersResponse(
            providers=[_available(offering) for offering in found.rows],
            next_after_id=found.next_id,
            total=total,
            page=page,
            page_size=page_size,
            nearest_gpu_models=nearest,
        )

    async def TopUpOwnWallet(
        self, request: pb.TopUpOwnWalletRequest, context: Context
    ) -> pb.TopUpOwnWalletResponse:
        return await once(
            request,
            self._renters.top_up(caller().id, convert.micros_of(request.amount_halala)),
            pb.TopUpOwnWalletResponse,
            lambda balance: pb.TopUpOwnWalletResponse(success=True, balance_halala=whole_halala(balance)),
        )


def _available(offering: Offering) -> pb.AvailableProvider:
    row = offering.provider
    status = ProviderStatus.DRAINING if row.draining else ProviderStatus.ONLINE
    open_types = row.job_types.difference(by_job_type(offering.hindrances))
    return pb.AvailableProvider(
        id=row.id,
        gpu_model=row.gpu_model,
        gpu_name=row.report.gpu_name,
        gpu_vram_is_shared=row.report.vram_is_shared,
        is_live=True,  # the list has only live providers
        name=row.name,
        status=convert.provider_status(status),
        gpu_vram_mib=row.gpu_vram_mib,
        gpu_count=row.report.gpu_count,
        models=[model.name for model in offering.models],
        accepting_jobs=offering.is_accepting and bool(open_types),
        rates_halala_per_minute={kind.value: rate for kind, rate in offering.rates.items()},
        reliability=offering.record.reliability,
        reliability_attempts=offering.record.counted,
        reliability_lower=offering.record.lower,
        standing=convert.standing(offering.standing),
        vram_for_jobs_mib=offering.vram_for_jobs_mib,
        opens_at=convert.timestamp(offering.opens_ms),
        verification=convert.verification(row),
        hindrances=convert.hindrances(offering.hindrances),
        runs_plain_processes=offering.runs_plain_processes,
        architecture=row.architecture or None,
        image_patterns=row.image_patterns or (),
        prices=[
            pb.OfferedPrice(
                job_type=convert.job_type_number(offered.kind),
                model=offered.model,
                price=convert.price(offered.price),
                tokens_per_second=offered.tokens_per_second,
            )
            for offered in offering.prices
        ],
    )
