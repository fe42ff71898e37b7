"""NVML telemetry: the real nvidia-ml-py against a stub of the driver's library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from daemon.machine.gpus.toolkit import Toolkit
from tests.support.manual_clock import ManualClock
from tests.support.nvml_stub.stub import A100, GB10, RTX_4090, Machine, build


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path / "script")


WITH_ALL = f"{A100}\nfigure ecc 0 1\nfigure failed 0 0\nfigure pages 0 0"


@pytest.fixture(scope="module")
def names_of_all(library: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all figures that a driver without faults gives."""
    (answer,) = Machine(library, tmp_path_factory.mktemp("all") / "script").run(WITH_ALL)
    return set(gpu(answer))


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
        ("nvmlDeviceGetUtilizationRates", ["gpu_util_pct"]),
        ("nvmlDeviceGetTemperature", ["temp_c"]),
        ("nvmlDeviceGetPowerUsage", ["power_w"]),
        ("nvmlDeviceGetCudaComputeCapability", ["compute_capability"]),
        ("nvmlSystemGetCudaDriverVersion", ["cuda_version"]),
        ("nvmlSystemGetDriverVersion", ["driver_version"]),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_figure_that_cannot_be_read_is_left_out(
    machine: Machine, function: str, missing: list[str], code: int
) -> None:
    whole, partial = machine.run(RTX_4090, f"{RTX_4090}\n{error(function, code)}")
    assert whole["status"].keys() - partial["status"].keys() == set(missing)
    assert partial["warnings"] == 0


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION])
def test_memory_that_cannot_be_read_is_left_out(machine: Machine, code: int) -> None:
    whole, partial = machine.run(RTX_4090, f"{RTX_4090}\n{error('nvmlDeviceGetMemoryInfo', code)}")
    missing = {"gpu_vram_mib", "free_vram_mib", "memory_used_mb"}
    assert whole["status"].keys() - partial["status"].keys() == missing
    assert "vram_is_shared" not in whole["status"]


