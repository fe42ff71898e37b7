"""NVML on a machine that has an NVIDIA GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import os

import pytest

from daemon.machine.gpus.watched import detect

pytestmark = pytest.mark.gpu


def test_real_gpu_is_read() -> None:
    gpus = detect(os.environ)
    gpus.read()
    if gpus.reason:
        pytest.skip(f"no NVIDIA GPU here: {gpus.reason}")
    try:
        status = gpus.read()
    finally:
        gpus.close()
    if not status.gpu_count:
        pytest.skip("no NVIDIA GPU here: the driver answers, but lists none")
    first = status.all_gpus[0]
    assert first.uuid.startswith(("GPU-", "MIG-"))
    assert status.gpu_name == first.gpu_name
    assert first.gpu_vram_mib > 1000
    assert 0 <= first.free_vram_mib <= first.gpu_vram_mib
    assert status.driver_version
    assert status.cuda_version.count(".") == 1
    assert status.compute_capability.count(".") == 1
    assert status.gpu_count == len(status.all_gpus)


def test_readings_can_be_repeated() -> None:
    gpus = detect(os.environ)
    gpus.read()
    if gpus.reason:
        pytest.skip(f"no NVIDIA GPU here: {gpus.reason}")
    try:
        counts = {gpus.read().gpu_count for _ in range(20)}
    finally:
        gpus.close()
    assert len(counts) == 1
