"""Calls over the wire and without it: the same handlers, callers and tests, so the same answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, Protocol

import grpc
import pytest
from dcp.v1 import artifacts_pb2, jobs_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.channel import CHANNEL_OPTIONS, Channel
from market.channel import EmbeddedChannel
from server.domain.errors import DomainError, Reason
from server.rpc.addresses import Addresses
from server.rpc.errors import to_status

GET = "/dcp.v1.JobService/GetJob"
DOWNLOAD = "/dcp.v1.ArtifactService/DownloadArtifact"
HANG_SECONDS = 20
MIB = 1 << 20

Handler = Callable[[Any, Any], Any]


class Connect(Protocol):
    """Serves one handler, and opens a channel to it."""

    def __call__(self, handler: Handler) -> contextlib.AbstractAsyncContextManager[Channel]: ...


class Handlers(grpc.GenericRpcHandler):
    """Serves a handler as a method with one response, and as one with a stream."""

    def __init__(self, handler: Handler) -> None:
        self._methods = {
            GET: grpc.unary_unary_rpc_method_handler(
                handler,
                request_deserializer=jobs_pb2.GetJobRequest.FromString,
                response_serializer=jobs_pb2.GetJobResponse.SerializeToString,
            ),
            DOWNLOAD: grpc.unary_stream_rpc_method_handler(
                handler,
                request_deserializer=artifacts_pb2.DownloadArtifactRequest.FromString,
                response_serializer=artifacts_pb2.DownloadArtifactResponse.SerializeToString,
            ),
        }

    def service(self, details: Any) -> Any:
        return self._methods.get(details.method)

    async def find(self, method: str) -> Any:
        return self._methods.get(method)


@contextlib.asynccontextmanager
async def by_wire(handler: Handler) -> AsyncIterator[Channel]:
    server = grpc.aio.server(handlers=[Handlers(handler)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            yield channel
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def embedded(handler: Handler) -> AsyncIterator[Channel]:
    async with EmbeddedChannel(Handlers(handler).find) as channel:
        yield channel


@pytest.fixture(params=[by_wire, embedded])
def connect(request: pytest.FixtureRequest) -> Connect:
    form: Connect = request.param
    return form


def get(channel: Channel, job_id: str = "job-1", **options: Any) -> Any:
    """Begins a call with one response."""
    method = channel.unary_unary(
        GET,
        request_serializer=jobs_pb2.GetJobRequest.SerializeToString,
        response_deserializer=jobs_pb2.GetJobResponse.FromString,
    )
    return method(jobs_pb2.GetJobRequest(job_id=job_id), **options)


def download(channel: Channel, **options: Any) -> Any:
    """Begins a call with a stream as its response."""
    method = channel.unary_stream(
        DOWNLOAD,
        request_serializer=artifacts_pb2.DownloadArtifactRequest.SerializeToString,
        response_deserializer=artifacts_pb2.DownloadArtifactResponse.FromString,
    )
    return method(artifacts_pb2.DownloadArtifactRequest(job_id="job-1"), **options)


def piece(data: bytes) -> artifacts_pb2.DownloadArtifactResponse:
    return artifacts_pb2.DownloadArtifactResponse(data=data)


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of an awaited call. Fails if it succeeds or hangs."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(HANG_SECONDS):
            await call
    return caught.value


class Watched:
    """A handler that waits until it is cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def serve(self, request: Any, context: Any) -> Any:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def is_cancelled(self) -> bool:
        async with asyncio.timeout(HANG_SECONDS):
            return await self.cancelled.wait()


