"""Failing GPUs and drivers under real programs, with the real NVML binding and a scripted driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from scripts.market import Market
from tests.support import scripted_daemon
from tests.support.nvml_stub.stub import A100, Machine, build
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

OTHER = A100.replace("GPU-bbbb", "GPU-cccc")
GONE = f"error nvmlDeviceGetCount_v2 -1 {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}"


def test_driver_that_fails_during_a_run_and_gpus_that_fail_one_by_one(tmp_path: Path) -> None:
    machine = Machine(build(tmp_path), tmp_path / "script")
    machine.script.write_text(f"{A100}\n{OTHER}\n")
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        _, key = market.register_provider("GPU node", "gpu@example.com")
        environ = {"LD_LIBRARY_PATH": str(machine.library), "NVML_STUB_SCRIPT": str(machine.script)}
        market.add_daemon(key, command=SCRIPTED, settings=environ)
        renter = Renter(market, "renter@example.com", 100_000)

        def me() -> dict[str, Any]:
            provider: dict[str, Any] = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
            return provider

        def states() -> list[str]:
            return [gpu["state"] for gpu in me()["gpu_status"]["all_gpus"]]

        assert me()["verification"]["verdict"] == "verified"
        assert states() == ["healthy", "healthy"]
        prompt = script("long", 40, 0.5)
        running = renter.submit(scripted_daemon.MODEL, prompt)
        machine.script.write_text(f"{A100}\n{OTHER}\n{GONE}\n")
        eventually("GPUs of unknown state", lambda: states() == ["unknown", "unknown"], seconds=40)
        (seen,) = market.get("/api/renters/available-providers")["providers"]
        assert (seen["accepting_jobs"], seen["hindrances"][0]["code"]) == (False, "GPUS_FAILED")
        assert renter.until_final(running)["status"] == "completed"
        assert renter.output(running) == answer_to(prompt)
        waiting = renter.submit(scripted_daemon.MODEL, script("short", 1, 0))
        machine.script.write_text(f"{A100}\n{OTHER}\nxid 1 79\n")
        assert renter.until_final(waiting)["status"] == "completed"
        eventually("one GPU that failed", lambda: states() == ["healthy", "failed"], seconds=40)
        assert me()["gpu_status"]["all_gpus"][1]["last_xid"] == 79
        assert me()["verification"]["verdict"] == "verified"
