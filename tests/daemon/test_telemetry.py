"""What a daemon exposes of its GPUs."""

from __future__ import annotations

import pytest
from dcp.v1 import gpus_pb2

from common.telemetry import Exporter
from daemon.telemetry import METRICS, measure_gpus

GPU = {"gpu": "0", "UUID": "GPU-1", "device": "nvidia0"}


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(METRICS, "daemon", "1")


def test_gpus_have_the_names_of_dcgm(exporter: Exporter) -> None:
    gpu = gpus_pb2.GpuDevice(
        index=0, uuid="GPU-1", gpu_name="NVIDIA H100", gpu_util_pct=40, temp_c=61.5, memory_used_mb=1024
    )
    measure_gpus(exporter, [gpu], lambda gpu: True)
    value = exporter.registry.get_sample_value
    assert value("DCGM_FI_DEV_GPU_UTIL", GPU) == 40
    assert value("DCGM_FI_DEV_GPU_TEMP", GPU) == 61.5
    assert value("DCGM_FI_DEV_FB_USED", GPU) == 1024
    assert value("dcp_daemon_gpu_info", {**GPU, "model": "NVIDIA H100"}) == 1
    assert value("dcp_daemon_gpu_healthy", GPU) == 1


def test_figure_that_the_driver_does_not_report_is_not_there(exporter: Exporter) -> None:
    gpu = gpus_pb2.GpuDevice(index=0, uuid="GPU-1", power_w=300)
    measure_gpus(exporter, [gpu], lambda gpu: False)
    value = exporter.registry.get_sample_value
    assert value("DCGM_FI_DEV_POWER_USAGE", GPU) == 300
    assert value("DCGM_FI_DEV_GPU_TEMP", GPU) is None
    assert value("dcp_daemon_gpu_healthy", GPU) == 0


def test_gpu_that_is_gone_is_not_there(exporter: Exporter) -> None:
    measure_gpus(exporter, [gpus_pb2.GpuDevice(index=0, uuid="GPU-1", temp_c=50)], lambda gpu: True)
    measure_gpus(exporter, [], lambda gpu: True)
    value = exporter.registry.get_sample_value
    assert value("DCGM_FI_DEV_GPU_TEMP", GPU) is None
    assert value("dcp_daemon_gpu_healthy", GPU) is None
