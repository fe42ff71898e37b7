"""A real HTTP server that sends a file, in whole or from a byte on, redirects, never ends, or breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """A server on 127.0.0.1."""

    content: bytes
    port: int = 0
    location: str = ""
    """Where every request but those for `/file` is sent; empty: nowhere."""
    knows_ranges: bool = True
    is_endless: bool = False
    trickles: bool = False
    """The answer comes byte by byte."""
    breaks_after: int | None = None
    """How many bytes the next answer has; the ones after it are whole."""
    stalls_after: int | None = None
    """How many bytes the next answer has before nothing more comes of it."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of each answer with the file; with an ETag, a range is given only to who knows it."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """The path and the range of each request."""
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection."""
        self.connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            ranges = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("Range")]
            self.asked.append((path, ranges[0] if ranges else ""))
            known = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("If-Range")]
            if known and known != [self.headers.get("ETag")]:
                ranges = []
            await self._answer(path, ranges, writer)
        writer.close()

    async def _answer(self, path: str, ranges: list[str], writer: asyncio.StreamWriter) -> None:
        if self.location and path != "/file":
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n\r\n".encode())
        elif self.trickles:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        elif self.is_endless:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        else:
            first = int(ranges[0].removeprefix("bytes=").rstrip("-")) if ranges and self.knows_ranges else 0
            status = "206 Partial Content" if first else "200 OK"
            data = self.content[first:]
            headers = {"Content-Length": str(len(data)), **self.headers}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(self.content) - 1}/{len(self.content)}"
            lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
            writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode())
            if (stalls := self.stalls_after) is not None:
                self.stalls_after = None
                writer.write(data[:stalls])
                await asyncio.Event().wait()
            end, self.breaks_after = self.breaks_after, None
            writer.write(data[:end])
        await writer.drain()


@contextlib.asynccontextmanager
async def serving_file(content: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[FileServer]:
    """Serves until the block ends."""
    server = FileServer(content)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for connection in server.connections:
            connection.transport.abort()
        await asyncio.sleep(0.02)  # one that trickles notices
