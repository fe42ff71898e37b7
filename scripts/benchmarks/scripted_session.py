"""A daemon's session whose messages the bench itself writes and reads, to time what the server sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import grpc
from dcp.v1 import jobs_pb2, sessions_pb2
from dcp.v1.sessions_pb2_grpc import SessionServiceStub

from scripts.benchmarks.fleet_load import OPTIONS, Call
from scripts.benchmarks.processes import BenchError

MESSAGE_SECONDS = 15.0
DONE = sessions_pb2.RUN_OUTCOME_CANCELLED


class Session:
    """An open stream with its Welcome."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def next(self, kind: str) -> tuple[sessions_pb2.ServerMessage, float]:
        """The next message of a kind, and when it came. Raises BenchError if none comes."""
        try:
            async with asyncio.timeout(MESSAGE_SECONDS):
                while isinstance(message := await self._call.read(), sessions_pb2.ServerMessage):
                    if message.WhichOneof("kind") == kind:
                        return message, time.monotonic()
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise BenchError(f"no {kind} came to a daemon: {error!r}") from None
        raise BenchError(f"no {kind} came to a daemon before its stream ended")

    async def begin(self, lease: sessions_pb2.Lease) -> None:
        """Accepts an offer, and starts its run."""
        reply = sessions_pb2.OfferReply(lease=lease, accepted=True, started=True)
        await self._call.write(sessions_pb2.DaemonMessage(offer_reply=reply))

    async def end_cancelled(self, lease: sessions_pb2.Lease) -> None:
        """Reports the end of a run that was cancelled, and waits for the answer."""
        finished = sessions_pb2.JobFinished(lease=lease, outcome=DONE)
        finished.run_time.FromMilliseconds(1)
        await self._call.write(sessions_pb2.DaemonMessage(job_finished=finished))
        await self.next("result_ack")


@contextlib.asynccontextmanager
async def session(address: str, key: str, model: str) -> AsyncIterator[Session]:
    """A session at a server, of a daemon that serves one model. Raises BenchError."""
    hello = sessions_pb2.Hello(
        boot_id=os.urandom(8).hex(),
        daemon_version="bench",
        protocol_version=1,
        models=[sessions_pb2.ServedModel(name=model, context_tokens=2048, warm=True)],
        job_types=[jobs_pb2.JOB_TYPE_LLM_INFERENCE],
        slots=1,
    )
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call: Call = SessionServiceStub(channel).Connect(metadata=(("authorization", f"Bearer {key}"),))
        try:
            await call.write(sessions_pb2.DaemonMessage(hello=hello))
            opened = Session(call)
            await opened.next("welcome")
            yield opened
        finally:
            call.cancel()
