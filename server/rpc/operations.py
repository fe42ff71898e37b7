"""OperationService at the wire."""

from __future__ import annotations

from dcp.v1 import operations_pb2 as pb
from dcp.v1 import operations_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.jobs import JobType
from server.domain.money import whole_halala
from server.domain.providers import AccountState
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import operator
from server.rpc.repeats import once
from server.services.operators.operations import ListedProvider, ListedRenter, Operations


class OperationServicer(operations_pb2_grpc.OperationServiceServicer):
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def ListProviders(
        self, request: pb.ListProvidersRequest, context: Context
    ) -> pb.ListProvidersResponse:
        page = await self._operations.providers(
            request.search.strip(), request.before_id or None, request.page_size
        )
        return pb.ListProvidersResponse(
            providers=[_provider(listed) for listed in page.rows], next_before_id=page.next_id
        )

    async def ListRenters(self, request: pb.ListRentersRequest, context: Context) -> pb.ListRentersResponse:
        page = await self._operations.renters(
            request.search.strip(), request.before_id or None, request.page_size
        )
        return pb.ListRentersResponse(
            renters=[_renter(listed) for listed in page.rows], next_before_id=page.next_id
        )

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        found, more = await self._operations.jobs(
            state=convert.job_state(request.status) if request.HasField("status") else None,
            search=request.search.strip(),
            renter_id=request.renter_id or None,
            provider_id=request.provider_id or None,
            before_job_id=request.before_job_id or None,
            limit=request.page_size,
        )
        return pb.ListJobsResponse(jobs=[convert.job(job) for job in found], next_before_job_id=more)

    async def RequeueJob(self, request: pb.RequeueJobRequest, context: Context) -> pb.RequeueJobResponse:
        return await once(
            request,
            self._operations.requeue(operator(context), request.job_id, request.reason.strip()),
            pb.RequeueJobResponse,
            lambda job: pb.RequeueJobResponse(success=True, job=convert.job(job)),
        )

    async def ListRates(self, request: pb.ListRatesRequest, context: Context) -> pb.ListRatesResponse:
        return pb.ListRatesResponse(rates=_rates(await self._operations.rates()))

    async def ChangeRate(self, request: pb.ChangeRateRequest, context: Context) -> pb.ChangeRateResponse:
        kind = convert.job_type(request.job_type)
        if kind is None:
            raise invalid_field("job_type", "is not a job type that this server knows")
        rates = await self._operations.change_rate(operator(context), kind, request.halala_per_minute)
        return pb.ChangeRateResponse(success=True, rates=_rates(rates))


def _provider(listed: ListedProvider) -> pb.ProviderEntry:
    return pb.ProviderEntry(
        id=listed.row.id,
        name=listed.row.name,
        email=listed.row.email,
        gpu_model=listed.row.gpu_model,
        status=convert.provider_status(listed.status),
        created_at=convert.timestamp(listed.row.created_ms),
        last_heartbeat_at=convert.timestamp(listed.last_heartbeat_ms),
        verification=convert.verification(listed.row),
        hindrances=convert.hindrances(listed.hindrances),
        standing=convert.standing(listed.standing),
    )


def _renter(listed: ListedRenter) -> pb.RenterEntry:
    return pb.RenterEntry(
        id=listed.row.id,
        name=listed.row.name,
        email=listed.row.email,
        organization=listed.row.organization,
        suspended=listed.row.state is AccountState.SUSPENDED,
        deleted=listed.row.state is AccountState.DELETED,
        balance_halala=whole_halala(listed.balance_micros),
        created_at=convert.timestamp(listed.row.created_ms),
    )


def _rates(rates: dict[JobType, int]) -> list[pb.Rate]:
    return [
        pb.Rate(job_type=convert.job_type_number(kind), halala_per_minute=rate)
        for kind, rate in rates.items()
    ]
