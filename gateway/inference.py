"""Owns requests in the form of other APIs that run as jobs: it submits one, and relays what it writes.

A request is a job like any other: held, placed, metered, billed. A job that begins anew before its first text
is not noticed; after it the answer breaks, since what was sent would be void. A client that goes away cancels
its job. It does not know the forms of those APIs: `dialects` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
import orjson
from dcp.v1 import jobs_pb2, models_pb2
from starlette.types import Receive, Scope, Send

from common.nearest import did_you_mean
from gateway import credentials, errors
from gateway.bodies import BodyLimit, BodyReader
from gateway.channel import Channel
from gateway.dialects import openai_chat as dialect
from gateway.edge import IS_STREAM, respond
from gateway.errors import ApiError
from gateway.events import COMMENT, HEADERS, break_off, send_part
from gateway.files import until_gone
from gateway.limits import DEADLINE_SECONDS, EVENT_COMMENT_SECONDS
from gateway.routes import call_metadata, refused, rpc

START_WITHIN_SECONDS = 60
"""Who waits at a connection does not want to wait for ten minutes."""
RESUME_SECONDS = 30.0
"""How long the server may be away while an answer is relayed."""
MODELS_SECONDS = 10.0
REJOIN_SECONDS = 1.5
"""How long a job whose client is gone waits for a repeat of the request before it is cancelled."""
REPEATS = 10_000
"""Requests that are remembered, so that a repeat of one joins its job."""
REPEAT_SECONDS = 600.0
DEFAULT_MAX_TOKENS = 4096
"""Where no context is known."""
_RETRIES = b"x-stainless-retry-count"
_FAILURES: dict[int, tuple[str, int]] = {
    jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG: ("PROMPT_TOO_LONG", 400),
    jobs_pb2.FAILURE_REASON_BAD_PARAMS: ("BAD_PARAMS", 400),
    jobs_pb2.FAILURE_REASON_NO_ANSWER: ("NO_ANSWER", 400),
    jobs_pb2.FAILURE_REASON_START_DEADLINE: ("START_DEADLINE", 503),
    jobs_pb2.FAILURE_REASON_ENGINE_BUSY: ("ENGINE_BUSY", 503),
    jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED: ("PROVIDER_UNAVAILABLE", 503),
    jobs_pb2.FAILURE_REASON_CANCELLED: ("JOB_CANCELLED", 410),
    jobs_pb2.FAILURE_REASON_DURATION_LIMIT: ("DURATION_LIMIT", 504),
}


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    name = "ChatCompletions"

    def __init__(self, channel: Channel, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._load = BodyReader(BodyLimit.of(jobs_pb2.SubmitJobRequest.DESCRIPTOR))
        self._jobs = Jobs(channel, deadline_seconds)
        self._repeats = Repeats()
        self._readers: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Errors before the first byte are responses in the form of the API."""
        try:
            await self._serve(scope, receive, send)
        except ApiError as error:
            body = dialect.error_body(error, scope["request_id"])
            await respond(send, dialect.status_of(error), body, dialect.error_headers(error))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._load(scope["headers"], receive)
        credential = credentials.take(scope["headers"], {}, {})
        metadata = call_metadata(scope, credential)
        asked = dialect.read(body)
        models = await self._jobs.models(metadata)
        context = models.get(asked.model.strip())
        most = asked.max_tokens or context or DEFAULT_MAX_TOKENS
        params = {**asked.params, "max_tokens": most, "up_to_context": asked.max_tokens is None}
        digest = hashlib.sha256((credential or "").encode() + b"\0" + orjson.dumps(body)).digest()
        key = self._repeats.key(scope["headers"], digest)
        try:
            job_id = await self._jobs.submit(params, key, metadata)
        except ApiError as error:
            if error.code == "MODEL_NOT_SERVED":
                meant = did_you_mean(asked.model, models, "see /v1/models.")
                raise ApiError(error.code, f"{error.text} {meant}", field="model") from None
            raise
        scope["request_id"] = job_id
        answer = dialect.Answer(
            job_id, asked.model, int(time.time()), asked.includes_usage, most, context or 0
        )
        gone = asyncio.create_task(until_gone(receive))
        watched = Watched(self._jobs, job_id, metadata)
        self._readers[job_id] += 1
        try:
            relay = _stream if asked.is_stream else _whole
            await relay(scope, send, gone, watched, answer)
        finally:
            gone.cancel()
            await watched.close()
            await self._leave(job_id, watched, digest, metadata)

    async def _leave(self, job_id: str, watched: Watched, digest: bytes, metadata: Any) -> None:
        """Cancels a job that has not ended when its last reader is gone, unless a repeat comes at once."""
        self._readers[job_id] -= 1
        try:
            if watched.has_ended and watched.job is None:
                self._repeats.forget(digest)  # a repeat is a new attempt
            if watched.has_ended or self._readers[job_id]:
                return
            if not watched.has_failed:
                await asyncio.sleep(REJOIN_SECONDS)
            if not self._readers[job_id]:
                self._repeats.forget(digest)
                await self._jobs.cancel(job_id, metadata)
        finally:
            if not self._readers[job_id]:
                del self._readers[job_id]


