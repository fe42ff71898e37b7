"""Runs server, gateway and daemon in one process on a shared clock that only a test advances.

They are the programs' own code with real gRPC between them; only the clock, the engine and the HTTP socket
are replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from fastapi import FastAPI

from daemon.app import Daemon, Options
from daemon.journal.journal import Journal
from daemon.link import ServerAddress
from daemon.machine.machine import Machine
from daemon.runners import Runner
from gateway.app import build_app
from gateway.channel import CHANNEL_OPTIONS
from market.channel import EmbeddedChannel
from server.app import Server
from server.config import Config
from tests.support import databases
from tests.support.counter import Counter
from tests.support.manual_clock import ManualClock
from tests.support.memory_disk import MemoryDisk

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
ADMIN = {"x-admin-token": ADMIN_TOKEN}


@dataclass
class Stack:
    """A running market; ``http`` is a client of the gateway, ``channel`` its channel to the server."""

    clock: ManualClock
    server: Server
    http: httpx.AsyncClient
    channel: Any
    app: FastAPI

    async def register(self, kind: str, email: str) -> tuple[int, str]:
        """Registers a provider or renter; returns its id and key."""
        answer = await self.post(f"/api/{kind}s/register", {"name": kind, "email": email})
        return answer[f"{kind}_id"], answer["api_key"]

    async def post(self, path: str, body: object, **headers: str) -> dict[str, Any]:
        """The JSON response to a POST, which must succeed."""
        response = await self.http.post(path, json=body, headers=headers)
        assert response.is_success, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def get(self, path: str, headers: dict[str, str]) -> dict[str, Any]:
        """The JSON response to a GET, which must succeed."""
        response = await self.http.get(path, headers=headers)
        assert response.is_success, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def until_job(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Waits until the job has one of the statuses; returns the job. Fails after 10 s of real time."""
        async with asyncio.timeout(10):
            while True:
                job = (await self.get(f"/api/jobs/{job_id}", ADMIN))["job"]
                if job["status"] in statuses:
                    return dict(job)
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running_stack(
    folder: Path,
    counter: Counter | None = None,
    embedded: bool = False,
    /,
    *,
    prove: bool = True,
    **settings: str,
) -> AsyncIterator[Stack]:
    """Runs server and gateway on a SQLite file in ``folder``, with additional settings of the server.

    The ledger is checked at the end, unless the test itself writes rows without the services.
    ``counter``: counts the work of the server and the gateway. ``embedded``: no gRPC between the two.
    """
    counted, counter = counter is not None, counter or Counter()
    clock = ManualClock()
    config = Config.from_env(
        {
            "DCP_DATABASE_URL": databases.empty_sqlite(folder),
            "DCP_BLOB_STORE": f"file:{folder / 'artifacts'}",
            "DCP_GRPC_LISTEN": "127.0.0.1:0",
            "DCP_ADMIN_TOKEN": ADMIN_TOKEN,
            "DCP_CANARY_PERCENT": "0",
            **settings,
        }
    )
    server = Server(config, clock)
    if counted:
        counter.watch_database(server._database.peewee)
    await server.start()
    try:
        async with _open_channel(server, counter, embedded) as channel:
            app = build_app(channel)
            transport = httpx.ASGITransport(counter.requests(app))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
                yield Stack(clock, server, http, channel, app)
                if prove:
                    assert (await server.services.proofs.prove()).discrepancies == ()
    finally:
        await server.stop()


def _open_channel(server: Server, counter: Counter, embedded: bool) -> Any:
    if embedded:
        return EmbeddedChannel(server.methods.handler)
    return grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS, interceptors=[counter.calls])


@contextlib.asynccontextmanager
async def running_daemon(
    stack: Stack,
    key: str,
    engine: Runner,
    *,
    server: str = "",
    journal: Journal | None = None,
    machine: Machine | None = None,
    sample_seconds: float = 5.0,
) -> AsyncIterator[Daemon]:
    """A daemon with the engine, once it has its session; `server`: its address, if not the stack's."""
    ready = asyncio.Event()
    daemon = Daemon(
        ServerAddress(server or stack.server.address),
        key,
        [engine],
        journal or Journal(MemoryDisk()),
        machine or Machine(clock=stack.clock),
        options=Options(
            on_ready=lambda provider_id: ready.set(), tick_seconds=0.01, sample_seconds=sample_seconds
        ),
    )
    running = asyncio.create_task(daemon.run())
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield daemon
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
