"""Which GPUs may get jobs: every fault, its effect, and how a GPU recovers."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import gpus_pb2
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine.health import GOOD_SAMPLES, Health

HEALTHY, FAILED, UNKNOWN = (
    gpus_pb2.GPU_STATE_HEALTHY,
    gpus_pb2.GPU_STATE_FAILED,
    gpus_pb2.GPU_STATE_UNKNOWN,
)
DRIVER_LOST = gpus_pb2.GpuStatus(driver_lost=True)


def gpu(letter: str, **figures: Any) -> gpus_pb2.GpuDevice:
    values: dict[str, Any] = {"xid_count": 0, "ecc_volatile_uncorrected": 3, "gpu_name": "A100", "temp_c": 40}
    return gpus_pb2.GpuDevice(index=ord(letter) - ord("a"), uuid=letter, **(values | figures))


def status(*gpus: gpus_pb2.GpuDevice) -> gpus_pb2.GpuStatus:
    return gpus_pb2.GpuStatus(all_gpus=gpus, gpu_count=len(gpus))


def states(judged: gpus_pb2.GpuStatus) -> dict[str, tuple[int, int]]:
    return {device.uuid: (device.state, device.state_reason) for device in judged.all_gpus}


def observed(*samples: gpus_pb2.GpuStatus) -> Health:
    health = Health()
    for sample in samples:
        health.observe(sample)
    return health


BOTH = status(gpu("a"), gpu("b"))
XID = status(gpu("a", xid_count=1, last_xid=79), gpu("b"))
MEMORY_ERROR = status(gpu("a", ecc_volatile_uncorrected=4), gpu("b"))
BROKEN_ROW = status(gpu("a", row_remap_failed=True), gpu("b"))
FAULTS = [
    pytest.param(status(gpu("b")), gpus_pb2.GPU_FAULT_LOST, id="lost"),
    pytest.param(XID, gpus_pb2.GPU_FAULT_XID, id="xid"),
    pytest.param(MEMORY_ERROR, gpus_pb2.GPU_FAULT_ECC, id="memory error"),
    pytest.param(BROKEN_ROW, gpus_pb2.GPU_FAULT_ROW_REMAP, id="row"),
]


@pytest.mark.parametrize(("sample", "fault"), FAULTS)
def test_failed_gpu_is_the_only_one_without_jobs(sample: gpus_pb2.GpuStatus, fault: int) -> None:
    health = observed(BOTH)
    assert states(health.observe(sample)) == {"a": (FAILED, fault), "b": (HEALTHY, 0)}
    assert health.healthy_gpus() == ["b"]
    assert (health.slots(4), health.slots(1)) == (2, 1)
    assert health.must_end(["a"])
    assert health.must_end(["a", "b"])
    assert not health.must_end(["b"])
    assert not health.must_end([])
    assert not health.must_end(None)


@pytest.mark.parametrize(("sample", "fault"), FAULTS)
def test_machine_without_a_healthy_gpu_has_no_slots(sample: gpus_pb2.GpuStatus, fault: int) -> None:
    alone = gpus_pb2.GpuStatus(all_gpus=[device for device in sample.all_gpus if device.uuid == "a"])
    health = observed(status(gpu("a")), alone)
    assert (health.healthy_gpus(), health.slots(3)) == ([], 0)
    assert health.must_end(None)


def test_lost_gpu_keeps_its_identity_but_not_its_figures() -> None:
    (lost,) = [device for device in observed(BOTH).observe(status(gpu("b"))).all_gpus if device.uuid == "a"]
    assert (lost.index, lost.gpu_name, lost.HasField("temp_c")) == (0, "A100", False)


def test_errors_from_before_the_daemon_started_are_not_a_fault() -> None:
    health = observed(
        status(gpu("a", ecc_volatile_uncorrected=9, xid_count=0)),
        status(gpu("a", ecc_volatile_uncorrected=9)),
    )
    assert health.healthy_gpus() == ["a"]


def test_error_count_that_was_missing_for_a_while_is_not_a_new_error() -> None:
    without_count = gpu("a")
    without_count.ClearField("ecc_volatile_uncorrected")
    assert observed(status(gpu("a")), status(without_count), status(gpu("a"))).healthy_gpus() == ["a"]


def without(device: gpus_pb2.GpuDevice, *names: Any) -> gpus_pb2.GpuStatus:
    for name in names:
        device.ClearField(name)
    return status(device)


def test_count_that_is_missing_in_a_sample_proves_no_reset() -> None:
    health = observed(status(gpu("a")), status(gpu("a", ecc_volatile_uncorrected=4)))
    for _ in range(2 * GOOD_SAMPLES):
        health.observe(without(gpu("a"), "ecc_volatile_uncorrected"))
        health.observe(status(gpu("a", ecc_volatile_uncorrected=4)))
    assert health.healthy_gpus() == []


@pytest.mark.parametrize("name", ["ecc_volatile_uncorrected", "xid_count"])
def test_error_during_a_sample_without_the_count_is_noticed(name: str) -> None:
    missing = without(gpu("a"), name)
    assert observed(status(gpu("a")), missing, status(gpu("a", **{name: 9}))).healthy_gpus() == []


def test_xids_counted_before_a_sample_without_the_count_are_not_new() -> None:
    health = observed(status(gpu("a")), status(gpu("a", xid_count=1)), DRIVER_LOST)
    for _ in range(GOOD_SAMPLES):
        health.observe(status(gpu("a", xid_count=1)))
    assert health.healthy_gpus() == ["a"]
    health.observe(without(gpu("a"), "xid_count"))
    health.observe(status(gpu("a", xid_count=1)))
    assert health.healthy_gpus() == ["a"]


def test_lost_gpu_recovers_after_enough_consecutive_good_samples() -> None:
    health = observed(BOTH, status(gpu("b")), *[BOTH] * (GOOD_SAMPLES - 1), status(gpu("b")))
    for _ in range(GOOD_SAMPLES - 1):
        health.observe(BOTH)
    assert health.healthy_gpus() == ["b"]
    health.observe(BOTH)
    assert health.healthy_gpus() == ["a", "b"]
    assert health.slots(4) == 4


@pytest.mark.parametrize(
    ("sample", "after"),
    [
        (XID, gpu("a", xid_count=1)),
        (MEMORY_ERROR, gpu("a", ecc_volatile_uncorrected=4)),
    ],
)
@pytest.mark.parametrize("reset", ["none", "gpu", "driver"])
def test_faulty_gpu_recovers_only_after_a_reset(
    sample: gpus_pb2.GpuStatus, after: gpus_pb2.GpuDevice, reset: str
) -> None:
    health = observed(BOTH, sample, *[status(after, gpu("b"))] * GOOD_SAMPLES)
    assert health.healthy_gpus() == ["b"]
    if reset != "none":
        health.observe(DRIVER_LOST if reset == "driver" else status(gpu("b")))
    for _ in range(GOOD_SAMPLES):
        health.observe(status(after, gpu("b")))
    assert health.healthy_gpus() == (["b"] if reset == "none" else ["a", "b"])


def test_reading_that_is_late_proves_no_reset() -> None:
    after = status(gpu("a", xid_count=1), gpu("b"))
    health = observed(BOTH, XID)
    for _ in range(3):
        health.observe(DRIVER_LOST, is_late=True)
    for _ in range(2 * GOOD_SAMPLES):
        health.observe(after)
    assert health.healthy_gpus() == ["b"]
    health.observe(DRIVER_LOST)
    for _ in range(GOOD_SAMPLES):
        health.observe(after)
    assert health.healthy_gpus() == ["a", "b"]


def test_machine_whose_driver_hangs_from_the_first_reading_takes_no_work() -> None:
    health = observed(DRIVER_LOST)
    assert (health.slots(4), health.is_unknown, health.is_driver_lost) == (0, True, True)
    health.observe(BOTH)
    assert (health.slots(4), health.is_unknown, health.is_driver_lost) == (4, False, False)


@pytest.mark.parametrize(
    ("setting", "failed", "visible"),
    [
        (None, "", None),
        ("0", "", ["GPU-aa"]),
        ("0", "GPU-aa", []),
        ("1,0", "GPU-aa", ["GPU-bb"]),
        ("GPU-b, GPU-a", "", ["GPU-bb", "GPU-aa"]),
        ("GPU-bb", "GPU-aa", ["GPU-bb"]),
        ("1,7,0", "", ["GPU-bb"]),
        ("", "", []),
        ("-1", "", []),
        ("MIG-GPU-old/1/0", "", None),
        ("MIG-GPU-old/1/0", "GPU-aa", ["GPU-bb"]),
    ],
)
def test_gpus_that_the_owner_gives_are_the_most_that_a_model_server_sees(
    setting: str | None, failed: str, visible: list[str] | None
) -> None:
    first = gpus_pb2.GpuDevice(index=0, uuid="GPU-aa", xid_count=0)
    second = gpus_pb2.GpuDevice(index=1, uuid="GPU-bb", xid_count=0)
    health = observed(status(first, second))
    if failed:
        first.xid_count = 1
        health.observe(status(first, second))
    assert health.visible_gpus(setting) == visible


def test_error_count_that_restarts_proves_a_reset() -> None:
    health = observed(BOTH, MEMORY_ERROR)
    for _ in range(GOOD_SAMPLES):
        health.observe(status(gpu("a", ecc_volatile_uncorrected=0), gpu("b")))
    assert health.healthy_gpus() == ["a", "b"]


def test_broken_memory_row_is_a_fault_while_it_is_reported() -> None:
    health = observed(BOTH, BROKEN_ROW, DRIVER_LOST, *[BROKEN_ROW] * 2 * GOOD_SAMPLES)
    assert health.healthy_gpus() == ["b"]


def test_lost_driver_stops_new_jobs_and_ends_no_running_job() -> None:
    health = observed(BOTH)
    unknown = (UNKNOWN, gpus_pb2.GPU_FAULT_DRIVER_LOST)
    assert states(health.observe(DRIVER_LOST)) == {"a": unknown, "b": unknown}
    assert (health.healthy_gpus(), health.slots(4)) == ([], 0)
    assert not health.must_end(None)
    assert not health.must_end(["a"])
    assert states(health.observe(BOTH)) == {"a": (HEALTHY, 0), "b": (HEALTHY, 0)}
    assert health.slots(4) == 4


def test_machine_that_never_had_a_gpu_keeps_its_slots() -> None:
    health = observed(gpus_pb2.GpuStatus(gpu_count=0))
    assert (health.healthy_gpus(), health.slots(4), health.must_end(None)) == ([], 4, False)


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 3), st.booleans()),
            max_size=3,
            unique_by=lambda figures: figures[0],
        )
        | st.none(),
        max_size=30,
    ),
    st.integers(0, 8),
)
def test_states_and_slots_agree_for_any_samples(
    samples: list[list[tuple[str, int, int, bool]] | None], whole: int
) -> None:
    health = Health()
    uuids: set[str] = set()
    for sample in samples:
        taken = (
            DRIVER_LOST
            if sample is None
            else status(
                *(
                    gpu(u, xid_count=x, ecc_volatile_uncorrected=e, row_remap_failed=r)
                    for u, x, e, r in sample
                )
            )
        )
        reported = states(health.observe(taken))
        uuids |= {device.uuid for device in taken.all_gpus}
        assert reported.keys() == uuids
        assert health.healthy_gpus() == sorted(u for u, (state, _) in reported.items() if state == HEALTHY)
        assert 0 <= health.slots(whole) <= whole
        # A driver that does not answer has GPUs, though none was ever seen.
        has_gpus = bool(uuids) or sample is None
        assert (health.slots(whole) == 0) == (whole == 0 or (has_gpus and not health.healthy_gpus()))
