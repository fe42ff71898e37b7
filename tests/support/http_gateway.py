"""The real gateway application behind real sockets in this process, with a clock that a test advances."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from common.addresses import Network
from gateway import limits
from gateway.app import build_app
from gateway.connections import Door, http_settings
from tests.support.gateway_server import FakeServer
from tests.support.manual_clock import ManualClock

HANG_SECONDS = 20.0


@dataclass
class Gateway:
    """A gateway that serves, and what a test needs of it."""

    door: Door
    clock: ManualClock
    port: int
    server: FakeServer

    async def later(self, seconds: float) -> None:
        """Advances the clock and ends what is overdue."""
        self.clock.advance(seconds)
        self.door.sweep()
        await asyncio.sleep(0.01)

    async def connect(self, *, buffer_bytes: int | None = None) -> Client:
        """Opens a connection; ``buffer_bytes`` is the size of its buffer for answers."""
        plain = socket.socket()
        if buffer_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        return Client(plain)

    async def exchanged(self, sent: bytes) -> bytes:
        """All that the gateway sends to a client that sends these bytes and waits for the end."""
        client = await self.connect()
        await client.send(sent)
        try:
            return await client.rest()
        finally:
            client.close()


class Client:
    """A connection of a test: bytes in and out, nothing else."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Sends all bytes."""
        async with asyncio.timeout(HANG_SECONDS):
            await self._loop.sock_sendall(self._plain, data)

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the connection."""
        async with asyncio.timeout(HANG_SECONDS):
            return await self._loop.sock_recv(self._plain, 1 << 16)

    async def rest(self) -> bytes:
        """All bytes until the gateway ends the connection."""
        received = b""
        try:
            while data := await self.receive():
                received += data
        except ConnectionResetError:
            pass
        return received

    async def answer(self) -> bytes:
        """One answer with a Content-Length."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += await self._more()
        return head + b"\r\n\r\n" + body

    async def _more(self) -> bytes:
        data = await self.receive()
        assert data, "the connection ended before the answer"
        return data

    def close(self) -> None:
        """Closes the connection."""
        self._plain.close()


@asynccontextmanager
async def serving(
    server: FakeServer,
    *,
    most: int = limits.MAX_CONNECTIONS,
    most_per_address: int = limits.MAX_ADDRESS_CONNECTIONS,
    trusted: Sequence[Network] = (),
) -> AsyncIterator[Gateway]:
    """Serves on a free port until the block ends."""
    clock = ManualClock()
    door = Door(most, most_per_address, trusted, clock.monotonic)
    listener = socket.create_server(("127.0.0.1", 0))
    async with server.open_channel() as channel:
        program = uvicorn.Server(http_settings(build_app(channel, deadline_seconds=5), door))
        running = asyncio.create_task(program.serve(sockets=[listener]))
        try:
            while not program.started:
                await asyncio.sleep(0.01)
            yield Gateway(door, clock, listener.getsockname()[1], server)
        finally:
            program.should_exit = program.force_exit = True
            await running
