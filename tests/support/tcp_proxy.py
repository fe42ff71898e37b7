"""A TCP proxy on 127.0.0.1 that can simulate faults of a network, switched while it runs.

It knows no protocol. It runs in a separate thread, so that a test may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

READ_BYTES = 64 * 1024
_RST_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Pass:
    """Forwards all bytes."""


@dataclass(frozen=True)
class Delay:
    """Forwards all bytes late, in order."""

    seconds: float


@dataclass(frozen=True)
class BlackHole:
    """Accepts connections and drops their bytes silently.

    ``answers_only``: bytes from clients are still forwarded. A connection that lost bytes is
    reset when the mode changes, because it cannot continue without them.
    """

    answers_only: bool = False


@dataclass(frozen=True)
class Reset:
    """Resets every connection, old or new."""


@dataclass(frozen=True)
class Slice:
    """Forwards all bytes in segments of 1 to ``most_bytes``, with pauses between them."""

    most_bytes: int
    pause_seconds: float = 0.001


@dataclass(frozen=True)
class Cut:
    """Loses an answer that has ``at`` in it: the connection is reset, or stays silent from then on."""

    at: bytes
    is_silent: bool = False


Mode = Pass | Delay | BlackHole | Reset | Slice | Cut


class TcpProxy:
    """A listening port that forwards to ``target``, a host:port; ``address`` is the proxy's own."""

    def __init__(self, target: str, seed: int = 0) -> None:
        """``seed``: the seed of the sizes of segments."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._rng = Random(seed)
        self._mode: Mode = Pass()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.address = ""

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        self.address = self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def switch(self, mode: Mode) -> None:
        """Switches the mode for old and new connections."""
        self._run(self._switch(mode))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _close(self) -> None:
        self._server.close()
        for _ in range(2):  # the second for connections that were being accepted
            for link in list(self._links):
                link.reset()
            while self._links:
                await asyncio.wait([link.task for link in self._links])
            await asyncio.sleep(0.01)

    async def _switch(self, mode: Mode) -> None:
        self._mode = mode
        for link in list(self._links):
            if isinstance(mode, Reset) or (link.has_lost and not isinstance(mode, BlackHole)):
                link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer)
        self._links.add(link)
        try:
            await self._carry(link, reader, writer)
        except* (OSError, asyncio.CancelledError):
            pass  # a peer or the proxy has ended the connection
        finally:
            link.abort()
            self._links.discard(link)

    async def _carry(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._mode, Reset):
            return
        if self._mode == BlackHole():
            await self._swallow(link, reader)
            return
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        link.writers.append(target_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(link, reader, target_writer, is_answer=False))
            group.create_task(self._pump(link, target_reader, writer, is_answer=True))

    async def _swallow(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """Keeps a connection that began in the hole until the mode changes or its client ends it."""
        link.has_lost = True
        while await reader.read(READ_BYTES):
            pass

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while data := await reader.read(READ_BYTES):
            mode = self._mode
            if isinstance(mode, BlackHole) and (is_answer or not mode.answers_only):
                link.has_lost = True
            elif isinstance(mode, Cut) and is_answer and mode.at in data:
                link.has_lost = True
                if not mode.is_silent:
                    link.abort()
            elif not link.has_lost or not is_answer:
                await self._forward(data, writer)
        if not link.has_lost:
            writer.write_eof()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        mode = self._mode
        if isinstance(mode, Delay):
            await asyncio.sleep(mode.seconds)
        pieces = self._sliced(data, mode) if isinstance(mode, Slice) else [data]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if isinstance(mode, Slice):
                await asyncio.sleep(mode.pause_seconds)

    def _sliced(self, data: bytes, mode: Slice) -> list[bytes]:
        pieces = []
        while data:
            size = self._rng.randint(1, mode.most_bytes)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


class _Link:
    """A connection from a client and its connection to the target."""

    def __init__(self, task: asyncio.Task[Any], client: asyncio.StreamWriter) -> None:
        self.task = task
        self.writers = [client]
        self.has_lost = False

    def reset(self) -> None:
        """Ends the connection at once."""
        self.abort()
        self.task.cancel()

    def abort(self) -> None:
        """Ends both sides with RST."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
            writer.transport.abort()
