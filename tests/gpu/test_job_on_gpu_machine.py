"""The demo's job on a machine that has an NVIDIA GPU: the market shows the real card and runs the job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.machine.gpus.watched import detect
from scripts.market import Market
from server.domain.gpu_models import canonical

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.gpu, pytest.mark.model]


@pytest.fixture
def gpu_name() -> str:
    """The name that NVML gives; skips where there is no GPU."""
    gpus = detect(os.environ)
    gpus.read()
    if gpus.reason:
        pytest.skip(f"no NVIDIA GPU here: {gpus.reason}")
    try:
        return gpus.read().gpu_name
    finally:
        gpus.close()


def test_market_shows_the_real_gpu(gpu_name: str, tmp_path: Path) -> None:
    with Market(tmp_path, admin_token="operator-token-of-all-of-the-tests") as market:
        provider_id, key = market.register_provider("GPU node", "gpu@example.com")
        market.add_daemon(key)
        (listed,) = market.get("/api/renters/available-providers")["providers"]
        me = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
    assert (listed["id"], listed["gpu_name"], listed["is_live"]) == (provider_id, gpu_name, True)
    assert listed["gpu_model"] == canonical(gpu_name)
    assert listed["gpu_vram_mib"] > 1000
    assert me["gpu_status"]["driver_version"]
    assert me["gpu_status"]["all_gpus"][0]["uuid"].startswith(("GPU-", "MIG-"))


def test_demo_runs_its_job(gpu_name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"\d+ tokens at [\d.]+ tokens/s", result.stdout)
    assert "ledger    balances" in result.stdout
