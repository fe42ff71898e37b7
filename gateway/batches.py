"""Owns what of batches is no plain RPC: uploads by a form, the creation, the files that a batch writes.

It does not know the forms of lines: `dialects.openai_batches` does. `batch_checks` reads them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import orjson
from dcp.v1 import batches_pb2 as pb
from starlette.types import Receive, Scope, Send

from common.json_form import message_writer
from gateway import credentials
from gateway.batch_calls import BatchCalls
from gateway.batch_checks import Checks
from gateway.bodies import BodyLimit, BodyReader
from gateway.calls import call_metadata
from gateway.dialects.openai_batches import MAX_FILE_BYTES, answered, unanswered
from gateway.dialects.openai_errors import invalid
from gateway.edge import body_too_large, respond
from gateway.errors import ApiError
from gateway.files import attachment, until_gone
from gateway.inference import Repeats, failure_of
from gateway.limits import LEAST_BODY_LIMIT
from gateway.multipart import Data, Multipart, Part, boundary_of
from gateway.room import sender_of
from gateway.transcode import body_reader
from gateway.uploads import pieces, refuse_packed

FORM_BYTES = 64 << 10
"""What a form has besides its file."""
MAX_VALUE_BYTES = 1 << 10
RESULTS = 100
_PURPOSE = "batch"
_write_file = message_writer(pb.BatchFile.DESCRIPTOR)
_write_batch = message_writer(pb.Batch.DESCRIPTOR)
_KEY = b"idempotency-key"


class UploadFile:
    """`POST /v1/files`: a form with the fields `purpose` and `file`."""

    name = "UploadFile"

    def __init__(self, calls: BatchCalls) -> None:
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError."""
        metadata = _metadata(scope)
        headers = dict(scope["headers"])
        refuse_packed(scope["headers"])
        form = Multipart(boundary_of(headers.get(b"content-type", b"")))
        length = headers.get(b"content-length", b"")
        most_bytes = int(length[:18]) if length.isdigit() else MAX_FILE_BYTES
        if most_bytes > MAX_FILE_BYTES + FORM_BYTES:
            raise body_too_large(MAX_FILE_BYTES)
        upload = _Upload(self._calls, metadata, min(most_bytes, MAX_FILE_BYTES))
        try:
            async with aclosing(pieces(receive, sender_of(scope))) as found:
                async for piece in found:
                    for event in form.feed(piece):
                        await upload.take(event)
            form.finish()
            file = await upload.end()
        except BaseException:
            await asyncio.shield(upload.drop())
            raise
        await respond(send, 200, orjson.dumps(_write_file(file)))


class _Upload:
    """One form: its small values, and its file, which goes on to the server as it arrives."""

    def __init__(self, calls: BatchCalls, metadata: Any, most_bytes: int) -> None:
        self._calls = calls
        self._metadata = metadata
        self._most_bytes = most_bytes
        self._part = Part("", None)
        self._values: dict[str, bytes] = {}
        self._file_id = ""
        self._size = 0

    async def take(self, event: Part | Data) -> None:
        """Takes what the form holds next. Raises ApiError."""
        if isinstance(event, Part):
            await self._begin(event)
        elif self._part.name == "file":
            await self._append(event.data)
        else:
            value = self._values.get(self._part.name, b"") + event.data
            if len(value) > MAX_VALUE_BYTES:
                raise invalid(self._part.name[:100], f"must have at most {MAX_VALUE_BYTES} bytes")
            self._values[self._part.name] = value

    async def _begin(self, part: Part) -> None:
        self._part = part
        if part.name != "file":
            return
        if self._file_id:
            raise invalid("file", "must be there once")
        self._check_purpose(self._values.get("purpose"))
        name = (part.filename or "batch.jsonl").rpartition("/")[2][:255]
        asked = pb.CreateFileRequest(filename=name, size_bytes=self._most_bytes)
        self._file_id = (await self._calls.call("CreateFile", asked, self._metadata)).id

    async def _append(self, data: bytes) -> None:
        if self._size + len(data) > self._most_bytes:
            raise body_too_large(MAX_FILE_BYTES)
        asked = pb.AppendFileRequest(file_id=self._file_id, first_byte=self._size, data=data)
        await self._calls.call("AppendFile", asked, self._metadata)
        self._size += len(data)

    async def end(self) -> pb.BatchFile:
        """Completes the file. Raises ApiError."""
        if not self._file_id:
            raise invalid("file", "is required: a file with a request in each line")
        if not self._size:
            raise invalid("file", "is empty: write a request into each line")
        if "purpose" not in self._values:
            raise invalid("purpose", f"is required: {_PURPOSE}")
        self._check_purpose(self._values["purpose"])
        asked = pb.FinishFileRequest(file_id=self._file_id)
        file: pb.BatchFile = await self._calls.call("FinishFile", asked, self._metadata)
        return file

    async def drop(self) -> None:
        """Deletes what has arrived: nobody knows its id."""
        if self._file_id:
            with suppress(ApiError):
                asked = pb.DeleteFileRequest(file_id=self._file_id)
                await self._calls.call("DeleteFile", asked, self._metadata)

    def _check_purpose(self, given: bytes | None) -> None:
        if given is not None and given.strip() != _PURPOSE.encode():
            raise invalid("purpose", f"must be {_PURPOSE}: files are for batches here")


