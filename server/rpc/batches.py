"""BatchService at the wire."""

from __future__ import annotations

from contextlib import aclosing

from dcp.v1 import batches_pb2 as pb
from dcp.v1 import batches_pb2_grpc

from server.domain.batches import (
    WINDOW,
    Announced,
    Batch,
    BatchState,
    Fault,
    Kind,
    Line,
    Part,
    file_id_of_input,
    file_id_of_part,
)
from server.domain.inputs import Purpose
from server.domain.money import whole_halala
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import caller
from server.rpc.repeats import once
from server.services import inputs
from server.services.batches import Batches, File, Written
from server.services.inputs import Inputs
from server.services.keys import GATEWAY

_STATES = enum_map(BatchState, pb.BatchStatus)
_TIMED = (
    BatchState.IN_PROGRESS,
    BatchState.FINALIZING,
    BatchState.COMPLETED,
    BatchState.FAILED,
    BatchState.EXPIRED,
    BatchState.CANCELLING,
    BatchState.CANCELLED,
)
READ_BYTES = 1 << 20


class BatchServicer(batches_pb2_grpc.BatchServiceServicer):
    def __init__(self, batches: Batches, stored: Inputs) -> None:
        self._batches = batches
        self._stored = stored

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        found, has_more = await self._batches.page(caller().id, request.after, request.limit)
        return pb.ListBatchesResponse(
            object="list",
            data=[message(each) for each in found],
            first_id=found[0].batch_id if found else None,
            last_id=found[-1].batch_id if found else None,
            has_more=has_more,
        )

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.Batch:
        return message(await self._batches.get(caller().id, request.batch_id))

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> pb.Batch:
        return message(await self._batches.cancel(caller().id, request.batch_id))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        if request.purpose not in ("", Purpose.BATCH.value):
            return pb.ListFilesResponse(object="list")
        found, has_more = await self._batches.files(caller().id, request.after, request.limit)
        return pb.ListFilesResponse(
            object="list",
            data=[_file(each) for each in found],
            first_id=found[0].file_id if found else None,
            last_id=found[-1].file_id if found else None,
            has_more=has_more,
        )

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.BatchFile:
        return _file(await self._batches.file(caller().id, request.file_id))

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> pb.DeleteFileResponse:
        await self._batches.delete_file(caller().id, request.file_id)
        return pb.DeleteFileResponse(id=request.file_id, object="file", deleted=True)

    async def CreateFile(self, request: pb.CreateFileRequest, context: Context) -> pb.BatchFile:
        announced = inputs.Announced(request.filename, request.size_bytes, purpose=Purpose.BATCH)
        found = await self._stored.begin(caller().id, announced)
        return _file(await self._batches.file(caller().id, file_id_of_input(found.input_id)))

    async def AppendFile(self, request: pb.AppendFileRequest, context: Context) -> pb.BatchFile:
        upload = await self._batches.upload(caller().id, request.file_id)
        await self._stored.append(caller().id, upload.input_id, request.first_byte, request.data)
        return _file(await self._batches.file(caller().id, request.file_id))

    async def FinishFile(self, request: pb.FinishFileRequest, context: Context) -> pb.BatchFile:
        upload = await self._batches.upload(caller().id, request.file_id)
        await self._stored.finish(caller().id, upload.input_id)
        return _file(await self._batches.file(caller().id, request.file_id))

    async def ReadFile(self, request: pb.ReadFileRequest, context: Context) -> None:  # type: ignore[override]
        if caller().role == GATEWAY:
            upload = await self._batches.file_of_check(request.batch_id, request.file_id)
        else:
            upload = await self._batches.upload(caller().id, request.file_id)
        size = upload.size_bytes if upload.is_ready else upload.received_bytes
        async with aclosing(self._stored.pieces_of(upload, 0, size)) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece), READ_BYTES):
                    await context.write(pb.ReadFileResponse(data=piece[start : start + READ_BYTES]))

    async def CreateBatch(self, request: pb.CreateBatchRequest, context: Context) -> pb.Batch:
        asked = Announced(request.endpoint, request.input_file_id, dict(request.metadata))
        done = self._batches.create(caller().id, caller().key_id or None, asked)
        return await once(request, done, pb.Batch, message)

    async def AddBatchLines(
        self, request: pb.AddBatchLinesRequest, context: Context
    ) -> pb.AddBatchLinesResponse:
        renter_id = await self._renter_id(request.batch_id)
        await self._batches.add_lines(renter_id, request.batch_id, [_line(each) for each in request.lines])
        return pb.AddBatchLinesResponse()

    async def ResumeBatchCheck(
        self, request: pb.ResumeBatchCheckRequest, context: Context
    ) -> pb.ResumeBatchCheckResponse:
        return pb.ResumeBatchCheckResponse(
            is_callers=await self._batches.take_check(caller().id, request.batch_id)
        )

    async def TakeBatchCheck(
        self, request: pb.TakeBatchCheckRequest, context: Context
    ) -> pb.TakeBatchCheckResponse:
        batch = await self._batches.take_any_check()
        return pb.TakeBatchCheckResponse(batch=message(batch) if batch is not None else None)

    async def EndBatchCheck(self, request: pb.EndBatchCheckRequest, context: Context) -> pb.Batch:
        renter_id = await self._renter_id(request.batch_id)
        if not request.errors:
            batch = await self._batches.start(renter_id, request.batch_id, request.line_count)
            return message(batch)
        faults = tuple(
            Fault(each.code, each.message, each.line if each.HasField("line") else None, each.param)
            for each in request.errors
        )
        return message(await self._batches.fail(renter_id, request.batch_id, faults))

    async def ListBatchResults(
        self, request: pb.ListBatchResultsRequest, context: Context
    ) -> pb.ListBatchResultsResponse:
        found = await self._batches.results(
            caller().id, request.file_id, request.after_number, request.line_count
        )
        return pb.ListBatchResultsResponse(results=[_result(each) for each in found])

    async def _renter_id(self, batch_id: str) -> int:
        """Whose batch is checked: the caller's, or that of any renter for a gateway."""
        return await self._batches.renter_of(batch_id) if caller().role == GATEWAY else caller().id


