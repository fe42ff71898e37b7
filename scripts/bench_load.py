"""Load on an HTTP address by wrk, in a process of its own: rate, latencies, and the CPU that wrk used."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.bench_processes import BenchError

GRACE_SECONDS = 60.0
_MISSING = (
    "wrk, which sends the load, is not installed: run scripts/setup --bench, or sudo apt-get install wrk"
)

# wrk reports latencies in microseconds, and counts as errors of status what is neither 2xx nor 3xx.
_SCRIPT = """
wrk.method = %(method)s
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


@dataclass(frozen=True, slots=True)
class Load:
    """One request, repeated on each of the connections for some seconds."""

    address: str
    method: str
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it. ``errors`` counts answers that were not 2xx or 3xx, and broken connections."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_seconds: float


def find_wrk() -> str:
    """The path of wrk. Raises BenchError with the way to install it."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError(_MISSING)
    return wrk


def run(load: Load, folder: Path) -> Loaded:
    """Puts the load on the address. Raises BenchError."""
    script = folder / "load.lua"
    script.write_text(_script(load))
    command = [
        find_wrk(), "--threads", "1", "--connections", str(load.connections),
        "--duration", f"{max(1, round(load.seconds))}s", "--script", str(script),
        f"http://{load.address}{load.path}",
    ]  # fmt: skip
    before = _children_cpu_seconds()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=load.seconds + GRACE_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"wrk failed: {(error.stderr or error.stdout)[-500:]}") from None
    except subprocess.TimeoutExpired:
        raise BenchError("wrk did not end") from None
    used = _children_cpu_seconds() - before
    return Loaded(**json.loads(done.stdout.splitlines()[-1]), client_cpu_seconds=used)


def _script(load: Load) -> str:
    headers = load.headers | ({"content-type": "application/json"} if load.body else {})
    return _SCRIPT % {
        "method": _lua(load.method),
        "body": _lua(load.body) if load.body else "nil",
        "headers": "\n".join(f"wrk.headers[{_lua(k)}] = {_lua(v)}" for k, v in headers.items()),
    }


def _lua(text: str) -> str:
    """A Lua string; our texts are plain ASCII, whose JSON form Lua reads alike."""
    return json.dumps(text)


def _children_cpu_seconds() -> float:
    """Of the children that have ended and were waited for: during a run only wrk does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
