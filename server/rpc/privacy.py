"""PrivacyService at the wire."""

from __future__ import annotations

from dcp.v1 import jobs_pb2, privacy_pb2_grpc
from dcp.v1 import privacy_pb2 as pb
from google.protobuf.json_format import ParseDict

from server.domain import chats
from server.domain.money import whole_halala
from server.domain.providers import AccountState
from server.rpc import batches, convert
from server.rpc.artifacts import artifact
from server.rpc.context import Context
from server.rpc.inputs import shown
from server.rpc.interceptors import caller
from server.rpc.keys import key
from server.rpc.statements import line
from server.rpc.webhooks import delivery, webhook
from server.services.explain import Attempt
from server.services.privacy.deletion import Deletion
from server.services.privacy.export import Export, ExportPage
from server.store.privacy.export import AskedJob, WrittenAttempt


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    def __init__(self, export: Export, deletion: Deletion) -> None:
        self._export = export
        self._deletion = deletion

    async def ExportOwnData(
        self, request: pb.ExportOwnDataRequest, context: Context
    ) -> pb.ExportOwnDataResponse:
        page = await self._export.page(caller().id, request.page, request.page_size)
        return pb.ExportOwnDataResponse(
            renter=_renter(page),
            webhook=webhook(page.webhook),
            keys=[key(row) for row in page.keys],
            deliveries=[
                pb.ExportedDelivery(delivery=delivery(sent), body=sent.body) for sent in page.deliveries
            ],
            jobs=[_job(asked) for asked in page.jobs],
            attempts=[_attempt(written) for written in page.attempts],
            ledger=[line(entry) for entry in page.ledger],
            disputes=[convert.dispute(dispute) for dispute in page.disputes],
            batches=[batches.message(one) for one in page.batches],
            inputs=[pb.ExportedUpload(input=shown(one), purpose=one.purpose.value) for one in page.inputs],
            next_page=page.next_page,
        )

    async def DeleteOwnAccount(
        self, request: pb.DeleteOwnAccountRequest, context: Context
    ) -> pb.DeleteOwnAccountResponse:
        renter_id = caller().id
        forfeited = await self._deletion.delete(renter_id, request.email, request.forfeit_balance_halala)
        return pb.DeleteOwnAccountResponse(success=True, renter_id=renter_id, forfeited_halala=forfeited)


def _renter(page: ExportPage) -> pb.ExportedRenter:
    row = page.renter
    return pb.ExportedRenter(
        id=row.id,
        name=row.name,
        email=row.email,
        organization=row.organization,
        phone=row.phone,
        suspended=row.state is AccountState.SUSPENDED,
        created_at=convert.timestamp(row.created_ms),
        balance_halala=whole_halala(page.balance_micros),
        held_halala=whole_halala(page.held_micros),
        email_verified_at=convert.timestamp(row.email_verified_ms),
    )


def _job(asked: AskedJob) -> pb.ExportedJob:
    job = asked.job
    message = pb.ExportedJob(
        job=convert.job(job),
        container_spec=ParseDict(job.spec.get("container_spec", {}), jobs_pb2.ContainerSpec()),
        params=ParseDict(job.spec.get("params", {}), jobs_pb2.JobParams()),
        named_provider_id=job.named_provider_id,
        limit_seconds=job.limit_ms / 1000,
        start_within_seconds=job.start_within_ms // 1000,
        cancel_requested_at=convert.timestamp(job.cancel_requested_ms),
        idempotency_key=asked.idempotency_key,
        content_type=job.content_type,
        output_truncated=job.output_truncated,
    )
    for name in ("chat", "embeddings"):
        if name in job.spec:
            setattr(message, f"{name}_request", chats.dumped(job.spec[name]["request"]).decode())
    if asked.gpu_model is not None:
        message.gpu_requirements.gpu_model = asked.gpu_model
    if asked.min_vram_mib is not None:
        message.gpu_requirements.min_vram_gb = asked.min_vram_mib / 1024
    return message


def _attempt(written: WrittenAttempt) -> pb.ExportedAttempt:
    lease = written.lease
    message = pb.ExportedAttempt(
        job_id=lease.job_id,
        attempt=convert.attempt(Attempt(lease.attempt, lease)),
        artifacts=[artifact(file) for file in written.artifacts],
    )
    if lease.failure_reason is not None:
        message.failure_reason = convert.failure_reason_number(lease.failure_reason)
    for name, data in (("output", written.output), ("log", written.log)):
        if data:
            _set_written(message, name, data)
    return message


def _set_written(message: pb.ExportedAttempt, name: str, data: bytes) -> None:
    """Stores the data as text if it is UTF-8, so that people can read it; otherwise as bytes."""
    try:
        setattr(message, name, data.decode())
    except UnicodeDecodeError:
        setattr(message, f"{name}_data", data)
