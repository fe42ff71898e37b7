"""A machine proves its GPU to a real server: real daemon and OpenCL, on a processor that plays the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_daemon
from tests.support.clustered_market import StartMarket
from tests.support.nvml_stub.stub import Machine, build
from tests.support.opencl import needs_opencl
from tests.support.patient_renter import Renter, eventually
from tests.support.scene import ADMIN_TOKEN, SCRIPTED
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

# Four MiB, as a processor hashes ten thousand times slower than a GPU.
SMALL = "device GPU-dddd NVIDIA_L4 4 4 0 0 40 30000 8 9"


def test_gpu_is_proved_before_the_first_job_and_not_again_after_a_restart(
    start_market: StartMarket, tmp_path: Path
) -> None:
    needs_opencl()
    machine = Machine(build(tmp_path), tmp_path / "script")
    machine.script.write_text(f"{SMALL}\n")
    settings = {"DCP_CANARY_PERCENT": "1", "DCP_GPU_PROOF_ROUNDS": "2"}
    with start_market(tmp_path, admin_token=ADMIN_TOKEN, settings=settings) as market:
        _, key = market.register_provider("GPU node", "gpu@example.com")
        environ = {
            "LD_LIBRARY_PATH": str(machine.library),
            "NVIDIA_STUB_SCRIPT": str(machine.script),
            "PYOPENCL_CTX": "0",
            "POCL_CACHE_DIR": str(tmp_path),
        }
        daemon = market.add_daemon(key, command=SCRIPTED, settings=environ)
        renter = Renter(market, "renter@example.com", 100_000)

        def findings() -> set[str]:
            me: dict[str, Any] = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
            return {finding["code"] for finding in me["verification"]["findings"]}

        def is_proved() -> bool:
            found = findings()
            return "NOT_CHECKED" in found and "NOT_PROVED" not in found

        eventually("a verdict without doubt of the memory", is_proved, seconds=90)
        assert "outcome=passed" in daemon.log.read_text()
        prompt = script("first", 3, 0)
        job = renter.submit(scripted_daemon.MODEL, prompt)
        assert renter.until_final(job)["status"] == "completed"
        assert renter.output(job) == answer_to(prompt)
        daemon.kill()
        daemon.restart()
        eventually("the answer that none is needed", lambda: "proved lately" in daemon.log.read_text())
        assert daemon.log.read_text().count("outcome=passed") == 1
        job = renter.submit(scripted_daemon.MODEL, prompt)
        assert renter.until_final(job)["status"] == "completed"
