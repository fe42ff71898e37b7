# Generated from dcp_client/aio by scripts/generate; edit that instead.
"""Owns batches: their upload, their wait and the reading of their answers through broken connections."""

from __future__ import annotations

import time
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
from dcp_client.generated.sync_transport import Transport
from dcp_client.batching import BUDGET, ENDED, BatchProgress, BatchResult, UploadForm, result_of
from dcp_client.calls import Call, path_of
from dcp_client.downloads import Progress
from dcp_client.errors import APIError, ConnectionFailedError, WaitTimeoutError
from dcp_client.generated.models import Batch, BatchFile, ListBatchesResponse

_MOST_FAILURES = 10
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 3.0
# After the last byte the market stores the whole file.
_UPLOAD_TIMEOUT_SECONDS = 300.0


class Batches:
    """Many requests in one file, answered within a day."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, source: Path, *, on_progress: Progress | None = None) -> BatchFile:
        """Uploads a file with a request in each line, as OpenAI has them; it is read while it is sent."""
        form = UploadForm(source)

        def content() -> Iterator[bytes]:
            for data, done in form.pieces():
                yield data
                if on_progress is not None:
                    on_progress(source.name, done, form.file_bytes)

        # A file that was sent twice is one too many, which is deleted when nobody uses it.
        call = Call("POST", "/v1/files", repeat="harmless", headers=form.headers, content=content)
        return self._transport.model(call, BatchFile, _UPLOAD_TIMEOUT_SECONDS)

    def create(
        self,
        file_id: str,
        endpoint: str = "/v1/chat/completions",
        *,
        max_cost_halala: int | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Creates a batch of an uploaded file. However often the connection breaks, it is one batch.

        ``idempotency_key``: your own, if it shall also be one when your program is started again.
        """
        noted = dict(metadata or {})
        if max_cost_halala is not None:
            noted[BUDGET] = str(max_cost_halala)
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": noted,
        }
        call = Call("POST", "/v1/batches", body=body, repeat="keyed", key=idempotency_key)
        return self._transport.model(call, Batch)

    def get(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        call = Call("GET", path_of("/v1/batches/{batch_id}", batch_id=batch_id))
        return self._transport.model(call, Batch)

    def list(self) -> Iterator[Batch]:
        """The account's batches, the newest first, all pages."""
        after: str | None = None
        while True:
            call = Call("GET", "/v1/batches", query={"after": after})
            page = self._transport.model(call, ListBatchesResponse)
            for batch in page.data:
                yield batch
            if not page.has_more or not page.last_id:
                return
            after = page.last_id

    def cancel(self, batch_id: str) -> Batch:
        """Cancels a batch. What is done is kept and charged."""
        path = path_of("/v1/batches/{batch_id}/cancel", batch_id=batch_id)
        return self._transport.model(Call("POST", path, body={}, repeat="harmless"), Batch)

    def wait(
        self,
        batch_id: str,
        *,
        timeout_seconds: float | None = None,
        on_progress: BatchProgress | None = None,
    ) -> Batch:
        """Waits until a batch has ended, whether it succeeded or not.

        ``on_progress`` is called with the batch as it is, again and again: `request_counts` says how far it
        is. Raises WaitTimeoutError, after which the batch goes on.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause, failures = _FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                batch = self.get(batch_id)
            except ConnectionFailedError:
                failures += 1
                if failures >= _MOST_FAILURES:
                    raise
            except APIError as error:
                failures += 1
                if (error.status < 500 and error.status != 429) or failures >= _MOST_FAILURES:
                    raise
            else:
                failures = 0
                if on_progress is not None:
                    on_progress(batch)
                if batch.status in ENDED:
                    return batch
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(f"{batch_id} has not ended in time; it goes on")
            time.sleep(min(left, pause))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 1.5)

    def output(self, batch_id: str) -> Iterator[BatchResult]:
        """The answers of a batch, of one that runs those so far."""
        batch = self.get(batch_id)
        if batch.output_file_id:
            for result in self._results(batch.output_file_id):
                yield result

    def errors(self, batch_id: str) -> Iterator[BatchResult]:
        """The lines of a batch that gave no answer, each with the reason."""
        batch = self.get(batch_id)
        if batch.error_file_id:
            for result in self._results(batch.error_file_id):
                yield result

    def _results(self, file_id: str) -> Iterator[BatchResult]:
        """The lines of a file, each once. A connection that breaks is opened again."""
        call = Call("GET", path_of("/v1/files/{file_id}/content", file_id=file_id), headers={"Accept": "*/*"})
        seen: set[str] = set()
        failures = 0
        while True:
            before = len(seen)
            try:
                with self._transport.stream(call) as answer:
                    rest = b""
                    for data in answer.iter_bytes():
                        # Not by `aiter_lines`, which ends lines at characters that texts have.
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            result = result_of(line.decode(errors="replace"))
                            if result.custom_id not in seen:
                                seen.add(result.custom_id)
                                yield result
                return
            except (httpx.HTTPError, ConnectionFailedError) as error:
                failures = 0 if len(seen) > before else failures + 1
                if failures >= _MOST_FAILURES:
                    raise ConnectionFailedError(f"the file {file_id} breaks off again and again") from error
            time.sleep(random.random() * 0.25 * 2 ** min(failures, 5))  # noqa: S311
