"""An HTTP/1.1 client that costs little: raw sockets, keep-alive, a minimal reader of answers.

As a program (``python -m scripts.bench_http SPEC``) it is the load client: SPEC is the JSON of a
``Load``, and it prints the JSON of a ``Loaded``. Only what our peers send is understood: answers
with a Content-Length, in chunks, or 204.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self, cast

import orjson
import uvloop

from scripts.bench_figures import percentile
from scripts.bench_processes import BenchError

REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, over and over, on so many connections for so many seconds."""

    address: str
    method: str
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it. ``errors`` counts answers that were no 2xx, and broken connections.

    ``cpu_seconds`` is the client's own, without its start; None where the client does not tell.
    """

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float | None = None


class Answers(asyncio.Protocol):
    """One connection: ``send`` gives a future of the next answer's status and body."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way out."""
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for an answer gets none."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BenchError("the peer closed the connection"))

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Sends one whole request; there must be none under way."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._waiting.set_exception(BenchError("the peer closed the connection"))
        else:
            self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        """Gives the answer to whoever waits, once it is whole."""
        self._buffer += data
        answer = parse(self._buffer)
        if answer is None or self._waiting is None or self._waiting.done():
            return
        self._buffer = b""
        self._waiting.set_result(answer)

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()


def parse(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of a whole answer, or None while something is missing."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    status = int(head[9:12])
    low = head.lower()
    at = low.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(low[at + 17 :].split(b"\r\n", 1)[0])
        return (status, body) if len(body) >= length else None
    if status == 204 or b"transfer-encoding: chunked" not in low:
        return status, body
    return (status, _unchunked(body)) if body.endswith(b"0\r\n\r\n") else None


def _unchunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(rest[:length])
        body = rest[length + 2 :] if length else b""
    return b"".join(pieces)


def request_bytes(method: str, path: str, host: str, headers: dict[str, str], body: bytes) -> bytes:
    """A whole request as it travels."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """One keep-alive connection to ``address`` (host:port)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Answers | None = None

    async def __aenter__(self) -> Self:
        self._connection = await connect(self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    async def request(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[int, bytes]:
        """Sends one request and waits for its answer."""
        assert self._connection is not None
        answer = self._connection.send(request_bytes(method, path, self._address, headers, body))
        return await asyncio.wait_for(answer, REQUEST_SECONDS)

    async def json(self, method: str, path: str, body: object, headers: dict[str, str]) -> bytes:
        """The body of the answer. Raises BenchError for any status but a 2xx."""
        sent = b"" if body is None else orjson.dumps(body)
        status, answer = await self.request(method, path, headers, sent)
        if not 200 <= status < 300:
            raise BenchError(f"{method} {path} answered {status}: {answer[:300]!r}")
        return answer


async def connect(address: str) -> Answers:
    """A new connection."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(Answers, host, int(port))
    return connection


async def run_load(load: Load) -> Loaded:
    """Keeps every connection busy until the time is over."""
    request = request_bytes(load.method, load.path, load.address, load.headers, load.body.encode())
    connections = [await connect(load.address) for _ in range(load.connections)]
    durations: list[float] = []
    begun, cpu_before = time.monotonic(), time.process_time()
    until = begun + load.seconds

    async def drive(connection: Answers) -> int:
        errors = 0
        while (sent := time.monotonic()) < until:
            try:
                status, _ = await connection.send(request)
            except BenchError:
                return errors + 1
            durations.append(time.monotonic() - sent)
            errors += not 200 <= status < 300
        return errors

    async with asyncio.timeout(load.seconds + REQUEST_SECONDS):
        errors = sum(await asyncio.gather(*(drive(connection) for connection in connections)))
    seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_before
    for connection in connections:
        connection.close()
    p50, p99 = (percentile(durations, percent) * 1000 for percent in (50, 99))
    return Loaded(len(durations), errors, seconds, p50, p99, cpu_seconds)


def main() -> int:
    """Runs the load of the first argument."""
    load = Load(**orjson.loads(sys.argv[1]))
    print(orjson.dumps(asdict(uvloop.run(run_load(load)))).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
