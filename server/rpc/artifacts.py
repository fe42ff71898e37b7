"""ArtifactService at the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from dcp.v1 import artifacts_pb2 as pb
from dcp.v1 import artifacts_pb2_grpc

from server.domain.artifacts import Artifact
from server.domain.errors import DomainError, Reason
from server.domain.leases import LeaseRef
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller
from server.rpc.validate import validate
from server.services.artifacts import Announced, Artifacts, Download


class ArtifactServicer(artifacts_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def UploadArtifact(  # type: ignore[override]
        self, requests: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> None:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("kind") != "header":
            raise _violation("the first message of an upload must be its header; send it first")
        validate(first)
        is_new = await self._artifacts.upload(caller().id, _announced(first.header), _data(requests, context))
        disposition = pb.UPLOAD_DISPOSITION_STORED if is_new else pb.UPLOAD_DISPOSITION_ALREADY
        await context.write(pb.UploadArtifactResponse(disposition=disposition))

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        listing = await self._artifacts.list(caller(), request.job_id)
        return pb.ListArtifactsResponse(
            job_id=listing.job.job_id,
            status=convert.state_number(listing.job.state),
            artifacts=[artifact(file) for file in listing.artifacts],
            expires_at=convert.timestamp(listing.expires_ms),
        )

    async def DownloadArtifact(  # type: ignore[override]
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> None:
        download = await self._artifacts.open(
            caller(), request.job_id, request.name, request.range, request.if_range
        )
        async with aclosing(download.pieces) as pieces:
            # Read the first bytes before sending the head: a file that cannot be read gives an error instead.
            first = await anext(pieces, b"")
            await context.write(pb.DownloadArtifactResponse(head=_head(download)))
            if first:
                await context.write(pb.DownloadArtifactResponse(data=first))
            async for piece in pieces:
                await context.write(pb.DownloadArtifactResponse(data=piece))


async def _data(requests: AsyncIterator[pb.UploadArtifactRequest], context: Context) -> AsyncIterator[bytes]:
    """The pieces after the header. Asks the daemon for them on the first read. Raises PROTOCOL_VIOLATION."""
    await context.write(pb.UploadArtifactResponse(disposition=pb.UPLOAD_DISPOSITION_SEND))
    async for request in requests:
        if not request.data:
            raise _violation("each message after the header must have at least one byte of data")
        validate(request)
        yield request.data


def _announced(header: pb.ArtifactHeader) -> Announced:
    lease = header.lease
    ref = LeaseRef(lease.job_id, lease.lease_epoch, lease.lease_secret)
    return Announced(ref, header.name, header.size_bytes, header.sha256)


def artifact(file: Artifact) -> pb.Artifact:
    """A file as callers see it, without its bytes."""
    return pb.Artifact(
        name=file.name,
        size_bytes=file.size_bytes,
        sha256=file.sha256.hex(),
        content_type=file.content_type,
        created_at=convert.timestamp(file.created_ms),
    )


def _head(download: Download) -> pb.FileHead:
    file = download.artifact
    return pb.FileHead(
        name=file.name,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        etag=file.etag,
        first_byte=download.part.first,
        byte_count=download.part.count,
        partial=download.is_partial,
        created_at=convert.timestamp(file.created_ms),
    )


def _violation(text: str) -> DomainError:
    return DomainError(Reason.PROTOCOL_VIOLATION, text)
