"""Load on an HTTP address from a process of its own: wrk where it is on PATH, else our own client.

The client must not be what is measured: ``ceiling`` tells what it reaches against a peer that does
nothing, and every run tells the client's own CPU seconds.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

import orjson
import uvloop

from scripts.bench_http import REQUEST_SECONDS, Load, Loaded
from scripts.bench_processes import BIN, ROOT, BenchError

# wrk hands out latencies in microseconds, and counts what is no 2xx or 3xx apart.
_WRK_SCRIPT = """
wrk.method = "%(method)s"
wrk.body = %(body)s
%(headers)s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%%d,"errors":%%d,"seconds":%%f,"p50_ms":%%f,"p99_ms":%%f}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


def client_name() -> str:
    """What sends the load here."""
    return "wrk" if shutil.which("wrk") else "the own asyncio client (install wrk for a lighter one)"


def run(load: Load, folder: Path) -> tuple[Loaded, float]:
    """What came of the load, and the client's CPU seconds. Raises BenchError."""
    wrk = shutil.which("wrk")
    if wrk is None:
        command = [str(BIN / "python"), "-m", "scripts.bench_http", orjson.dumps(asdict(load)).decode()]
    else:
        script = folder / "load.lua"
        script.write_text(_wrk_script(load))
        command = [
            wrk, "-t", "1", "-c", str(load.connections), "-d", f"{max(1, round(load.seconds))}s",
            "-s", str(script), f"http://{load.address}{load.path}",
        ]  # fmt: skip
    before = _children_cpu_seconds()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, check=True, timeout=load.seconds + 2 * REQUEST_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"the load client failed: {error.stderr.decode(errors='replace')[-500:]}") from None
    except subprocess.TimeoutExpired:
        raise BenchError("the load client did not end") from None
    loaded = Loaded(**orjson.loads(done.stdout.splitlines()[-1]))
    # wrk starts in a moment; the start of our own client would be half of what a short round costs.
    used = _children_cpu_seconds() - before
    return loaded, used if loaded.cpu_seconds is None else loaded.cpu_seconds


def ceiling(connections: int, seconds: float, folder: Path) -> float:
    """Requests per second of the client against a peer that answers at once and does nothing else."""
    with _idle_peer() as address:
        loaded, _ = run(Load(address, "GET", "/", {}, "", connections, seconds), folder)
    if loaded.errors or not loaded.requests:
        raise BenchError(f"the load client cannot be trusted: {loaded.errors} errors against an idle peer")
    return loaded.requests / loaded.seconds


class _Idle(asyncio.Protocol):
    """Answers every packet with the same few bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


@contextmanager
def _idle_peer() -> Iterator[str]:
    loop = uvloop.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = loop.run_until_complete(loop.create_server(_Idle, sock=listener))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def _wrk_script(load: Load) -> str:
    headers = load.headers | ({"content-type": "application/json"} if load.body else {})
    return _WRK_SCRIPT % {
        "method": load.method,
        "body": _lua(load.body) if load.body else "nil",
        "headers": "\n".join(f"wrk.headers[{_lua(k)}] = {_lua(v)}" for k, v in headers.items()),
    }


def _lua(text: str) -> str:
    """A Lua string; ours are plain ASCII, whose JSON form Lua reads alike."""
    return orjson.dumps(text).decode()


def _children_cpu_seconds() -> float:
    """Of the children that have ended and were waited for: only the load clients do during a run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
