"""JobService at the wire."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from dcp.v1 import jobs_pb2 as pb
from dcp.v1 import jobs_pb2_grpc

from server.domain import chats
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.jobs import FINAL, JobState, JobType
from server.rpc import convert, watch
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator, refuse_scope
from server.services.explain import with_preparation
from server.services.jobs import Jobs, Output
from server.services.keys import ADMIN, PROVIDER, RENTER
from server.services.preparations import Preparations
from server.services.quotes import Offer, Quoted, Quotes
from server.services.watch import Watches

DEFAULT_CONTENT_TYPE = "text/plain; charset=utf-8"
STALLED_SECONDS = 60.0
"""How long the reader of a stream may take nothing."""


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, jobs: Jobs, quotes: Quotes, watches: Watches, preparations: Preparations) -> None:
        self._preparations = preparations
        self._jobs = jobs
        self._quotes = quotes
        self._watches = watches

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:
        if convert.job_type(request.job_type) is None:
            raise invalid_field("job_type", "is not a job type that this server knows")
        job = await self._jobs.submit(caller().id, convert.job_request(request), caller().key_id)
        return pb.SubmitJobResponse(success=True, job=convert.job(job))

    async def QuoteJob(self, request: pb.QuoteJobRequest, context: Context) -> pb.QuoteJobResponse:
        if convert.job_type(request.job_type) is None:
            raise invalid_field("job_type", "is not a job type that this server knows")
        # Both messages have the same fields, but for what a repeated submit and a quote are known by.
        as_submitted = pb.SubmitJobRequest.FromString(request.SerializeToString())
        quoted = await self._quotes.quote(caller().id, convert.job_request(as_submitted))
        return _quote(quoted, request.params.model)

    async def ListOwnJobs(self, request: pb.ListOwnJobsRequest, context: Context) -> pb.ListOwnJobsResponse:
        found, more = await self._jobs.own(caller().id, *_page(request))
        return pb.ListOwnJobsResponse(jobs=[convert.job(job) for job in found], next_before_job_id=more)

    async def ListProviderJobs(
        self, request: pb.ListProviderJobsRequest, context: Context
    ) -> pb.ListProviderJobsResponse:
        found, more = await self._jobs.of_provider(caller().id, *_page(request))
        return pb.ListProviderJobsResponse(
            jobs=[convert.providers_job(job) for job in found], next_before_job_id=more
        )

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        job = await self._jobs.get(caller(), request.job_id)
        show = convert.providers_job if caller().role == PROVIDER else convert.job
        answer = pb.GetJobResponse(job=show(job, await self._jobs.prospect(job)))
        if dispute := await self._jobs.dispute(job):
            answer.job.dispute.CopyFrom(convert.dispute(dispute))
        return answer

    async def GetJobOutput(
        self, request: pb.GetJobOutputRequest, context: Context
    ) -> pb.GetJobOutputResponse:
        return _output(await self._jobs.output(caller(), request.job_id, request.partial))

    async def GetJobLogs(self, request: pb.GetJobLogsRequest, context: Context) -> pb.GetJobLogsResponse:
        found = await self._jobs.logs(caller(), request.job_id, request.after_seq)
        return pb.GetJobLogsResponse(
            job_id=found.job.job_id,
            status=convert.state_number(found.job.state),
            lease_epoch=found.job.lease_epoch,
            log=found.data.decode("utf-8", errors="replace"),
            through_seq=found.through_seq,
            is_complete=found.job.state in FINAL,
        )

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> None:  # type: ignore[override]
        job_id, is_providers = request.job_id, caller().role == PROVIDER
        cancels = request.cancel_when_left
        if cancels:
            _refuse_cancel()
        watched = self._watches.watch(caller(), job_id, request.last_event_id, cancels_when_left=cancels)
        async with aclosing(watched) as batches:
            async for events in batches:
                if not events:
                    await _send(context, watch.NO_EVENT)
                for event in events:
                    await _send(context, watch.response(job_id, event, for_provider=is_providers))

    async def ExplainJob(self, request: pb.ExplainJobRequest, context: Context) -> pb.ExplainJobResponse:
        found = await self._jobs.explain(caller(), request.job_id)
        return convert.explanation(with_preparation(found, self._preparations.of(found.job)))

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        by = operator(context) if caller().role == ADMIN else None
        job = await self._jobs.cancel(caller(), request.job_id, by, keep_files=request.keep_files)
        return pb.CancelJobResponse(success=True, job=convert.job(job))


def _refuse_cancel() -> None:
    """Raises INVALID_FIELD, MISSING_SCOPE if the caller's going away may not cancel a job."""
    if caller().role != RENTER:
        raise invalid_field("cancel_when_left", "is for the renter of the job")
    refuse_scope("/dcp.v1.JobService/CancelJob")


