"""Puts load on an HTTP address with wrk, in its own process: rate, latencies, and the CPU that wrk used."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.processes import BenchError

GRACE_SECONDS = 60.0
_MISSING = (
    "wrk, which sends the load, is not installed: run scripts/setup --bench, or sudo apt-get install wrk"
)

# wrk reports latencies in microseconds, and counts answers other than 2xx and 3xx as status errors.
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
    """One request, and for how long and on how many connections it is repeated."""

    address: str
    method: str
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result. ``errors`` counts answers other than 2xx and 3xx, timeouts and broken connections."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_seconds: float


def find_wrk() -> str:
    """The path of wrk. Raises BenchError, with how to install it, if there is none."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError(_MISSING)
    return wrk


def run(load: Load, folder: Path) -> Loaded:
    """Runs wrk and returns its result. Raises BenchError."""
    script = folder / "load.lua"
    script.write_text(_script(load), encoding="utf-8")
    command = [
        find_wrk(), "--threads", "1", "--connections", str(load.connections),
        "--duration", f"{max(1, round(load.seconds))}s", "--script", str(script),
        f"http://{load.address}{load.path}",
    ]  # fmt: skip
    before = _children_cpu_seconds()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=load.seconds + GRACE_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"wrk failed: {(error.stderr or error.stdout)[-500:]}") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"wrk did not end within {load.seconds + GRACE_SECONDS:.0f} s") from None
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
    """A Lua string. Our texts are ASCII, and for those Lua accepts the JSON form."""
    return json.dumps(text)


def _children_cpu_seconds() -> float:
    """CPU time of ended child processes; only wrk ends during a run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