async def _whole(
    _scope: Scope, send: Send, gone: asyncio.Task[None], watched: Watched, answer: dialect.Answer
) -> None:
    texts: list[str] = []
    while (text := await watched.text(gone)) is not None:
        texts.append(text)
    if watched.job is not None:
        await respond(send, 200, answer.whole("".join(texts), watched.job))


async def _stream(
    scope: Scope, send: Send, gone: asyncio.Task[None], watched: Watched, answer: dialect.Answer
) -> None:
    """A failure before the first text is a response with its status, unless that takes too long."""
    text = await watched.text(gone, EVENT_COMMENT_SECONDS)
    if text is None and watched.job is None:
        return
    scope[IS_STREAM] = True
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send_part(send, answer.begin())
    try:
        while text is not None:
            await send_part(send, answer.more(text) if text else COMMENT)
            text = await watched.text(gone, EVENT_COMMENT_SECONDS)
        if watched.job is not None:
            await send({"type": "http.response.body", "body": answer.end(watched.job)})
    except ApiError as error:
        # Clients take a stream that merely stops for a whole one.
        await break_off(scope, send, gone, dialect.error_event(error, scope["request_id"]))


class Watched:
    """What a job writes, once and in order, whatever is restarted meanwhile."""

    def __init__(self, jobs: Jobs, job_id: str, metadata: Any) -> None:
        self.job: jobs_pb2.Job | None = None
        """The job with its bill, once it has completed."""
        self.has_ended = False
        self.has_failed = False
        """Its answer broke, so that nobody can go on with it."""
        self._jobs = jobs
        self._job_id = job_id
        self._metadata = metadata
        self._call: Any = None
        self._reading: asyncio.Task[Any] | None = None
        self._last_id = ""
        self._has_text = False
        self._away_since: float | None = None

    async def text(self, gone: asyncio.Task[None], most_seconds: float = math.inf) -> str | None:
        """The next text; empty if none came for so long; None at the end, or when the client is gone.

        Raises ApiError if the job gives no answer.
        """
        until = time.monotonic() + most_seconds
        while not gone.done():
            left = until - time.monotonic()
            if left <= 0:
                return ""
            event = await self._next(gone, left)
            if event is None:
                continue
            self._last_id = event.id or self._last_id
            kind = event.WhichOneof("event")
            if kind == "output" and event.output.text:
                self._has_text = True
                return str(event.output.text)
            if kind == "attempt" and self._has_text:
                self.has_failed = True
                raise ApiError("UNAVAILABLE", "The provider was lost in the middle of the answer; ask again.")
            if kind == "end":
                self._end(event.end.job)
                return None
        return None

    def _end(self, job: jobs_pb2.Job) -> None:
        self.has_ended = True
        if job.status == jobs_pb2.JOB_STATE_COMPLETED:
            self.job = job
            return
        code, status = _FAILURES.get(job.failure_reason, ("ENGINE_FAILED", 502))
        if job.status == jobs_pb2.JOB_STATE_CANCELLED:
            code, status = _FAILURES[jobs_pb2.FAILURE_REASON_CANCELLED]
        raise ApiError(code, job.failure_message or "The job gave no answer.", http_status=status)

    async def _next(self, gone: asyncio.Task[None], most_seconds: float) -> Any:
        """The next event, or None if none came in time. Opens the stream again if it broke."""
        if self._reading is None:
            self._call = self._call or self._jobs.watch(self._job_id, self._last_id, self._metadata)
            self._reading = asyncio.create_task(self._call.read())
        timeout = None if most_seconds == math.inf else most_seconds
        await asyncio.wait((self._reading, gone), timeout=timeout, return_when="FIRST_COMPLETED")
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        try:
            message = reading.result()
        except grpc.aio.AioRpcError as error:
            await self._broke(error)
            return None
        if message is grpc.aio.EOF:
            self._call = None
            await asyncio.sleep(0.05)
            return None
        self._away_since = None
        return message

    async def _broke(self, error: grpc.aio.AioRpcError) -> None:
        """Waits a little before the next attempt. Raises ApiError when it has no sense."""
        self._call = None
        refusal = errors.from_rpc(error)
        now = time.monotonic()
        self._away_since = self._away_since or now
        if refusal.status != 503 or now - self._away_since > RESUME_SECONDS:
            raise refused(error, "WatchJob", self._job_id) from None
        await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Ends the stream: its read ends with its call."""
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)


class Jobs:
    """The calls of the server that a request needs."""

    def __init__(self, channel: Channel, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        jobs = jobs_pb2.DESCRIPTOR.services_by_name["JobService"].methods_by_name
        models = models_pb2.DESCRIPTOR.services_by_name["ModelService"].methods_by_name
        self._submit = rpc(channel, jobs["SubmitJob"])
        self._cancel = rpc(channel, jobs["CancelJob"])
        self._watch = rpc(channel, jobs["WatchJob"])
        self._list = rpc(channel, models["ListModels"])
        self._models: dict[str, int | None] = {}
        self._read_at = -math.inf
        self._listing = asyncio.Lock()

    async def models(self, metadata: Any) -> dict[str, int | None]:
        """The models that are served now, each with its greatest answer in tokens."""
        async with self._listing:
            if time.monotonic() - self._read_at >= MODELS_SECONDS:
                try:
                    listed = await self._list(
                        models_pb2.ListModelsRequest(), metadata=metadata, timeout=self._deadline_seconds
                    )
                except grpc.aio.AioRpcError as error:
                    raise refused(error, "ListModels", "") from None
                self._models = {model.id: model.max_output_length or None for model in listed.data}
                self._read_at = time.monotonic()
        return self._models

    async def submit(self, params: dict[str, Any], key: str, metadata: Any) -> str:
        """Submits the job; returns its id. Raises ApiError."""
        request = jobs_pb2.SubmitJobRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE,
            params=jobs_pb2.JobParams(**params),
            start_within_seconds=START_WITHIN_SECONDS,
            idempotency_key=key,
        )
        try:
            answer = await self._submit(request, metadata=metadata, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            raise refused(error, "SubmitJob", "") from None
        return str(answer.job.job_id)

    def watch(self, job_id: str, last_id: str, metadata: Any) -> Any:
        """The events of a job after one of them."""
        request = jobs_pb2.WatchJobRequest(job_id=job_id, last_event_id=last_id)
        return self._watch(request, metadata=metadata)

    async def cancel(self, job_id: str, metadata: Any) -> None:
        """Cancels a job whose client is gone. A server that cannot be reached ends it by its limits."""
        with suppress(grpc.aio.AioRpcError):
            await self._cancel(
                jobs_pb2.CancelJobRequest(job_id=job_id), metadata=metadata, timeout=self._deadline_seconds
            )


class Repeats:
    """The requests of late, whose repeats join their jobs."""

    def __init__(self) -> None:
        self._recent: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def key(self, headers: Iterable[tuple[bytes, bytes]], digest: bytes) -> str:
        """The idempotency key of a request with this digest: that of the first attempt if it is a repeat.

        OpenAI's clients repeat by themselves, and say how often they did, but send no key.
        """
        given = dict(headers)
        if own := given.get(b"idempotency-key", b"").decode("latin-1").strip():
            return f"v1:{hashlib.sha256(own.encode()).hexdigest()}"
        now = time.monotonic()
        known = self._recent.pop(digest, None)
        is_repeat = given.get(_RETRIES, b"0").strip() not in (b"", b"0")
        is_known = known is not None and now - known[1] < REPEAT_SECONDS
        key = known[0] if is_repeat and known is not None and is_known else f"v1:{secrets.token_hex(16)}"
        self._recent[digest] = (key, now)
        if len(self._recent) > REPEATS:
            self._recent.popitem(last=False)
        return key

    def forget(self, digest: bytes) -> None:
        """The job of this request is no more: a repeat is a new one."""
        self._recent.pop(digest, None)
