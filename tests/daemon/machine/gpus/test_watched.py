"""NVML in a process of its own: a driver that hangs, crashes, lies or comes late harms nobody."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pynvml
import pytest

from daemon.config.config import from_env
from daemon.machine.gpus.watched import LOOK_SECONDS, WatchedGpus
from tests.support.manual_clock import ManualClock
from tests.support.nvml_stub.stub import A100, Machine, build

LATE = f"{A100}\nerror nvmlInitWithFlags -1"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    machine = Machine(library, tmp_path / "script")
    machine.script.write_text(A100)
    return machine


@pytest.fixture
def gpus(machine: Machine, clock: ManualClock) -> Iterator[WatchedGpus]:
    gpus = WatchedGpus(environment=machine.environment(), next_seconds=1.0, monotonic=clock.monotonic)
    yield gpus
    gpus.close()


def test_gpus_are_read_by_a_process_that_ends_with_the_source(machine: Machine, gpus: WatchedGpus) -> None:
    machine.script.write_text(f"{A100}\nprocess 0 {os.getpid()} 5\nprocess 0 1 7")
    (device,) = gpus.read().all_gpus
    assert (device.uuid, gpus.reason) == ("GPU-bbbb", "")
    assert (device.foreign_processes, device.foreign_memory_mib) == (1, 7)
    gpus.close()
    assert gpus._ended == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{A100}\ncrash nvmlDeviceGetTemperature", "crashed with SIGSEGV"),
        (f"{A100}\nhang-for-ever nvmlDeviceGetTemperature", "does not answer in time"),
    ],
)
def test_driver_that_crashes_or_hangs_is_unknown_and_found_again(
    machine: Machine, gpus: WatchedGpus, clock: ManualClock, script: str, reason: str
) -> None:
    assert gpus.read().gpu_count == 1
    machine.script.write_text(script)
    broken = gpus.read()
    assert broken.driver_lost
    assert not broken.all_gpus
    assert reason in gpus.reason
    machine.script.write_text(A100)
    assert gpus.read().driver_lost, "no process is started before its pause is over"
    clock.advance(1.0)
    assert gpus.read().gpu_count == 1
    assert gpus.reason == ""


def test_driver_that_hangs_from_the_first_reading_is_lost_and_not_absent(
    machine: Machine, clock: ManualClock
) -> None:
    machine.script.write_text(f"{A100}\nhang-for-ever nvmlInitWithFlags")
    gpus = WatchedGpus(environment=machine.environment(), first_seconds=1.0, monotonic=clock.monotonic)
    try:
        hanging = gpus.read()
        assert (hanging.driver_lost, hanging.HasField("gpu_count"), gpus.is_late) == (True, False, True)
        assert "does not answer in time" in gpus.reason
        assert gpus.read().driver_lost, "also during the pause before the next process"
        machine.script.write_text(A100)
        clock.advance(1.0)
        assert (gpus.read().gpu_count, gpus.is_late) == (1, False)
    finally:
        gpus.close()


def test_process_sees_nothing_of_the_daemons_environment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCP_PROVIDER_KEY", "dcp-provider-secret")
    environ = machine.environment()
    gpus = WatchedGpus(environment=from_env(environ).engine_environment)
    try:
        assert gpus.read().gpu_count == 1
        assert gpus._child is not None
        seen = Path(f"/proc/{gpus._child._process.pid}/environ").read_text()
    finally:
        gpus.close()
    assert "NVIDIA_STUB_SCRIPT" in seen
    assert "secret" not in seen


def test_pauses_between_crashes_grow(machine: Machine, gpus: WatchedGpus, clock: ManualClock) -> None:
    machine.script.write_text(f"{A100}\ncrash nvmlInitWithFlags")
    starts = []
    for second in range(8):
        before = gpus._failures
        gpus.read()
        if gpus._failures > before:
            starts.append(second)
        clock.advance(1.0)
    assert starts == [0, 1, 3, 7]


def test_machine_whose_driver_never_answered_has_no_gpu(machine: Machine, gpus: WatchedGpus) -> None:
    machine.script.write_text(f"{A100}\ncrash nvmlInitWithFlags")
    status = gpus.read()
    assert (status.HasField("gpu_count"), status.gpu_count, status.driver_lost) == (True, 0, False)


@pytest.mark.parametrize(
    ("code", "wait"),
    [(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, 0.0), (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, LOOK_SECONDS)],
)
def test_driver_that_is_loaded_after_the_start_is_found(
    machine: Machine, gpus: WatchedGpus, clock: ManualClock, code: int, wait: float
) -> None:
    machine.script.write_text(f"{LATE} {code}")
    status = gpus.read()
    assert (status.gpu_count, status.driver_lost) == (0, False)
    assert gpus.reason
    machine.script.write_text(A100)
    clock.advance(wait)
    assert gpus.read().gpu_count == 1
    assert gpus.reason == ""


def test_library_that_is_installed_after_the_start_is_found(
    library: Path, tmp_path: Path, machine: Machine, clock: ManualClock
) -> None:
    place = tmp_path / "libraries"
    place.mkdir()
    # Where the linker looks first, so that a library of this machine does not count.
    (place / "libnvidia-ml.so.1").write_bytes(b"")
    gpus = WatchedGpus(
        environment=machine.environment() | {"LD_LIBRARY_PATH": str(place)}, monotonic=clock.monotonic
    )
    assert gpus.read().gpu_count == 0
    assert "install the NVIDIA driver" in gpus.reason
    (place / "libnvidia-ml.so.1").unlink()
    (place / "libnvidia-ml.so.1").symlink_to(library / "libnvidia-ml.so.1")
    assert gpus.read().gpu_count == 0
    clock.advance(LOOK_SECONDS)
    assert gpus.read().gpu_count == 1
    gpus.close()


@pytest.mark.parametrize(
    ("lie", "missing"),
    [
        (A100.replace(" 0 33 60000", " 4294967295 33 60000"), "gpu_util_pct"),
        (A100.replace(" 0 33 60000", " 101 33 60000"), "gpu_util_pct"),
        (A100.replace(" 0 33 60000", " 0 4294967295 60000"), "temp_c"),
        (A100.replace(" 0 33 60000", " 0 33 4294967295"), "power_w"),
        (f"{A100}\nfigure ecc 0 1\nfigure volatile 0 18446744073709551615", "ecc_volatile_uncorrected"),
    ],
)
def test_figure_that_cannot_be_true_is_left_out_alone(
    machine: Machine, gpus: WatchedGpus, lie: str, missing: str
) -> None:
    machine.script.write_text(lie)
    status = gpus.read()
    (device,) = status.all_gpus
    assert not device.HasField(missing)  # type: ignore[arg-type]
    others = {"gpu_util_pct", "temp_c", "power_w", "gpu_vram_mib"} - {missing}
    assert all(device.HasField(name) for name in others)  # type: ignore[arg-type]
    assert gpus.reason == ""


def test_closing_ends_a_reading_that_hangs(machine: Machine) -> None:
    machine.script.write_text(f"{A100}\nhang-for-ever nvmlInitWithFlags")
    gpus = WatchedGpus(environment=machine.environment(), first_seconds=600.0)
    reading = threading.Thread(target=gpus.read)
    reading.start()
    while gpus._child is None:
        time.sleep(0.01)
    gpus.close()
    reading.join(30)
    assert not reading.is_alive()


def test_process_that_was_left_alone_ends_with_the_daemon(machine: Machine, gpus: WatchedGpus) -> None:
    gpus.read()
    assert gpus._child is not None
    process = gpus._child._process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    machine.script.write_text(A100)
    assert "its process ended" in (gpus.read() and gpus.reason)


def test_reload_has_the_next_reading_ask_for_the_toolkit_anew(library: Path, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-ctk"
    machine = Machine(library, tmp_path / "script", path=f"{tmp_path}:/usr/bin:/bin")
    machine.script.write_text(A100)

    def install(version: str) -> None:
        tool.write_text(f"#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version {version}'\n")
        tool.chmod(0o700)

    with closing(WatchedGpus(environment=machine.environment())) as gpus:
        install("1.16.0")
        assert gpus.read().container_toolkit_version == "1.16.0"
        install("1.17.8")
        assert gpus.read().container_toolkit_version == "1.16.0"
        gpus.renew()
        assert gpus.read().container_toolkit_version == "1.17.8"