def message(batch: Batch) -> pb.Batch:
    """A batch in the form of OpenAI's API."""
    times = {
        f"{state.value}_at": batch.times[state.value] // 1000
        for state in _TIMED
        if state.value in batch.times
    }
    return pb.Batch(
        id=batch.batch_id,
        object="batch",
        endpoint=batch.endpoint,
        errors=_errors(batch),
        input_file_id=file_id_of_input(batch.input_id),
        completion_window=WINDOW,
        status=_STATES[batch.state],
        output_file_id=file_id_of_part(batch.batch_id, Part.OUTPUT) if batch.completed else None,
        error_file_id=file_id_of_part(batch.batch_id, Part.ERRORS) if batch.failed else None,
        created_at=batch.created_ms // 1000,
        expires_at=batch.expires_ms // 1000,
        request_counts=pb.BatchCounts(total=batch.lines, completed=batch.completed, failed=batch.failed),
        metadata=batch.metadata,
        charged_halala=whole_halala(batch.charged_micros),
        charged_micro_halala=batch.charged_micros,
        stop_reason=batch.stop.value if batch.stop is not None else None,
        **times,
    )


def _errors(batch: Batch) -> pb.BatchErrors | None:
    if not batch.faults:
        return None
    data = [
        pb.BatchError(code=each.code, message=each.message, line=each.line, param=each.param or None)
        for each in batch.faults
    ]
    return pb.BatchErrors(object="list", data=data)


def _file(file: File) -> pb.BatchFile:
    return pb.BatchFile(
        id=file.file_id,
        object="file",
        bytes=file.size_bytes,
        created_at=file.created_ms // 1000,
        expires_at=file.expires_ms // 1000 if file.expires_ms is not None else None,
        filename=file.name,
        purpose=file.purpose,
        status="processed" if file.is_ready else "uploaded",
    )


def _line(line: pb.BatchLine) -> Line:
    return Line(
        line.number,
        line.custom_id,
        Kind.EMBEDDINGS if line.is_embeddings else Kind.CHAT,
        line.model.strip(),
        line.request,
        line.max_tokens if line.HasField("max_tokens") else None,
        line.cache_key,
        line.form,
    )


def _result(written: Written) -> pb.BatchResult:
    result = written.result
    return pb.BatchResult(
        number=result.number,
        custom_id=result.custom_id,
        is_embeddings=result.kind is Kind.EMBEDDINGS,
        form=result.form,
        job=convert.job(written.job) if written.job is not None else None,
        output=written.data,
        error_code=result.error_code,
        error_message=result.error_message,
    )
