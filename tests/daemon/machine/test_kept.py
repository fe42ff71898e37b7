"""Which GPUs the owner keeps: drained by hand, over restarts, or in use by the owner's programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from dcp.v1 import gpus_pb2

from daemon.machine.health import Health, UnknownGpuError
from daemon.machine.kept import RETURNED_AFTER_SAMPLES, TAKEN_AFTER_SAMPLES, KeptGpus


def gpu(index: int, foreign: int | None = None, uuid: str | None = None) -> gpus_pb2.GpuDevice:
    device = gpus_pb2.GpuDevice(index=index, uuid=f"GPU-{index}" if uuid is None else uuid)
    if foreign is not None:
        device.foreign_processes = foreign
    return device


def sample(*gpus: gpus_pb2.GpuDevice) -> gpus_pb2.GpuStatus:
    return gpus_pb2.GpuStatus(all_gpus=gpus, gpu_count=len(gpus))


def health_of(folder: Path | None = None) -> Health:
    health = Health(KeptGpus(folder))
    health.observe(sample(gpu(0), gpu(1)))
    return health


@pytest.mark.parametrize("which", ["1", "GPU-1"])
def test_drained_gpu_stays_drained_after_a_restart_until_it_is_resumed(tmp_path: Path, which: str) -> None:
    assert health_of(tmp_path).set_drained(which, True) == "GPU-1"
    later = health_of(tmp_path)
    assert (later.healthy_gpus(), later.kept_gpus(), later.slots(2)) == (["GPU-0"], {"GPU-1"}, 1)
    assert [later.state_of(gpu(0)), later.state_of(gpu(1))] == ["works", "drained by hand"]
    later.set_drained(which, False)
    assert health_of(tmp_path).healthy_gpus() == ["GPU-0", "GPU-1"]


def test_gpu_without_a_uuid_is_drained_by_its_index() -> None:
    health = Health()
    health.observe(sample(gpu(0, uuid=""), gpu(1)))
    health.set_drained("0", True)
    assert health.healthy_gpus() == ["GPU-1"]


def test_gpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownGpuError, match=r"no GPU 2; the machine's are: 0 \(GPU-0\), 1 \(GPU-1\)"):
        health_of().set_drained("2", True)
    with pytest.raises(UnknownGpuError, match="the machine's are: none"):
        Health().set_drained("0", True)


def test_drain_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    health = health_of(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No such file"):
        health.set_drained("0", True)
    assert health.healthy_gpus() == ["GPU-0", "GPU-1"]


def test_damaged_file_drains_nothing_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drained-gpus.json").write_text("{", encoding="utf-8")
    assert health_of(tmp_path).healthy_gpus() == ["GPU-0", "GPU-1"]
    assert "drain them again" in caplog.text


def observed(health: Health, foreign: int | None, samples: int) -> list[str]:
    for _ in range(samples):
        health.observe(sample(gpu(0, foreign), gpu(1, 0)), yields=True)
    return health.healthy_gpus()


def test_gpu_is_taken_after_some_samples_and_returned_after_more() -> None:
    both, one = ["GPU-0", "GPU-1"], ["GPU-1"]
    health = health_of()
    assert observed(health, 1, TAKEN_AFTER_SAMPLES - 1) == both
    assert observed(health, 0, 1) == both  # one sample is not enough: the count begins anew
    assert observed(health, 1, TAKEN_AFTER_SAMPLES - 1) == both
    assert observed(health, 1, 1) == one
    assert observed(health, 0, RETURNED_AFTER_SAMPLES - 1) == one
    assert observed(health, 1, 1) == one
    assert observed(health, 0, RETURNED_AFTER_SAMPLES) == both


def test_unknown_owner_of_a_process_changes_nothing() -> None:
    health = health_of()
    assert observed(health, None, 20) == ["GPU-0", "GPU-1"]
    assert observed(health, 1, TAKEN_AFTER_SAMPLES) == ["GPU-1"]
    assert observed(health, None, 20) == ["GPU-1"]


def test_switching_the_rule_off_gives_the_gpus_back() -> None:
    health = health_of()
    assert observed(health, 1, TAKEN_AFTER_SAMPLES) == ["GPU-1"]
    health.observe(sample(gpu(0, 1), gpu(1, 0)))
    assert health.healthy_gpus() == ["GPU-0", "GPU-1"]


@pytest.mark.parametrize(
    ("visible", "yields"), [(None, True), (["GPU-0"], True), (["GPU-0", "GPU-1"], True), (["GPU-1"], False)]
)
def test_run_yields_if_it_sees_a_gpu_that_is_in_use(visible: list[str] | None, yields: bool) -> None:
    health = health_of()
    assert not health.must_yield(visible)
    observed(health, 1, TAKEN_AFTER_SAMPLES)
    assert health.must_yield(visible) is yields


def test_drained_gpu_ends_no_run() -> None:
    health = health_of()
    health.set_drained("0", True)
    assert not health.must_yield(["GPU-0"])
    assert not health.must_end(["GPU-0"])


def test_programs_that_take_any_gpu_see_only_those_that_may_be_used() -> None:
    health = health_of()
    assert health.visible_gpus() is None
    health.set_drained("0", True)
    assert health.visible_gpus() == ["GPU-1"]
    health.set_drained("1", True)
    assert health.visible_gpus() == []
    assert health.is_all_kept


def test_failed_gpu_is_reported_as_failed_though_it_is_drained() -> None:
    health = health_of()
    health.set_drained("0", True)
    judged = health.observe(sample(gpu(1)))
    states = {device.uuid: device.state for device in judged.all_gpus}
    assert states == {"GPU-0": gpus_pb2.GPU_STATE_FAILED, "GPU-1": gpus_pb2.GPU_STATE_HEALTHY}
    assert health.kept_gpus() == set()
    assert health.state_of(gpu(0)) == "failed (LOST)"
