"""Owns requests in the form of other APIs that run as jobs: it submits one, and relays what it writes.

A request is a job like any other: held, placed, metered, billed. A job that begins anew before its first text
is not noticed; after it the answer breaks, since what was sent would be void. The server cancels the job of a
client that goes away. It does not know the forms of those APIs: `dialects` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import grpc
import orjson
from dcp.v1 import chats_pb2, jobs_pb2, models_pb2
from starlette.types import Receive, Scope, Send

from common.nearest import did_you_mean
from gateway import credentials, errors
from gateway.bodies import BodyLimit, BodyReader, Values
from gateway.calls import call_metadata, refused, rpc
from gateway.channel import Channel
from gateway.dialects import Answer, Form, Head, Request, Whole, anthropic_messages
from gateway.edge import respond
from gateway.errors import ApiError
from gateway.events import HEADERS, break_off, send_part
from gateway.exchanges import IS_STREAM, note_account, note_account_of
from gateway.files import until_gone
from gateway.lengths import Lengths
from gateway.limits import EVENT_COMMENT_SECONDS
from gateway.room import ROOM, sender_of
from gateway.works import WORKS, Work

RESUME_SECONDS = 30.0
"""How long the server may be away while an answer is relayed."""
REJOIN_SECONDS = 1.0
"""How long a repeat joins the job of a client that is gone; the server cancels it a little later."""
REPEATS = 10_000
"""Requests that are remembered, so that a repeat of one joins its job."""
REPEAT_SECONDS = 600.0
MAX_BODY_BYTES = 32 << 20
"""Pictures travel in requests."""
_RETRIES = b"x-stainless-retry-count"
_FAILURES: dict[int, tuple[str, int]] = {
    jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG: ("PROMPT_TOO_LONG", 400),
    jobs_pb2.FAILURE_REASON_BAD_PARAMS: ("BAD_PARAMS", 400),
    jobs_pb2.FAILURE_REASON_NO_ANSWER: ("NO_ANSWER", 400),
    jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE: ("OUTPUT_TOO_LARGE", 400),
    jobs_pb2.FAILURE_REASON_START_DEADLINE: ("START_DEADLINE", 503),
    jobs_pb2.FAILURE_REASON_ENGINE_BUSY: ("ENGINE_BUSY", 503),
    jobs_pb2.FAILURE_REASON_MODEL_NOT_SERVED: ("PROVIDER_UNAVAILABLE", 503),
    jobs_pb2.FAILURE_REASON_CANCELLED: ("JOB_CANCELLED", 410),
    jobs_pb2.FAILURE_REASON_DURATION_LIMIT: ("DURATION_LIMIT", 504),
}
BYTES_A_SECOND = 1 << 20
"""At which a request must at least get through to the server."""
SHOWN_NAMES = 5
"""Models that an error names."""
_load = BodyReader(BodyLimit(MAX_BODY_BYTES, MAX_BODY_BYTES // 32), refuses_repeats=False)


class Inference:
    """A path of `/v1` that takes requests in one dialect."""

    def __init__(self, dialect: Form, work: Work, jobs: Jobs, repeats: Repeats) -> None:
        self.name = type(dialect).__name__
        self._dialect = dialect
        self._work = work
        self._jobs = jobs
        self._repeats = repeats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError before the first byte."""
        async with request_of(scope, receive) as (credential, body):
            metadata = call_metadata(scope, credential)
            asked = self._dialect.read(body)
            digest = hashlib.sha256(orjson.dumps([self.name, credential, body])).digest()
            key = self._repeats.key(scope["headers"], digest)
            submitted, size_bytes = await self._jobs.submit(self._work, asked, key, metadata, scope)
        job_id = scope["request_id"] = submitted.job.job_id
        answer = asked.answer(Head(job_id, int(time.time())))
        gone = asyncio.create_task(until_gone(receive))
        watched = Watched(self._jobs, self._work, job_id, metadata)
        self._jobs.readers[job_id] += 1
        try:
            if asked.is_stream:
                await self._stream(scope, send, gone, watched, cast(Answer, answer))
            else:
                await self._whole(scope, send, gone, watched, answer)
        finally:
            gone.cancel()
            await watched.close()
            if watched.job is not None:
                self._jobs.lengths.note(asked.model, size_bytes, watched.job.usage.prompt_tokens)
            self._leave(job_id, watched, digest)

    async def _stream(
        self, scope: Scope, send: Send, gone: asyncio.Task[None], watched: Watched, answer: Answer
    ) -> None:
        """A failure before the first chunk is a response with its status, unless that takes too long."""
        chunks = await watched.chunks(gone, EVENT_COMMENT_SECONDS)
        if chunks is None and watched.job is None:
            return
        scope[IS_STREAM] = True
        # The name of it that Anthropic's clients read.
        headers = [*HEADERS, (b"request-id", scope["request_id"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        told = answer.begin()
        try:
            while chunks is not None:
                told += b"".join(map(answer.more, chunks)) if chunks else answer.ping()
                if told:
                    await send_part(send, told)
                told = b""
                chunks = await watched.chunks(gone, EVENT_COMMENT_SECONDS)
            if watched.job is not None:
                await send({"type": "http.response.body", "body": told + answer.end(watched.job)})
        except ApiError as error:
            last = answer.broken(error)
            if answer.says_broken:
                await send({"type": "http.response.body", "body": last})
            else:
                await break_off(scope, send, gone, last)

    async def _whole(
        self, scope: Scope, send: Send, gone: asyncio.Task[None], watched: Watched, answer: Whole
    ) -> None:
        found: list[Values] = []
        while (chunks := await watched.chunks(gone)) is not None:
            found += chunks
        if watched.job is not None:
            body = answer.whole(self._work.gather(found), watched.job)
            await respond(send, 200, body, [("request-id", scope["request_id"])])

    def _leave(self, job_id: str, watched: Watched, digest: bytes) -> None:
        """Lets no repeat join a job that gives no answer, nor for long one that nobody reads any more."""
        readers = self._jobs.readers
        readers[job_id] -= 1
        if not readers[job_id]:
            del readers[job_id]
        if watched.job is None and (watched.has_ended or watched.has_failed):
            self._repeats.forget(digest)
        elif not watched.has_ended and job_id not in readers:
            self._repeats.forget(digest, after_seconds=REJOIN_SECONDS)


class CountTokens:
    """`POST /v1/messages/count_tokens`: an estimate, since no model server is asked."""

    name = "CountTokens"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError."""
        async with request_of(scope, receive) as (_, body):
            asked = anthropic_messages.counted(body)
            tokens = self._jobs.lengths.estimate(asked.model, len(orjson.dumps(asked.chat)))
        await respond(send, 200, anthropic_messages.count_body(tokens))


@asynccontextmanager
async def request_of(scope: Scope, receive: Receive) -> AsyncIterator[tuple[str, Values]]:
    """The credential and the body of a request of `/v1`; its bytes count until the end. Raises ApiError."""
    credential = credentials.of_request(scope, {}, {})
    if credential is None:
        # Before its body, which may be long.
        raise ApiError("MISSING_CREDENTIAL", "Send a renter's key as `Authorization: Bearer KEY`.")
    with ROOM.of(sender_of(scope)) as held:
        yield credential, await _load(scope["headers"], partial(held.receive, receive))


class Watched:
    """What a job writes, once and in order, whatever is restarted meanwhile."""

    def __init__(self, jobs: Jobs, work: Work, job_id: str, metadata: Any) -> None:
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
        self._work = work
        self._reader = work.reader()
        self._line = ""
        """The beginning of a line whose end did not come yet."""
        self._has_begun = False
        self._away_since: float | None = None

    async def chunks(
        self, gone: asyncio.Task[None], most_seconds: float = math.inf
    ) -> Sequence[Values] | None:
        """The next chunks; none if none came for so long; None at the end, or when the client is gone.

        Raises ApiError if the job gives no answer.
        """
        until = time.monotonic() + most_seconds
        while not gone.done():
            left = until - time.monotonic()
            if left <= 0:
                return ()
            event = await self._next(gone, left)
            if event is None:
                continue
            self._last_id = event.id or self._last_id
            kind = event.WhichOneof("event")
            if kind == "output" and (found := self._read(event.output.text)):
                self._has_begun = True
                return found
            if kind == "attempt":
                if self._has_begun:
                    self.has_failed = True
                    raise ApiError(
                        "UNAVAILABLE", "The provider was lost in the middle of the answer; ask again."
                    )
                self._line, self._reader = "", self._work.reader()
            if kind == "end":
                self._end(event.end.job)
                return None
        return None

    def _read(self, text: str) -> Sequence[Values]:
        *lines, self._line = (self._line + text).split("\n")
        return [chunk for line in lines if (chunk := self._reader(line)) is not None]

    def _end(self, job: jobs_pb2.Job) -> None:
        self.has_ended = True
        if job.status == jobs_pb2.JOB_STATE_COMPLETED:
            self.job = job
            return
        raise failure_of(job)

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


def failure_of(job: jobs_pb2.Job) -> ApiError:
    """Why a job that has ended gave no answer."""
    code, status = _FAILURES.get(job.failure_reason, ("ENGINE_FAILED", 502))
    if job.status == jobs_pb2.JOB_STATE_CANCELLED:
        code, status = _FAILURES[jobs_pb2.FAILURE_REASON_CANCELLED]
    return ApiError(code, job.failure_message or "The job gave no answer.", http_status=status)


class Jobs:
    """The calls of the server that a request needs, and who reads their answers."""

    def __init__(self, channel: Channel, deadline_seconds: float) -> None:
        self.readers: Counter[str] = Counter()
        """How many requests wait for the answer of each job."""
        self.lengths = Lengths()
        self._deadline_seconds = deadline_seconds
        services = {
            name: service.methods_by_name
            for file in (chats_pb2, jobs_pb2, models_pb2)
            for name, service in file.DESCRIPTOR.services_by_name.items()
        }
        self._submits = {work.method: rpc(channel, services["ChatService"][work.method]) for work in WORKS}
        self._watch = rpc(channel, services["JobService"]["WatchJob"])
        self._list = rpc(channel, services["ModelService"]["ListModels"])

    async def submit(
        self, work: Work, asked: Request, key: str, metadata: Any, scope: Scope
    ) -> tuple[Any, int]:
        """Submits a request, which has so many bytes.

        Raises ApiError; of an unknown model it says which are like it, of another one what it does.
        """
        request = work.submission(asked, key)
        request.cancel_when_left = True
        size_bytes = len(request.request)
        try:
            # A long one is parsed, stored and offered; each takes its time.
            seconds = self._deadline_seconds + size_bytes / BYTES_A_SECOND
            call = self._submits[work.method](request, metadata=metadata, timeout=seconds)
            answer = await call
            await note_account(scope, call)
        except grpc.aio.AioRpcError as error:
            note_account_of(scope, error.trailing_metadata())
            refusal = refused(error, work.method, "", is_unsure=errors.may_be_done(error))
            if refusal.code != "MODEL_NOT_SERVED":
                raise refusal from None
            # The server's own text names routes and fields that clients of these APIs do not use.
            message = _not_served(work, asked.model, (await self.models(metadata)).data)
            raise ApiError(refusal.code, message, field="model") from None
        return answer, size_bytes

    async def models(self, metadata: Any) -> models_pb2.ListModelsResponse:
        """The models that are served now. Raises ApiError."""
        request = models_pb2.ListModelsRequest()
        try:
            listed = await self._list(request, metadata=metadata, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            raise refused(error, "ListModels", "") from None
        models: models_pb2.ListModelsResponse = listed
        return models

    def watch(self, job_id: str, last_id: str, metadata: Any) -> Any:
        """The events of a job after one of them. The server cancels a job whose readers are all gone."""
        request = jobs_pb2.WatchJobRequest(job_id=job_id, last_event_id=last_id, cancel_when_left=True)
        return self._watch(request, metadata=metadata)


def _not_served(work: Work, model: str, served: Sequence[models_pb2.ServedModelEntry]) -> str:
    """Why a model cannot be asked for this, and which can."""
    names = [each.id for each in served if work.output in each.output_modalities and each.id != model]
    outputs = {output for each in served if each.id == model for output in each.output_modalities}
    others = [other for other in WORKS if other.output in outputs and other is not work]
    if not others:
        remedy = did_you_mean(model, names, "/v1/models lists those that are served.")
        return f"No provider serves the model {model!r} now; {remedy}"
    does = " and ".join(f"{other.does}, at {other.at}" for other in others)
    able = f"{', '.join(names[:SHOWN_NAMES])} {work.do}" if names else f"no model {work.does} now"
    return f"The model {model!r} {work.does_not}: it {does}; {able}."


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
        known, until = self._recent.pop(digest, ("", now))
        is_repeat = given.get(_RETRIES, b"0").strip() not in (b"", b"0")
        key = known if is_repeat and now < until else f"v1:{secrets.token_hex(16)}"
        self._recent[digest] = (key, now + REPEAT_SECONDS)
        if len(self._recent) > REPEATS:
            self._recent.popitem(last=False)
        return key

    def forget(self, digest: bytes, after_seconds: float = 0) -> None:
        """The job of this request is no more after a time: a repeat is a new one."""
        if digest in self._recent:
            self._recent[digest] = (self._recent[digest][0], time.monotonic() + after_seconds)