async def test_request_metadata_and_response_arrive(connect: Connect) -> None:
    async def handler(request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:
        named = dict(context.invocation_metadata())
        assert 0 < context.time_remaining() < 20  # of 10 s, and clocks differ
        context.set_trailing_metadata((("after", "it"),))
        return jobs_pb2.GetJobResponse(job=jobs_pb2.Job(job_id=f"{request.job_id} {named['x-request-id']}"))

    async with connect(handler) as channel:
        call = get(channel, metadata=[("x-request-id", "r7")], timeout=10)
        assert (await call).job.job_id == "job-1 r7"
        assert dict(await call.trailing_metadata())["after"] == "it"


async def test_neither_side_sees_what_the_other_changes(connect: Connect) -> None:
    kept: list[Any] = []
    go = asyncio.Event()

    async def handler(request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:
        await go.wait()
        kept.extend((request.job_id, request, jobs_pb2.GetJobResponse(job=jobs_pb2.Job(job_id="job-1"))))
        return kept[2]  # type: ignore[no-any-return]

    async with connect(handler) as channel:
        method = channel.unary_unary(
            GET,
            request_serializer=jobs_pb2.GetJobRequest.SerializeToString,
            response_deserializer=jobs_pb2.GetJobResponse.FromString,
        )
        request = jobs_pb2.GetJobRequest(job_id="job-1")
        running = asyncio.ensure_future(method(request))
        await asyncio.sleep(0)
        request.job_id = "changed by the caller"
        go.set()
        answer = await running
        assert kept[0] == "job-1"
        kept[1].job_id = kept[2].job.job_id = "changed by the handler"
        assert (request.job_id, answer.job.job_id) == ("changed by the caller", "job-1")
        answer.job.job_id = "changed by the caller"
        assert kept[2].job.job_id == "changed by the handler"


async def test_a_stream_can_reuse_its_message(connect: Connect) -> None:
    async def handler(request: Any, context: Any) -> None:
        message = piece(b"")
        for data in (b"first", b"second"):
            message.data = data
            await context.write(message)
        message.data = b"never sent"

    async with connect(handler) as channel:
        call = download(channel)
        assert [(await call.read()).data, (await call.read()).data] == [b"first", b"second"]
        assert await call.read() is grpc.aio.EOF


async def test_handler_has_a_context_of_its_own(connect: Connect) -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    seen: list[str] = []

    async def handler(request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:
        seen.append(caller.get())
        caller.set(request.job_id)
        return jobs_pb2.GetJobResponse()

    async with connect(handler) as channel:
        await get(channel, "first")
        await get(channel, "second")
    assert [*seen, caller.get()] == ["nobody"] * 3


async def test_error_has_its_code_its_text_and_its_details(connect: Connect) -> None:
    async def handler(request: Any, context: Any) -> Any:
        error = DomainError(Reason.RATE_LIMITED, "too many نعم", retry_after_seconds=7)
        await context.abort_with_status(to_status(error))

    async with connect(handler) as channel:
        for call in (get(channel), download(channel).read()):
            error = await error_of(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many نعم")
            status = rpc_status.from_call(error)
            assert status is not None
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert (info.reason, info.metadata["retry_after_seconds"]) == ("RATE_LIMITED", "7")


async def test_error_without_details_and_a_code_that_is_only_set(connect: Connect) -> None:
    async def handler(request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:
        if request.job_id == "aborts":
            await context.abort(grpc.StatusCode.ABORTED, "again", (("why", "test"),))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such job")
        return jobs_pb2.GetJobResponse()

    async with connect(handler) as channel:
        aborted, missing = await error_of(get(channel, "aborts")), await error_of(get(channel))
    assert (aborted.code(), aborted.details()) == (grpc.StatusCode.ABORTED, "again")
    assert dict(aborted.trailing_metadata() or ())["why"] == "test"
    assert (missing.code(), missing.details()) == (grpc.StatusCode.NOT_FOUND, "no such job")


async def test_fault_of_a_handler_is_unknown(connect: Connect) -> None:
    async def handler(request: Any, context: Any) -> Any:
        raise ValueError("secret of the handler")

    async with connect(handler) as channel:
        for call in (get(channel), download(channel).read()):
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.UNKNOWN
            # gRPC's own text, which the gateway never passes on.
            assert error.details() == "Unexpected <class 'ValueError'>: secret of the handler"


async def test_unknown_method_is_unimplemented(connect: Connect) -> None:
    async with connect(Watched().serve) as channel:
        method = channel.unary_unary("/dcp.v1.JobService/Nothing", lambda _: b"", lambda data: data)
        assert (await error_of(method(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_deadline_ends_the_call_and_cancels_the_handler(connect: Connect) -> None:
    for begin in (get, lambda channel, **options: download(channel, **options).read()):
        handler = Watched()
        async with connect(handler.serve) as channel:
            error = await error_of(begin(channel, timeout=0.1))
            assert (error.code(), error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            assert await handler.is_cancelled()


async def test_handler_that_clears_up_does_not_hold_its_caller(connect: Connect) -> None:
    go, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go.wait()
            ended.set()
            raise

    async with connect(handler) as channel:
        assert (await error_of(get(channel, timeout=0.1))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not ended.is_set()
        go.set()
        async with asyncio.timeout(HANG_SECONDS):
            await ended.wait()


async def test_caller_that_leaves_cancels_the_handler(connect: Connect) -> None:
    for begin in (get, lambda channel: download(channel).read()):
        handler = Watched()
        async with connect(handler.serve) as channel:
            caller = asyncio.ensure_future(begin(channel))
            async with asyncio.timeout(HANG_SECONDS):
                await handler.begun.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert await handler.is_cancelled()


async def test_cancelled_stream_is_over_on_both_sides(connect: Connect) -> None:
    handler = Watched()
    async with connect(handler.serve) as channel:
        call = download(channel)
        async with asyncio.timeout(HANG_SECONDS):
            await handler.begun.wait()
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert await handler.is_cancelled()


@pytest.mark.parametrize("kind", ["writes", "yields"])
async def test_writer_of_a_stream_waits_for_its_reader(connect: Connect, kind: str) -> None:
    """Messages of 1 MiB: a slow reader must not cost as much memory as the whole file has."""
    sent = 0

    async def yields(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        for _ in range(30):
            yield piece(b"x" * MIB)
            sent += 1

    async def writes(request: Any, context: Any) -> None:
        async for message in yields(request, context):
            await context.write(message)

    async with connect({"writes": writes, "yields": yields}[kind]) as channel:
        call = download(channel)
        assert len((await call.read()).data) == MIB
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent < 10
        for _ in range(29):
            assert len((await call.read()).data) == MIB
        assert await call.read() is grpc.aio.EOF
    assert sent == 30


async def test_error_after_messages_follows_them(connect: Connect) -> None:
    async def handler(request: Any, context: Any) -> None:
        await context.write(piece(b"a"))
        await context.write(piece(b"b"))
        await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")

    async with connect(handler) as channel:
        call = download(channel)
        assert [(await call.read()).data, (await call.read()).data] == [b"a", b"b"]
        assert (await error_of(call.read())).code() is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        ([], "127.0.0.1"),
        ([("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
        ([("x-forwarded-for", "2001:db8::7")], "2001:db8::/64"),
        ([("x-forwarded-for", "nonsense")], "127.0.0.1"),
    ],
)
async def test_limits_count_the_address_that_the_gateway_reports(
    connect: Connect, forwarded: list[tuple[str, str]], counted: str
) -> None:
    addresses = Addresses()

    async def handler(request: Any, context: Any) -> jobs_pb2.GetJobResponse:
        address = addresses.of(context.peer(), context.invocation_metadata())
        return jobs_pb2.GetJobResponse(job=jobs_pb2.Job(job_id=address))

    async with connect(handler) as channel:
        assert (await get(channel, metadata=forwarded)).job.job_id == counted


async def test_end_of_a_call_is_reported_to_the_handlers_callbacks(connect: Connect) -> None:
    ended = asyncio.Event()

    async def handler(request: Any, context: Any) -> jobs_pb2.GetJobResponse:
        context.add_done_callback(lambda _: ended.set())
        return jobs_pb2.GetJobResponse()

    async with connect(handler) as channel:
        await get(channel)
        async with asyncio.timeout(HANG_SECONDS):
            await ended.wait()


async def test_callback_that_fails_keeps_no_caller_waiting(connect: Connect) -> None:
    async def handler(request: Any, context: Any) -> jobs_pb2.GetJobResponse:
        context.add_done_callback(lambda _: 1 // 0)
        return jobs_pb2.GetJobResponse(job=jobs_pb2.Job(job_id="j"))

    async with connect(handler) as channel, asyncio.timeout(HANG_SECONDS):
        assert (await get(channel)).job.job_id == "j"


async def test_embedded_channel_that_closes_waits_for_its_handlers() -> None:
    handler, ended = Watched(), asyncio.Event()

    async def slowly(request: Any, context: Any) -> Any:
        try:
            return await handler.serve(request, context)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    async with embedded(slowly) as channel:
        caller = asyncio.ensure_future(get(channel))
        await handler.begun.wait()
    assert ended.is_set()
    assert (await error_of(caller)).code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.aio.UsageError):
        get(channel)
