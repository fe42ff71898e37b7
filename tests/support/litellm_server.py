"""A real litellm proxy, as many providers run it, in front of model servers on 127.0.0.1.

litellm has many dependencies, so it is installed from PyPI into an environment of its own, .venv/litellm, by
the first test that needs it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv" / "litellm"
PACKAGE = "litellm[proxy]==1.108.7"
INSTALL_SECONDS = 900
START_SECONDS = 180
KEY = "sk-of-the-provider"


def install() -> None:
    """Installs litellm, unless it is there. Raises CalledProcessError and TimeoutExpired."""
    if (ENVIRONMENT / "bin" / "litellm").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True, capture_output=True)
    pip: list[str | Path] = [
        ENVIRONMENT / "bin" / "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PACKAGE,
    ]
    subprocess.run(pip, check=True, capture_output=True, timeout=INSTALL_SECONDS)


@contextmanager
def litellm_server(folder: Path, upstreams: Mapping[str, str], key: str) -> Iterator[str]:
    """Serves models by name, each by the base address of its server; yields litellm's own base address."""
    models = [
        {"model_name": name, "litellm_params": {"model": "openai/upstream", "api_base": url, "api_key": key}}
        for name, url in upstreams.items()
    ]
    # A failed request is neither repeated nor remembered: a test asks each model for what it says itself.
    settings = {"num_retries": 0, "disable_cooldowns": True}
    config = folder / "litellm.json"
    config.write_text(json.dumps({"model_list": models, "router_settings": settings}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command: list[str | Path] = [
        ENVIRONMENT / "bin" / "litellm",
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(command, env=_environment(folder), cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, port)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    # Its table of prices would come from the internet; whatever else looks there finds a closed port.
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                if client.get(f"http://127.0.0.1:{port}/health/liveliness").is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
    raise RuntimeError("litellm did not start; its log is in the test's folder")