async def _send(context: Context, event: pb.WatchJobResponse) -> None:
    """Sends an event as soon as the reader has room for it. Raises TIMEOUT if it takes nothing for long."""
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await context.write(event)
    except TimeoutError:
        raise DomainError(
            Reason.TIMEOUT,
            f"nothing of the stream was read for {STALLED_SECONDS:.0f} s; open it again with the id of the "
            "last event, and it continues",
        ) from None


def _quote(quoted: Quoted, model: str) -> pb.QuoteJobResponse:
    answer = pb.QuoteJobResponse(
        quote_id=quoted.quote_id,
        expires_at=convert.timestamp(quoted.expires_ms),
        price=convert.price(quoted.price),
        duration_minutes=quoted.reserved.limit_ms / 60_000,
        max_tokens=quoted.reserved.max_tokens,
        providers=[_quoted_provider(offer, model.strip()) for offer in quoted.offers],
        able=quoted.able,
    )
    return convert.with_money(answer, hold=quoted.reserved.hold_micros, likely=quoted.likely_micros)


def _quoted_provider(offer: Offer, model: str) -> pb.QuotedProvider:
    candidate = offer.candidate
    shown = pb.QuotedProvider(
        provider_id=candidate.provider_id,
        gpu_model=candidate.gpu_model,
        price=convert.price(offer.price),
        tokens_per_second=offer.measured.tokens_per_second,
        first_token_ms=offer.measured.first_token_ms,
        free_since=convert.timestamp(candidate.free_since_ms),
        free_slots=max(0, candidate.free_slots),
        warm=any(served.warm and served.name == model for served in candidate.models),
    )
    return convert.with_money(shown, hold=offer.hold_micros, likely=offer.likely_micros)


def _page(
    request: pb.ListOwnJobsRequest | pb.ListProviderJobsRequest,
) -> tuple[JobState | None, str | None, int]:
    state = convert.job_state(request.status) if request.HasField("status") else None
    return state, request.before_job_id or None, request.page_size


def _output(output: Output) -> pb.GetJobOutputResponse:
    job = output.job
    answer = pb.GetJobOutputResponse(job_id=job.job_id, status=convert.state_number(job.state))
    if job.state not in FINAL:
        answer.availability = pb.OUTPUT_AVAILABILITY_NOT_YET
        answer.message = f"the job is {job.state.value}; ask again in a moment"
        return answer
    answer.billing.CopyFrom(convert.billing(job))
    if job.usage:
        answer.usage.CopyFrom(convert.usage(job.usage))
    if not output.data:
        answer.availability = pb.OUTPUT_AVAILABILITY_EMPTY
        return answer
    answer.availability = pb.OUTPUT_AVAILABILITY_READY
    answer.truncated = job.output_truncated
    answer.partial = job.state is not JobState.COMPLETED
    if job.job_type is JobType.EMBEDDINGS:
        answer.content_type, answer.type = chats.CONTENT_TYPE, "embeddings"
        answer.chunks = output.data.decode("utf-8", errors="replace")
        return answer
    if job.content_type == chats.CONTENT_TYPE:
        answer.content_type, answer.type = DEFAULT_CONTENT_TYPE, "text"
        answer.response = chats.said(output.data)
        answer.chunks = output.data.decode("utf-8", errors="replace")
        return answer
    answer.content_type = job.content_type or DEFAULT_CONTENT_TYPE
    if answer.content_type.startswith("image/"):
        answer.type, answer.data = "image", output.data
    else:
        answer.type, answer.response = "text", output.data.decode("utf-8", errors="replace")
    return answer
