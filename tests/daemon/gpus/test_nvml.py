"""NVML telemetry: the real nvidia-ml-py against a stub of the driver's library."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from tests.support.nvml_stub.stub import A100, RTX_4090, Machine, build


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path / "script")


def error(function: str, code: int, index: int = -1) -> str:
    return f"error {function} {index} {code}"


def test_every_figure_of_the_contract_is_reported(machine: Machine) -> None:
    (answer,) = machine.run(f"{RTX_4090}\n{A100}")
    status = answer["status"]
    assert answer["name"] == "nvml"
    first = {
        "gpu_name": "NVIDIA GeForce RTX 4090",
        "gpu_vram_mib": "24564",
        "free_vram_mib": "20000",
        "memory_used_mb": "4564",
        "gpu_util_pct": 42.0,
        "temp_c": 55.0,
        "power_w": 120.5,
    }
    assert first.items() <= status.items()
    assert status["driver_version"] == "550.54.15"
    assert status["cuda_version"] == "12.4"
    assert status["compute_capability"] == "8.9"
    assert status["gpu_count"] == 2
    assert [gpu["uuid"] for gpu in status["all_gpus"]] == ["GPU-aaaa", "GPU-bbbb"]
    assert first.items() <= status["all_gpus"][0].items()
    assert status["all_gpus"][1]["index"] == 1
    assert {"daemon_version", "python_version", "os_info"} <= status.keys()


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        ("nvmlDeviceGetName", ["gpu_name"]),
        ("nvmlDeviceGetMemoryInfo", ["gpu_vram_mib", "free_vram_mib", "memory_used_mb"]),
        ("nvmlDeviceGetUtilizationRates", ["gpu_util_pct"]),
        ("nvmlDeviceGetTemperature", ["temp_c"]),
        ("nvmlDeviceGetPowerUsage", ["power_w"]),
        ("nvmlDeviceGetCudaComputeCapability", ["compute_capability"]),
        ("nvmlSystemGetCudaDriverVersion", ["cuda_version"]),
        ("nvmlSystemGetDriverVersion", ["driver_version"]),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_figure_that_cannot_be_told_is_left_out(
    machine: Machine, function: str, missing: list[str], code: int
) -> None:
    whole, partial = machine.run(RTX_4090, f"{RTX_4090}\n{error(function, code)}")
    assert whole["status"].keys() - partial["status"].keys() == set(missing)
    assert partial["warnings"] == 0


def test_function_that_an_old_driver_lacks_leaves_its_figure_out(tmp_path: Path) -> None:
    machine = Machine(build(tmp_path, "-DWITHOUT_POWER"), tmp_path / "script")
    (answer,) = machine.run(RTX_4090)
    assert "power_w" not in answer["status"]
    assert answer["status"]["temp_c"] == 55.0


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetTemperature"])
def test_lost_gpu_drops_out_is_noted_once_and_comes_back(machine: Machine, function: str) -> None:
    both = f"{RTX_4090}\n{A100}"
    lost = f"{both}\n{error(function, pynvml.NVML_ERROR_GPU_IS_LOST, 0)}"
    answers = machine.run(both, lost, lost, both, lost)
    assert [answer["status"]["gpu_count"] for answer in answers] == [2, 1, 1, 2, 1]
    assert [answer["warnings"] for answer in answers] == [0, 1, 1, 1, 2]
    assert answers[1]["status"]["gpu_name"] == "NVIDIA A100-SXM4-80GB"
    assert answers[1]["status"]["compute_capability"] == "8.0"
    assert answers[1]["status"]["all_gpus"][0]["index"] == 1


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
@pytest.mark.parametrize("function", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetMemoryInfo"])
def test_driver_that_goes_away_is_noted_once_and_found_again(
    machine: Machine, function: str, code: int
) -> None:
    gone = f"{RTX_4090}\n{error(function, code)}\n{error('nvmlInitWithFlags', code)}"
    answers = machine.run(RTX_4090, gone, gone, RTX_4090)
    assert ["gpu_name" in answer["status"] for answer in answers] == [True, False, False, True]
    assert [answer["warnings"] for answer in answers] == [0, 1, 1, 1]
    assert "python_version" in answers[1]["status"]


def test_unloaded_driver_means_no_gpus_with_the_reason(machine: Machine) -> None:
    (answer,) = machine.run(error("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert answer["name"] == "none"
    assert "driver is not loaded" in answer["reason"]
    assert answer["status"].get("gpu_count") == 0


def test_missing_library_means_no_gpus_with_the_reason(tmp_path: Path) -> None:
    empty = tmp_path / "libnvidia-ml.so.1"
    empty.write_bytes(b"")
    (answer,) = Machine(tmp_path, tmp_path / "script").run("")
    assert answer["name"] == "none"
    assert "install the NVIDIA driver" in answer["reason"]


def test_machine_without_any_gpu_reports_none(machine: Machine) -> None:
    (answer,) = machine.run("")
    assert answer["name"] == "nvml"
    assert answer["status"]["gpu_count"] == 0
    assert "all_gpus" not in answer["status"]
