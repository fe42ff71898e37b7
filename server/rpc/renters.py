"""RenterService at the wire."""

from __future__ import annotations

from dcp.v1 import renters_pb2 as pb
from dcp.v1 import renters_pb2_grpc

from server.domain.comparison import Wanted
from server.domain.errors import invalid_field
from server.domain.hindrances import by_job_type
from server.domain.jobs import JobType
from server.domain.money import whole_halala
from server.domain.pricing import sar_micros
from server.domain.providers import ProviderStatus
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, caller_address
from server.rpc.repeats import once
from server.rpc.validate import mailbox_of
from server.services.market import Market, Offering, View
from server.services.registration import Registration
from server.services.renters import RenterProfile, Renters
from server.store.providers import Filters


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
        return pb.GetOwnRenterResponse(
            renter=message(profile),
            recent_jobs=[convert.job(job) for job in profile.recent_jobs],
        )

    async def ListAvailableProviders(
        self, request: pb.ListAvailableProvidersRequest, context: Context
    ) -> pb.ListAvailableProvidersResponse:
        view = View(request.page, request.page_size, request.after_id, request.cursor)
        found = await self._market.available(_filters(request), _wanted(request), view)
        return pb.ListAvailableProvidersResponse(
            providers=[_available(offering) for offering in found.offerings],
            next_after_id=found.next_id,
            next_cursor=found.next_cursor,
            total=found.total,
            page=view.page,
            page_size=view.page_size,
            nearest_gpu_models=found.nearest,
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


def message(profile: RenterProfile) -> pb.Renter:
    """A renter as it and operators see it."""
    row = profile.renter
    shown = pb.Renter(
        id=row.id,
        name=row.name,
        email=row.email,
        organization=row.organization,
        created_at=convert.timestamp(row.created_ms),
        total_jobs=profile.total_jobs,
        stored_bytes=profile.stored_bytes,
        stored_bytes_limit=profile.stored_bytes_limit or None,
        email_verified=row.email_verified_ms is not None,
        must_prove_email=profile.must_prove_email,
        can_top_up=profile.can_top_up,
    )
    return convert.with_money(
        shown, balance=profile.balance_micros, held=profile.held_micros, spent=profile.spent_micros
    )


def _filters(request: pb.ListAvailableProvidersRequest) -> Filters:
    return Filters(
        gpu_model=request.gpu_model.strip() or None,
        min_vram_mib=round(request.min_vram_gb * 1024) or None,
        model=request.model.strip() or None,
        verified=request.verified,
        min_standing=convert.standing_member(request.min_standing),
        architecture=request.architecture.strip() or None,
        kind=_kind(request.job_type),
    )


def _kind(number: int) -> JobType | None:
    kind = convert.job_type(number)
    if number and kind is None:
        raise invalid_field("job_type", f"is not a job type; send one of {', '.join(JobType)}")
    return kind


def _wanted(request: pb.ListAvailableProvidersRequest) -> Wanted:
    has_speed, has_record = request.HasField("min_tokens_per_second"), request.HasField("min_reliability")
    return Wanted(
        sort=convert.provider_sort(request.sort),
        kind=_kind(request.job_type) or JobType.LLM_INFERENCE,
        model=request.model.strip() or None,
        max_micros_per_hour=_micros(request.max_sar_per_hour),
        max_micros_for_output=_micros(request.max_sar_per_million_output_tokens),
        min_tokens_per_second=request.min_tokens_per_second if has_speed else None,
        max_first_token_ms=request.max_first_token_ms if request.HasField("max_first_token_ms") else None,
        min_reliability=request.min_reliability if has_record else None,
    )


def _micros(amount: str) -> int | None:
    return sar_micros(amount) if amount else None


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
        embedding_models=convert.embedding_models(offering.models),
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
                tokens_per_second=offered.measured.tokens_per_second,
                first_token_ms=offered.measured.first_token_ms,
            )
            for offered in offering.prices
        ],
    )
