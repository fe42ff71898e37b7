"""A server for the daemon's tests: real gRPC on 127.0.0.1:0, scripted by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from dcp.v1 import jobs_pb2, providers_pb2, sessions_pb2
from dcp.v1.providers_pb2_grpc import ProviderServiceServicer, add_ProviderServiceServicer_to_server
from dcp.v1.sessions_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

GOOD_KEY = "dcp-provider-good"


class Connection:
    """One stream as the server sees it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._inbox: asyncio.Queue[sessions_pb2.DaemonMessage | None] = asyncio.Queue()
        self.cut = asyncio.Event()
        self.reason = ""
        """With which the cut stream ends; empty: none."""

    async def send(self, **kind: Any) -> None:
        """Sends a message to the daemon."""
        await self._context.write(sessions_pb2.ServerMessage(**kind))

    async def expect(self, kind: str) -> Any:
        """The next message of this kind; skips heartbeats and capacity updates."""
        async with asyncio.timeout(10):
            while True:
                message = await self._inbox.get()
                assert message is not None, f"the stream ended before {kind}"
                got = message.WhichOneof("kind")
                if got == kind:
                    return getattr(message, kind)
                assert got in ("heartbeat", "capacity_update"), f"expected {kind}, got {message}"

    async def next(self) -> sessions_pb2.DaemonMessage:
        """The next message of any kind."""
        async with asyncio.timeout(20):
            message = await self._inbox.get()
        assert message is not None, "the stream ended"
        return message

    async def expect_anyway(self, kind: str) -> Any:
        """The next message of this kind, whatever comes before it."""
        while (message := await self.next()).WhichOneof("kind") != kind:
            pass
        return getattr(message, kind)

    async def transcript(self) -> tuple[list[tuple[int, bytes]], sessions_pb2.JobFinished]:
        """The numbered chunks of output up to a result, and the result."""
        chunks = []
        while (message := await self.next()).WhichOneof("kind") != "job_finished":
            if message.WhichOneof("kind") == "output_chunk":
                chunks.append((message.output_chunk.seq, message.output_chunk.data))
        return chunks, message.job_finished

    async def welcome(
        self, *, heartbeat_seconds: float = 10.0, credit: int = 16, newest_daemon: str = ""
    ) -> sessions_pb2.Hello:
        """Receives Hello and answers it; `newest_daemon` tells the daemon that it is outdated."""
        hello: sessions_pb2.Hello = await self.expect("hello")
        await self.send(
            welcome=sessions_pb2.Welcome(
                session_epoch=1,
                provider_id=42,
                heartbeat_interval=seconds(heartbeat_seconds),
                lost_after=seconds(300),
                chunk_credit=credit,
                newest_daemon=newest_daemon,
                update_available=bool(newest_daemon),
            )
        )
        return hello

    async def read_all(self, requests: AsyncIterator[sessions_pb2.DaemonMessage]) -> None:
        """Fills the inbox until the daemon closes."""
        async for message in requests:
            self._inbox.put_nowait(message)
        self._inbox.put_nowait(None)


class FakeServer(SessionServiceServicer, ProviderServiceServicer):
    """Accepts daemons with the good key; passes each stream to the test."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.registrations: list[providers_pb2.RegisterProviderRequest] = []
        self.address = ""
        self.knows_key = True
        self.provider_name = "Node"

    async def Connect(self, requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Keeps the stream open until the daemon or the test ends it."""
        if not self.knows_key or (
            ("authorization", f"Bearer {GOOD_KEY}") not in context.invocation_metadata()
        ):
            await refuse(context, code_pb2.UNAUTHENTICATED, "no such key", "INVALID_CREDENTIAL")
        connection = Connection(context)
        self.connections.put_nowait(connection)
        reader = asyncio.create_task(connection.read_all(requests))
        cut = asyncio.create_task(connection.cut.wait())
        await asyncio.wait((reader, cut), return_when=asyncio.FIRST_COMPLETED)
        for task in (reader, cut):
            task.cancel()
        await asyncio.gather(reader, cut, return_exceptions=True)
        if connection.cut.is_set() and connection.reason:
            await refuse(context, code_pb2.INVALID_ARGUMENT, "the test says why", connection.reason)
        if connection.cut.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the test cut the stream")

    async def RegisterProvider(  # noqa: N802
        self, request: providers_pb2.RegisterProviderRequest, context: Any
    ) -> providers_pb2.RegisterProviderResponse:
        """Registers everybody except taken@example.com."""
        if request.email == "taken@example.com":
            await refuse(context, code_pb2.ALREADY_EXISTS, "this e-mail address is taken", "EMAIL_TAKEN")
        self.registrations.append(request)
        return providers_pb2.RegisterProviderResponse(success=True, provider_id=42, api_key=GOOD_KEY)

    async def GetOwnProvider(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The provider with the good key."""
        if ("authorization", f"Bearer {GOOD_KEY}") not in context.invocation_metadata():
            await refuse(context, code_pb2.UNAUTHENTICATED, "no such key", "INVALID_CREDENTIAL")
        return providers_pb2.GetOwnProviderResponse(
            provider=providers_pb2.Provider(
                id=42,
                name=self.provider_name,
                status=providers_pb2.PROVIDER_STATUS_ONLINE,
                total_jobs=19,
                earnings=providers_pb2.Earnings(total_halala=15041, claimable_halala=141),
            )
        )

    async def PauseOwnProvider(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not used by daemons."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    async def ResumeOwnProvider(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not used by daemons."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    async def ListProviderHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not used by daemons."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    async def GetOwnMissedJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not used by daemons."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    async def Heartbeat(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not used by daemons that have a stream."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    async def connection(self) -> Connection:
        """The next stream that a daemon opens."""
        async with asyncio.timeout(20):
            return await self.connections.get()


async def refuse(context: Any, code: int, message: str, reason: str) -> None:
    """Ends a call as the real server does: with a google.rpc.Status and one ErrorInfo."""
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="dcp.v1"))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    codes = {member.value[0]: member for member in grpc.StatusCode}
    await context.abort(codes[code], message)


@asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    """A running fake server."""
    servicer = FakeServer()
    server = aio.server()
    add_SessionServiceServicer_to_server(servicer, server)
    add_ProviderServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)


def seconds(value: float) -> Duration:
    """A duration in seconds."""
    duration = Duration()
    duration.FromMilliseconds(round(value * 1000))
    return duration


def lease(job_id: str = "job-1", epoch: int = 1) -> sessions_pb2.Lease:
    """A lease as a server creates it."""
    return sessions_pb2.Lease(job_id=job_id, lease_epoch=epoch, lease_secret=b"s" * 16)


def offer(job_id: str = "job-1", epoch: int = 1, **fields: Any) -> sessions_pb2.JobOffer:
    """An offer of an inference job for the scripted engine's model; `limit` and `lost_after` in seconds."""
    limit = fields.pop("limit", 180.0)
    params = fields.pop("params", None) or jobs_pb2.JobParams(model="test/model", prompt="Say hello.")
    return sessions_pb2.JobOffer(
        lease=lease(job_id, epoch),
        attempt=1,
        job_type=fields.pop("job_type", jobs_pb2.JOB_TYPE_LLM_INFERENCE),
        run_limit=seconds(limit),
        offer_timeout=seconds(10),
        lost_after=seconds(fields.pop("lost_after", 0.0)),
        params=params,
        **fields,
    )


async def eventually(holds: Callable[[], bool | Awaitable[bool]], timeout_seconds: float = 10.0) -> None:
    """Waits until the condition holds; fails if it does not in time."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)
