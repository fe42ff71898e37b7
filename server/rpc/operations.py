"""OperationService at the wire."""

from __future__ import annotations

from dcp.v1 import operations_pb2 as pb
from dcp.v1 import operations_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.jobs import JobType
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
            providers=[_provider(one) for one in page.rows], next_before_id=page.next_before_id
        )

    async def ListRenters(self, request: pb.ListRentersRequest, context: Context) -> pb.ListRentersResponse:
        page = await self._operations.renters(
            request.search.strip(), request.before_id or None, request.page_size
        )
        return pb.ListRentersResponse(
            renters=[_renter(one) for one in page.rows], next_before_id=page.next_before_id
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
            raise invalid_field("job_type", "is no kind of job that this server knows")
        card = await self._operations.change_rate(operator(context), kind, request.halala_per_minute)
        return pb.ChangeRateResponse(success=True, rates=_rates(card))


def _provider(one: ListedProvider) -> pb.ProviderEntry:
    return pb.ProviderEntry(
        id=one.row.id,
        name=one.row.name,
        email=one.row.email,
        gpu_model=one.row.gpu_model,
        status=convert.provider_status(one.status),
        created_at=convert.timestamp(one.row.created_ms),
        last_heartbeat_at=convert.timestamp(one.last_heartbeat_ms),
        verification=convert.verification(one.row),
        hindrances=convert.hindrances(one.hindrances),
    )


def _renter(one: ListedRenter) -> pb.RenterEntry:
    return pb.RenterEntry(
        id=one.row.id,
        name=one.row.name,
        email=one.row.email,
        organization=one.row.organization,
        suspended=one.row.state is AccountState.SUSPENDED,
        deleted=one.row.state is AccountState.DELETED,
        balance_halala=one.balance_halala,
        created_at=convert.timestamp(one.row.created_ms),
    )


def _rates(card: dict[JobType, int]) -> list[pb.Rate]:
    return [
        pb.Rate(job_type=convert.job_type_number(kind), halala_per_minute=rate) for kind, rate in card.items()
    ]