@pytest.mark.parametrize("answer", [error("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NOT_SUPPORTED), ""])
def test_gpu_without_memory_of_its_own_reports_the_machines(machine: Machine, answer: str) -> None:
    status = machine.run(f"{GB10}\n{answer}")[0]["status"]
    total = psutil.virtual_memory().total >> 20
    for report in (status, status["all_gpus"][0]):
        assert int(report["gpu_vram_mib"]) == total
        assert 0 < int(report["free_vram_mib"]) < total
        assert abs(int(report["free_vram_mib"]) + int(report["memory_used_mb"]) - total) <= 1
        assert report["vram_is_shared"]


def test_zero_that_means_unknown_is_left_out(machine: Machine) -> None:
    (answer,) = machine.run("device GPU-cccc Orin_(nvgpu) 0 0 0 0 0 0 0 0")
    figures = gpu(answer)
    assert figures["gpu_util_pct"] == 0.0
    assert figures.keys().isdisjoint({"temp_c", "power_w", "compute_capability"})


HALVES = """figure mig 0 1
mig 0 MIG-1111 NVIDIA_A100-SXM4-80GB_MIG_3g.40gb 40448 40000 448
mig 0 MIG-2222 NVIDIA_A100-SXM4-80GB_MIG_3g.40gb 40448 1000 39448
"""


def test_each_mig_device_is_a_gpu_of_its_own(machine: Machine) -> None:
    (answer,) = machine.run(f"{A100}\n{RTX_4090}\n{HALVES}process 1000 PARENT 300")
    first, second, whole = answer["status"]["all_gpus"]
    assert answer["status"]["gpu_count"] == 3
    assert [part["uuid"] for part in (first, second, whole)] == ["MIG-1111", "MIG-2222", "GPU-aaaa"]
    assert [part["index"] for part in (first, second, whole)] == [64, 65, 1]
    assert first["gpu_name"] == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    assert (first["gpu_vram_mib"], second["free_vram_mib"]) == ("40448", "1000")
    # The driver measures the temperature and the power of the whole GPU: only the former holds for a part.
    assert (first["temp_c"], first["compute_capability"]) == (33.0, "8.0")
    assert first.keys().isdisjoint({"power_w", "gpu_util_pct", "vram_is_shared"})
    assert [part["foreign_processes"] for part in (first, second, whole)] == [1, 0, 0]
    assert "empty_mig_gpus" not in answer["status"]


def test_fault_of_a_divided_gpu_is_that_of_each_part(machine: Machine) -> None:
    script = f"{A100}\n{HALVES}"
    before, after, later = machine.run(script, f"{script}xid 0 79", f"{script}xid 0 79")
    assert [gpu(before, part)["xid_count"] for part in (0, 1)] == ["0", "0"]
    assert [gpu(after, part)["xid_count"] for part in (0, 1)] == ["1", "1"]
    assert [gpu(later, part)["last_xid"] for part in (0, 1)] == [79, 79]


def test_gpu_in_mig_mode_without_devices_is_not_offered_and_logged_once(machine: Machine) -> None:
    empty = f"{A100}\n{RTX_4090}\nfigure mig 0 1"
    answers = machine.run(empty, empty, f"{A100}\n{RTX_4090}\n{HALVES}")
    assert [device["uuid"] for device in answers[0]["status"]["all_gpus"]] == ["GPU-aaaa"]
    assert [answer["status"].get("empty_mig_gpus") for answer in answers] == [[0], [0], None]
    assert [answer["warnings"] for answer in answers] == [1, 1, 1]


def test_figure_of_a_function_that_the_driver_lacks_is_left_out(tmp_path: Path) -> None:
    machine = Machine(build(tmp_path, "-DWITHOUT_POWER"), tmp_path / "script")
    (answer,) = machine.run(RTX_4090)
    assert "power_w" not in answer["status"]
    assert answer["status"]["temp_c"] == 55.0


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetTemperature"])
def test_lost_gpu_is_left_out_logged_once_and_comes_back(machine: Machine, function: str) -> None:
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
def test_lost_driver_is_logged_once_and_found_again(machine: Machine, function: str, code: int) -> None:
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


def gpu(answer: dict[str, Any], index: int = 0) -> dict[str, Any]:
    device: dict[str, Any] = answer["status"]["all_gpus"][index]
    return device


def test_throttling_is_reported_except_for_idleness(machine: Machine) -> None:
    hot = f"{A100}\nfigure throttle 0 {32 | 8}"
    idle, slowed = machine.run(f"{A100}\nfigure throttle 0 1", hot)
    assert (gpu(idle)["throttled"], gpu(idle).get("throttle_reasons")) == (False, None)
    assert gpu(slowed)["throttled"]
    reasons = ["THROTTLE_REASON_HW_SLOWDOWN", "THROTTLE_REASON_SW_THERMAL"]
    assert gpu(slowed)["throttle_reasons"] == reasons


def test_memory_faults_are_reported_for_gpus_with_ecc(machine: Machine) -> None:
    figures = {
        "ecc": 1,
        "volatile": 2,
        "aggregate": 7,
        "pending": 1,
        "failed": 0,
        "pages": 0,
        "persistence": 1,
    }
    script = "\n".join([A100, RTX_4090, *(f"figure {name} 0 {value}" for name, value in figures.items())])
    (answer,) = machine.run(script)
    expected = {
        "ecc_enabled": True,
        "ecc_volatile_uncorrected": "2",
        "ecc_aggregate_uncorrected": "7",
        "row_remap_pending": True,
        "row_remap_failed": False,
        "retired_pages_pending": False,
        "persistence_mode": True,
        "compute_capability": "8.0",
    }
    assert expected.items() <= gpu(answer).items()
    only_with_ecc = expected.keys() - {"persistence_mode", "compute_capability"}
    assert only_with_ecc.isdisjoint(gpu(answer, 1))
    assert gpu(answer, 1)["persistence_mode"] is False


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        ("nvmlDeviceGetCurrentClocksThrottleReasons", {"throttled"}),
        ("nvmlDeviceGetEccMode", {"ecc_enabled", "ecc_volatile_uncorrected", "ecc_aggregate_uncorrected"}),
        ("nvmlDeviceGetTotalEccErrors", {"ecc_volatile_uncorrected", "ecc_aggregate_uncorrected"}),
        ("nvmlDeviceGetRemappedRows", {"row_remap_pending", "row_remap_failed"}),
        ("nvmlDeviceGetRetiredPagesPendingStatus", {"retired_pages_pending"}),
        ("nvmlDeviceGetPersistenceMode", {"persistence_mode"}),
        ("nvmlDeviceGetComputeRunningProcesses_v3", {"foreign_processes", "foreign_memory_mib"}),
        ("nvmlDeviceGetSupportedEventTypes", {"xid_count"}),
        ("nvmlEventSetCreate", {"xid_count"}),
        ("nvmlDeviceRegisterEvents", {"xid_count"}),
    ],
)
@pytest.mark.parametrize(
    "code",
    [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND],
)
def test_fault_that_cannot_be_read_is_left_out(
    machine: Machine, names_of_all: set[str], function: str, missing: set[str], code: int
) -> None:
    newer = error("nvmlDeviceGetCurrentClocksEventReasons", code) if "Throttle" in function else ""
    (partial,) = machine.run(f"{WITH_ALL}\n{error(function, code)}\n{newer}")
    assert names_of_all - gpu(partial).keys() == missing
    assert partial["warnings"] == 0


def test_figures_of_functions_that_an_old_driver_lacks_are_left_out(tmp_path: Path) -> None:
    machine = Machine(build(tmp_path, "-DOLD_DRIVER"), tmp_path / "script")
    (answer,) = machine.run(f"{A100}\nfigure throttle 0 4\nfigure pages 0 1")
    assert gpu(answer)["throttle_reasons"] == ["THROTTLE_REASON_POWER_CAP"]
    assert gpu(answer)["retired_pages_pending"]
    assert gpu(answer).keys().isdisjoint({"row_remap_failed", "xid_count", "last_xid"})


def test_xids_of_the_gpu_are_counted_but_not_those_of_programs(
    machine: Machine,
) -> None:
    both = f"{RTX_4090}\n{A100}"
    answers = machine.run(both, f"{both}\nxid 1 31", f"{both}\nxid 1 31\nxid 1 79\nxid 1 13\nxid 1 48", both)
    assert [gpu(answer, 0)["xid_count"] for answer in answers] == ["0"] * 4
    assert [gpu(answer, 1)["xid_count"] for answer in answers] == ["0", "0", "2", "2"]
    assert [gpu(answer, 1).get("last_xid") for answer in answers] == [None, None, 48, 48]


def test_gpu_that_was_lost_is_watched_again_when_it_is_back(machine: Machine) -> None:
    lost = f"{A100}\n{error('nvmlDeviceGetTemperature', pynvml.NVML_ERROR_GPU_IS_LOST, 0)}"
    gone = f"{A100}\n{error('nvmlDeviceGetCount_v2', pynvml.NVML_ERROR_UNINITIALIZED)}"
    for away in (lost, gone):
        answers = machine.run(A100, away, A100, f"{A100}\nxid 0 95")
        assert (gpu(answers[3])["xid_count"], gpu(answers[3])["last_xid"]) == ("1", 95)


def test_only_processes_of_others_are_counted(machine: Machine) -> None:
    script = f"{A100}\nprocess 0 SELF 900\nprocess 0 CHILD 800"
    own, foreign = machine.run(script, f"{script}\nprocess 0 PARENT 300\nprocess 0 1 200")
    assert (gpu(own)["foreign_processes"], gpu(own)["foreign_memory_mib"]) == (0, "0")
    assert (gpu(foreign)["foreign_processes"], gpu(foreign)["foreign_memory_mib"]) == (2, "500")


def test_count_is_left_out_if_a_process_cannot_be_attributed_or_measured(machine: Machine) -> None:
    unplaced, unmeasured = machine.run(f"{A100}\nprocess 0 999999999 5", f"{A100}\nprocess 0 PARENT -1")
    assert gpu(unplaced).keys().isdisjoint({"foreign_processes", "foreign_memory_mib"})
    assert gpu(unmeasured)["foreign_processes"] == 1
    assert "foreign_memory_mib" not in gpu(unmeasured)


def test_lost_driver_is_distinguished_from_a_machine_without_gpus(machine: Machine) -> None:
    gone = f"{A100}\n{error('nvmlDeviceGetCount_v2', pynvml.NVML_ERROR_DRIVER_NOT_LOADED)}"
    answers = machine.run(A100, gone, A100)
    assert [answer["status"].get("driver_lost") for answer in answers] == [None, True, None]


@pytest.mark.parametrize(
    ("program", "says", "version"),
    [
        ("nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.14.3\ncommit: 53b24618", "1.14.3"),
        ("nvidia-container-cli", "cli-version: 1.17.8\nlib-version: 1.17.8", "1.17.8"),
        ("nvidia-ctk", "no idea", None),
    ],
)
def test_version_of_the_container_toolkit_is_read(
    library: Path, tmp_path: Path, program: str, says: str, version: str | None
) -> None:
    tool = tmp_path / program
    tool.write_text(f"#!/bin/sh\necho '{says}'\n")
    tool.chmod(0o700)
    machine = Machine(library, tmp_path / "script", path=f"{tmp_path}:/usr/bin:/bin")
    (answer,) = machine.run(A100)
    assert answer["status"].get("container_toolkit_version") == version


def test_failing_container_toolkit_is_called_again_only_after_an_hour(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-ctk"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o700)
    clock = ManualClock()
    toolkit = Toolkit(clock.monotonic, path=str(tmp_path))
    assert toolkit.version() is None
    tool.write_text("#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version 1.16.0'\n")
    assert toolkit.version() is None
    clock.advance(3600)
    assert toolkit.version() == "1.16.0"


def test_container_toolkit_that_is_installed_later_is_found_within_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    toolkit = Toolkit(clock.monotonic, path=str(tmp_path))
    assert toolkit.version() is None
    tool = tmp_path / "nvidia-ctk"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version 1.16.0'\n")
    tool.chmod(0o700)
    assert toolkit.version() is None
    clock.advance(60)
    assert toolkit.version() == "1.16.0"


def test_test_of_the_container_engine_asks_for_the_toolkit_anew(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-ctk"
    toolkit = Toolkit(ManualClock().monotonic, path=str(tmp_path))
    for version in ("1.16.0", "1.17.8"):
        tool.write_text(f"#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version {version}'\n")
        tool.chmod(0o700)
        assert toolkit.read() == version
    assert toolkit.version() == "1.17.8"
