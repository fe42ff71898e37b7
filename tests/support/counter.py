"""Counts what the programs do: SQL statements, commits, calls and messages. It does not know jobs.

It observes the real code from outside: SQLite's trace, its write-ahead log, a gRPC interceptor,
an ASGI application around the gateway's, a relay between daemon and server, the journal's disk.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import grpc
from dcp.v1 import sessions_pb2

from daemon.journal.disk import FileDisk

CONNECT = "/dcp.v1.SessionService/Connect"
_IDS = re.compile(r"job-[0-9a-f]+")

AsgiMessage = MutableMapping[str, Any]
AsgiApp = Callable[
    [AsgiMessage, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]
]


class Counter:
    """The counts since the last ``clear``."""

    def __init__(self) -> None:
        self.calls = _Calls()
        self.messages: collections.Counter[str] = collections.Counter()
        """The session's messages by kind, with an arrow for the way that each went."""
        self.bytes: collections.Counter[str] = collections.Counter()
        """Their bytes, serialized."""
        self.journal_syncs = 0
        self.http: collections.Counter[str] = collections.Counter()
        self._sql: list[str] = []
        self._wal = Path()
        self._commits_before = 0

    def clear(self) -> None:
        """Sets all counts to zero."""
        for counted in (self.calls.methods, self.messages, self.bytes, self.http, self._sql):
            counted.clear()
        self.journal_syncs = 0
        self._commits_before = committed(self._wal)

    def watch_database(self, database: Any) -> None:
        """Counts the statements of all connections that this SQLite database opens from now on."""
        counter = self

        class Traced(sqlite3.Connection):
            def __init__(self, *arguments: Any, **named: Any) -> None:
                super().__init__(*arguments, **named)
                self.set_trace_callback(counter._sql.append)

        database.connect_params["factory"] = Traced
        self._wal = Path(f"{database.database}-wal")

    def requests(self, app: AsgiApp) -> AsgiApp:
        """Wraps the application so that its requests are counted."""

        async def counted(scope: AsgiMessage, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.http[f"{scope['method']} {_IDS.sub('{id}', scope['path'])}"] += 1
            await app(scope, receive, send)

        return counted

    def database(self) -> dict[str, int]:
        """The counts of the database; ``statements`` includes those that begin and end transactions.

        ``syncs``: commits that reached the disk, each with one sync of the write-ahead log.
        """
        sql = self._own_sql()
        writing = sum(text.startswith("BEGIN IMMEDIATE") for text in sql)
        return {
            "statements": len(sql),
            "write transactions": writing,
            "read transactions": sum(text.startswith("BEGIN") for text in sql) - writing,
            "syncs": committed(self._wal) - self._commits_before,
        }

    async def written(self) -> None:
        """Waits for a commit that reaches the disk."""
        while not self.database()["syncs"]:
            await asyncio.sleep(0.01)

    def _own_sql(self) -> list[str]:
        # SQLite traces a trigger's statements as comments. Pragmas belong to a thread's first connection.
        return [sql for sql in list(self._sql) if not sql.startswith(("--", "PRAGMA"))]


def committed(wal: Path) -> int:
    """The number of transactions in SQLite's write-ahead log: its frames that end a commit.

    See https://www.sqlite.org/fileformat2.html#walformat. 0 if the file does not exist.
    """
    data = wal.read_bytes() if wal.is_file() else b""
    if not data:
        return 0
    page_size, salts = int.from_bytes(data[8:12]), data[16:24]
    commits = 0
    for start in range(32, len(data) - 24 - page_size + 1, 24 + page_size):
        pages_after, frame_salts = data[start + 4 : start + 8], data[start + 8 : start + 16]
        if frame_salts != salts:
            break  # left over from before the log was restarted
        commits += pages_after != bytes(4)
    return commits


class _Calls(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts a channel's calls by method."""

    def __init__(self) -> None:
        self.methods: collections.Counter[str] = collections.Counter()

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Counts a call."""
        method = client_call_details.method
        name = method.decode() if isinstance(method, bytes) else method
        self.methods[name.rpartition("/")[2]] += 1
        return await continuation(client_call_details, request)


class CountingDisk(FileDisk):
    """The journal's folder. It counts its syncs.

    ``forgotten`` is set when the journal is empty again.
    """

    def __init__(self, folder: Path, counter: Counter) -> None:
        super().__init__(folder)
        self._counter = counter
        self._loop = asyncio.get_running_loop()
        self.forgotten = asyncio.Event()

    def sync(self, name: str) -> None:
        """See `FileDisk.sync`."""
        self._counter.journal_syncs += 1
        super().sync(name)

    def sync_folder(self) -> None:
        """See `FileDisk.sync_folder`."""
        self._counter.journal_syncs += 1
        super().sync_folder()

    def truncate(self, name: str, size: int) -> None:
        """See `FileDisk.truncate`."""
        super().truncate(name, size)
        self._loop.call_soon_threadsafe(self.forgotten.set)


class _Relay(grpc.GenericRpcHandler):
    """Relays a daemon's stream to the server and back, message by message."""

    def __init__(self, channel: grpc.aio.Channel, counter: Counter) -> None:
        self._connect: Any = channel.stream_stream(CONNECT)
        self._counter = counter
        self.acknowledged = asyncio.Event()
        """Set when the server has answered a heartbeat."""

    def service(self, details: Any) -> Any:
        """The only method that it relays."""
        return grpc.stream_stream_rpc_method_handler(self._pass) if details.method == CONNECT else None

    async def _pass(self, requests: AsyncIterator[bytes], context: Any) -> None:
        credential = [pair for pair in context.invocation_metadata() if pair[0] == "authorization"]
        call = self._connect(metadata=grpc.aio.Metadata(*credential))
        sending = asyncio.create_task(self._send(requests, call))
        try:
            async for data in call:
                self._count("<", sessions_pb2.ServerMessage.FromString(data), data)
                await context.write(data)
        finally:
            sending.cancel()
            call.cancel()

    async def _send(self, requests: AsyncIterator[bytes], call: Any) -> None:
        async for data in requests:
            self._count(">", sessions_pb2.DaemonMessage.FromString(data), data)
            await call.write(data)
        await call.done_writing()

    def _count(self, way: str, message: Any, data: bytes) -> None:
        kind = f"{way} {message.WhichOneof('kind')}"
        self._counter.messages[kind] += 1
        self._counter.bytes[kind] += len(data)
        if kind == "< heartbeat_ack":
            self.acknowledged.set()


@contextlib.asynccontextmanager
async def relayed(address: str, counter: Counter) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Runs a relay to the server at ``address`` that counts messages; yields the relay's address.

    The answer to each heartbeat sets the event.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        relay = _Relay(channel, counter)
        server = grpc.aio.server(handlers=[relay])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", relay.acknowledged
        finally:
            await server.stop(None)