class CreateBatch:
    """`POST /v1/batches`: creates a batch, and checks its lines after the answer."""

    name = "CreateBatch"

    def __init__(self, calls: BatchCalls, checks: Checks, repeats: Repeats) -> None:
        self._calls = calls
        self._checks = checks
        self._repeats = repeats
        self._load = BodyReader(BodyLimit(LEAST_BODY_LIMIT, LEAST_BODY_LIMIT), refuses_repeats=False)
        self._read = body_reader(pb.CreateBatchRequest.DESCRIPTOR, {"idempotency_key"})
        self._known = frozenset(pb.CreateBatchRequest.DESCRIPTOR.fields_by_name) - {"idempotency_key"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError."""
        credential = _credential(scope)
        metadata = call_metadata(scope, credential)
        body = await self._load(scope["headers"], receive)
        # Clients of other APIs send fields that only those know.
        values = self._read({name: body[name] for name in self._known if body.get(name) is not None})
        key = dict(scope["headers"]).get(_KEY, b"").decode("latin-1").strip()
        # The call is repeated after a lost answer, here or by the client, which must not make a second batch.
        digest = hashlib.sha256(orjson.dumps([self.name, credential, body])).digest()
        key = key or self._repeats.key(scope["headers"], digest)
        asked = pb.CreateBatchRequest(**values, idempotency_key=key)
        batch = await self._calls.call("CreateBatch", asked, metadata)
        if batch.status == pb.BATCH_STATUS_VALIDATING:
            self._checks.begin(batch, metadata)
        await respond(send, 200, orjson.dumps(_write_batch(batch)))


class FileContent:
    """`GET /v1/files/{file_id}/content`: the bytes of an upload, or what a batch has written so far."""

    name = "FileContent"

    def __init__(self, calls: BatchCalls) -> None:
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError; an error after the first bytes breaks the connection."""
        metadata, file_id = _metadata(scope), scope["path_params"]["file_id"]
        file = await self._calls.call("GetFile", pb.GetFileRequest(file_id=file_id), metadata)
        is_upload = file.purpose == _PURPOSE
        parts = self._calls.pieces(file_id, metadata) if is_upload else self._written(file_id, metadata)
        headers = [(b"content-type", b"application/octet-stream")]
        headers.append((b"content-disposition", attachment(file.filename).encode("latin-1")))
        if is_upload:
            headers.append((b"content-length", str(file.bytes).encode()))
        gone = asyncio.create_task(until_gone(receive))
        try:
            async with aclosing(parts):
                first = await anext(parts, b"")
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for part in parts:
                    if gone.done():
                        return
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _written(self, file_id: str, metadata: Any) -> AsyncGenerator[bytes, None]:
        after = 0
        while True:
            asked = pb.ListBatchResultsRequest(file_id=file_id, after_number=after, line_count=RESULTS)
            found = (await self._calls.call("ListBatchResults", asked, metadata)).results
            if not found:
                return
            for result in found:
                yield _line_of(result)
            after = found[-1].number


def _line_of(result: pb.BatchResult) -> bytes:
    if result.error_code:
        return unanswered(result, result.error_code, result.error_message)
    if result.job.HasField("texts_removed_at"):
        return unanswered(result, "output_erased", "The answer is not kept any more.")
    if result.output:
        return answered(result)
    failure = failure_of(result.job)
    return unanswered(result, failure.code.lower(), failure.text)


def _metadata(scope: Scope) -> Any:
    return call_metadata(scope, _credential(scope))


def _credential(scope: Scope) -> str:
    credential = credentials.of_request(scope, {}, {})
    if credential is None:
        raise ApiError("MISSING_CREDENTIAL", "Send a renter's key as `Authorization: Bearer KEY`.")
    return credential
