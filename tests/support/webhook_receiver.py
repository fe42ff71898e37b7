"""A real HTTP server for tests of webhooks: it records requests and answers as a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    """A request with its body byte for byte; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server on 127.0.0.1. Each request gets the next of ``answers``; the last one is repeated."""

    answers: list[int | None] = field(default_factory=lambda: [200])
    """HTTP statuses; None gives no answer."""
    by_event: dict[str, int] = field(default_factory=dict)
    """Statuses for kinds of events, which get none of ``answers``."""
    location: str = ""
    retry_after: str = ""
    hangs_up: bool = False
    """Where there is no answer, the connection ends at once."""
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    hung: set[asyncio.StreamWriter] = field(default_factory=set)
    """The connections that get no answer."""

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}/events"

    def hang_up(self) -> None:
        """Closes the connections that get no answer, so that their clients need not wait for a timeout."""
        for writer in self.hung:
            writer.close()

    async def until_received(self, count: int) -> list[Received]:
        """Waits until this many requests have arrived; returns all. The test fails after 20 s."""
        async with asyncio.timeout(20):
            while len(self.received) < count:
                self.news.clear()
                await self.news.wait()
        return self.received

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection."""
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(first.split()[1], headers, body))
            self.news.set()
            status = self.by_event.get(headers.get("dcp-event", "")) or self._next_answer()
            if status is None and self.hangs_up:
                return
            if status is None:
                self.hung.add(writer)
                await reader.read()  # until the client gives up
                return
            where = f"location: {self.location}\r\n" if self.location else ""
            where += f"retry-after: {self.retry_after}\r\n" if self.retry_after else ""
            writer.write(f"HTTP/1.1 {status} Answer\r\n{where}content-length: 0\r\n\r\n".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _next_answer(self) -> int | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.asynccontextmanager
async def receiving(*answers: int | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Runs a receiver that answers with these statuses; the default is 200."""
    receiver = Receiver(list(answers) or [200])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
