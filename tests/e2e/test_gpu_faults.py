"""Failing GPUs and drivers under real programs, with the real NVML binding and a scripted driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.support import scripted_daemon
from tests.support.clustered_market import StartMarket
from tests.support.nvml_stub.stub import A100, Machine, build
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

OTHER = A100.replace("GPU-bbbb", "GPU-cccc")
GONE = f"error nvmlDeviceGetCount_v2 -1 {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}"


def test_driver_that_fails_during_a_run_and_gpus_that_fail_one_by_one(
    start_market: StartMarket, tmp_path: Path
) -> None:
    machine = Machine(build(tmp_path), tmp_path / "script")
    machine.script.write_text(f"{A100}\n{OTHER}\n")
    with start_market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        _, key = market.register_provider("GPU node", "gpu@example.com")
        environ = {"LD_LIBRARY_PATH": str(machine.library), "NVIDIA_STUB_SCRIPT": str(machine.script)}
        market.add_daemon(key, command=SCRIPTED, settings=environ)
        renter = Renter(market, "renter@example.com", 100_000)

        def me() -> dict[str, Any]:
            provider: dict[str, Any] = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
            return provider

        def states() -> list[str]:
            return [gpu["state"] for gpu in me()["gpu_status"]["all_gpus"]]

        # Reports are judged within a second.
        eventually("a verdict", lambda: me()["verification"]["verdict"] == "verified")
        assert states() == ["healthy", "healthy"]
        prompt = script("long", 40, 0.5)
        running = renter.submit(scripted_daemon.MODEL, prompt)
        machine.script.write_text(f"{A100}\n{OTHER}\n{GONE}\n")
        eventually("GPUs of unknown state", lambda: states() == ["unknown", "unknown"], seconds=40)

        def in_the_market() -> tuple[bool, list[str]]:
            (seen,) = market.get("/api/renters/available-providers")["providers"]
            return seen["accepting_jobs"], [hindrance["code"] for hindrance in seen["hindrances"]]

        # The list is read from the database, where a report arrives within a second.
        eventually("the hindrance", lambda: in_the_market() == (False, ["GPUS_FAILED"]))
        assert renter.until_final(running)["status"] == "completed"
        assert renter.output(running) == answer_to(prompt)
        waiting = renter.submit(scripted_daemon.MODEL, script("short", 1, 0))
        machine.script.write_text(f"{A100}\n{OTHER}\nxid 1 79\n")
        assert renter.until_final(waiting)["status"] == "completed"
        eventually("one GPU that failed", lambda: states() == ["healthy", "failed"], seconds=40)
        # Of two servers the one without the session shows a report up to a second later.
        eventually("its Xid", lambda: me()["gpu_status"]["all_gpus"][1].get("last_xid") == 79, seconds=10)
        assert me()["verification"]["verdict"] == "verified"


@pytest.mark.slow
def test_driver_that_comes_late_lies_and_crashes_costs_no_job(
    start_market: StartMarket, tmp_path: Path
) -> None:
    machine = Machine(build(tmp_path), tmp_path / "script")
    not_loaded = f"error nvmlInitWithFlags -1 {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}"
    machine.script.write_text(f"{A100}\n{not_loaded}\n")
    with start_market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        _, key = market.register_provider("GPU node", "gpu@example.com")
        environ = {"LD_LIBRARY_PATH": str(machine.library), "NVIDIA_STUB_SCRIPT": str(machine.script)}
        market.add_daemon(key, command=SCRIPTED, settings=environ)
        renter = Renter(market, "renter@example.com", 100_000)

        def status() -> dict[str, Any]:
            me = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
            gpu_status: dict[str, Any] = me["gpu_status"]
            return gpu_status

        def states() -> list[str]:
            return [gpu["state"] for gpu in status().get("all_gpus", [])]

        assert status()["gpu_count"] == 0
        machine.script.write_text(A100)
        eventually("the driver that came late", lambda: states() == ["healthy"], seconds=40)
        prompt = script("long", 60, 0.5)
        running = renter.submit(scripted_daemon.MODEL, prompt)
        machine.script.write_text(A100.replace(" 0 33 60000", " 4294967295 33 60000"))
        eventually(
            "a figure left out",
            lambda: any("gpu_util_pct" not in gpu for gpu in status().get("all_gpus", [])),
            seconds=40,
        )
        machine.script.write_text(f"{A100}\ncrash nvmlDeviceGetTemperature")
        eventually("a GPU of unknown state", lambda: states() == ["unknown"], seconds=40)
        machine.script.write_text(A100)
        eventually("the GPU again", lambda: states() == ["healthy"], seconds=90)
        assert renter.until_final(running)["status"] == "completed"
        assert renter.output(running) == answer_to(prompt)
