"""OpenAI's files of batches: a request in each line, checked one by one, and a line for each answer. Pure.

A file may be 200 MB long and its lines of any length, so nothing here holds more than one line and a digest
of each `custom_id`. The requests are read by the dialects of their paths, as if they came alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from dcp.v1 import batches_pb2, chats_pb2

from gateway.dialects import Head
from gateway.dialects.openai_errors import invalid, told
from gateway.dialects.table import DIALECTS
from gateway.errors import ApiError

Values = dict[str, Any]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_LINES = 50_000
MAX_FILE_BYTES = 200_000_000
MAX_LINE_BYTES = 8 << 20
MAX_ERRORS = 100
MAX_CUSTOM_ID = 512
_BOM = b"\xef\xbb\xbf"
# What the answer is written with, besides the model; the rest of a request stays with its job.
_FORM = ("model", "logprobs", "encoding_format")


class LineError(Exception):
    """A line of a batch's file is wrong: the code and the field, and a sentence with the remedy."""

    def __init__(self, code: str, text: str, param: str = "") -> None:
        super().__init__(code, text)
        self.code, self.text, self.param = code, text, param

    def at(self, line: int | None) -> batches_pb2.BatchError:
        """The fault with the number of its line."""
        return batches_pb2.BatchError(
            code=self.code, message=self.text[:2000], line=line, param=self.param[:300] or None
        )


class Raw(NamedTuple):
    """A line of a file; None instead of its bytes if it is too long."""

    number: int
    data: bytes | None


class Lines:
    """Splits a file into lines as its bytes arrive. It keeps at most one line."""

    def __init__(self, most_bytes: int = MAX_LINE_BYTES) -> None:
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._number = 1

    def feed(self, data: bytes) -> Iterator[Raw]:
        """The lines that end in these bytes."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._keep(data[start:end])
            yield self._take()
            start = end + 1
        self._keep(data[start:])

    def end(self) -> Iterator[Raw]:
        """The last line, if the file does not end with a line end."""
        if self._size:
            yield self._take()

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            self._parts.clear()  # however long it becomes
        elif data:
            self._parts.append(data)

    def _take(self) -> Raw:
        data = b"".join(self._parts) if self._size <= self._most else None
        number = self._number
        self._parts.clear()
        self._size, self._number = 0, number + 1
        if data is not None and number == 1:
            data = data.removeprefix(_BOM)
        return Raw(number, data if data is None else data.removesuffix(b"\r"))


class LineReader:
    """Reads the lines of one file as requests of the server."""

    def __init__(self, endpoint: str, served: Mapping[str, Collection[str]]) -> None:
        """``served``: what each model that is served now writes."""
        self._endpoint = endpoint
        self._door = DIALECTS[endpoint]
        self._served = served
        self._seen: dict[bytes, int] = {}

    def read(self, raw: Raw) -> batches_pb2.BatchLine:
        """The request of a line. Raises LineError."""
        if raw.number > MAX_LINES:
            raise LineError("too_many_lines", f"A batch has at most {MAX_LINES} lines: split the file.")
        values = _object(raw.data)
        custom_id = self._custom_id(values, raw.number)
        method, url, body = (values.get(name) for name in ("method", "url", "body"))
        if method != "POST":
            raise LineError("invalid_method", "method must be POST.", "method")
        if url != self._endpoint:
            raise LineError(
                "mismatched_url", f"url must be {self._endpoint}, the endpoint of the batch.", "url"
            )
        if not isinstance(body, dict):
            raise LineError("invalid_body", f"body must be an object: a request of {url}.", "body")
        try:
            return self._line(raw.number, custom_id, body)
        except ApiError as error:
            text, name = told(error, "")
            raise LineError("invalid_request", text, f"body.{name}" if name else "body") from None

    def _custom_id(self, values: Values, number: int) -> str:
        custom_id = values.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id.strip() or len(custom_id) > MAX_CUSTOM_ID:
            raise LineError(
                "invalid_custom_id",
                f"custom_id must be a text of 1 to {MAX_CUSTOM_ID} characters, another one in each line.",
                "custom_id",
            )
        digest = hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
        first = self._seen.setdefault(digest, number)
        if first != number:
            raise LineError(
                "duplicate_custom_id", f"custom_id is that of line {first}; give each its own.", "custom_id"
            )
        return custom_id

    def _line(self, number: int, custom_id: str, body: Values) -> batches_pb2.BatchLine:
        if body.get("stream"):
            raise invalid("stream", "must be left out: the answers of a batch come in a file")
        asked = self._door.dialect.read(body)
        self._check_model(asked.model)
        submission = self._door.work.submission(asked, "")
        form = {"at": self._endpoint, "body": {name: body[name] for name in _FORM if name in body}}
        line = batches_pb2.BatchLine(
            number=number,
            custom_id=custom_id,
            model=submission.model,
            request=submission.request,
            form=orjson.dumps(form),
        )
        if isinstance(submission, chats_pb2.SubmitEmbeddingsRequest):
            line.is_embeddings = True
            return line
        line.cache_key = submission.cache_key
        if submission.HasField("max_tokens"):
            line.max_tokens = submission.max_tokens
        return line

    def _check_model(self, model: str) -> None:
        work, writes = self._door.work, self._served.get(model.strip())
        if writes is None:
            raise LineError(
                "model_not_found",
                f"No provider serves the model {model[:100]!r} now; /v1/models lists those that are served.",
                "body.model",
            )
        if work.output not in writes:
            raise LineError(
                "model_not_found", f"The model {model[:100]!r} {work.does_not}; name another.", "body.model"
            )


def _object(data: bytes | None) -> Values:
    if data is None:
        raise LineError(
            "line_too_long", f"This line has more than {MAX_LINE_BYTES >> 20} MiB; is it several requests?"
        )
    if not data.strip():
        raise LineError("empty_line", "This line is empty; remove it.")
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json_line", f"This line is not JSON: {error.msg}.") from None
    if not isinstance(values, dict):
        raise LineError("invalid_json_line", "This line is not a JSON object.")
    return values


def answered(result: batches_pb2.BatchResult) -> bytes:
    """The line of a completed job, with the answer in the form of its path."""
    form = orjson.loads(result.form)
    door = DIALECTS[form["at"]]
    # The request itself is not needed again: only what its answer is written with.
    asked = door.dialect.read({"prompt": "", **form["body"]})
    read = door.work.reader()
    found = [
        chunk
        for line in result.output.decode(errors="replace").split("\n")
        if line and (chunk := read(line)) is not None
    ]
    job = result.job
    created = job.ended_at.seconds
    body = asked.answer(Head(job.job_id, created)).whole(door.work.gather(found), job)
    response = {"status_code": 200, "request_id": job.job_id, "body": orjson.Fragment(body)}
    return _line(result, response, None)


def unanswered(result: batches_pb2.BatchResult, code: str, text: str) -> bytes:
    """The line of a request that has no answer."""
    return _line(result, None, {"code": code, "message": text})


def _line(result: batches_pb2.BatchResult, response: Values | None, error: Values | None) -> bytes:
    values = {
        "id": f"batch_req_{result.job.job_id or result.number}",
        "custom_id": result.custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(values) + b"\n"
