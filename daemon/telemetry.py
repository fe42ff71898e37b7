"""The table of what a daemon measures of itself and its GPUs, whose figures have NVIDIA's names (DCGM)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dcp.v1 import gpus_pb2, sessions_pb2

from common.telemetry import COUNTER, GAUGE, Metric, Telemetry

_GPU = ("gpu", "UUID", "device")

METRICS = (
    Metric("dcp_daemon_session_open", GAUGE, "1 while there is a session with the server.", (), "Daemon"),
    Metric("dcp_daemon_slots", GAUGE, "Jobs that are taken at once; 0 while none are taken.", (), "Daemon"),
    Metric("dcp_daemon_jobs_open", GAUGE, "Jobs that are here, by their phase.", ("phase",), "Daemon"),
    Metric(
        "dcp_daemon_jobs_ended_total",
        COUNTER,
        "Runs that ended by themselves.",
        ("outcome", "reason"),
        "Daemon",
    ),
    Metric(
        "dcp_daemon_journal_writes_total",
        COUNTER,
        "Records of the journal, written or not.",
        ("outcome",),
        "Daemon",
    ),
    Metric("dcp_daemon_journal_waiting", GAUGE, "Entries that wait to be written.", (), "Daemon"),
    Metric("dcp_daemon_journal_bytes", GAUGE, "Size of the journal on the disk.", (), "Daemon"),
    Metric("dcp_daemon_gpu_healthy", GAUGE, "1 if a GPU may be given jobs, 0 if not.", _GPU, "GPUs"),
    Metric("dcp_daemon_gpu_info", GAUGE, "1, with the model of a GPU.", (*_GPU, "model"), "GPUs"),
    Metric("DCGM_FI_DEV_GPU_UTIL", GAUGE, "GPU utilization (in %).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_GPU_TEMP", GAUGE, "GPU temperature (in C).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_POWER_USAGE", GAUGE, "Power draw (in W).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_FB_USED", GAUGE, "Framebuffer memory used (in MiB).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_FB_FREE", GAUGE, "Framebuffer memory free (in MiB).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_FB_TOTAL", GAUGE, "Framebuffer memory (in MiB).", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_XID_ERRORS", GAUGE, "Value of the last XID error encountered.", _GPU, "GPUs"),
    Metric(
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        GAUGE,
        "Double-bit volatile ECC errors since the start.",
        _GPU,
        "GPUs",
    ),
    Metric("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", GAUGE, "Double-bit ECC errors of its whole life.", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_ROW_REMAP_PENDING", GAUGE, "1 if a row waits to be remapped.", _GPU, "GPUs"),
    Metric("DCGM_FI_DEV_ROW_REMAP_FAILURE", GAUGE, "1 if remapping of a row failed.", _GPU, "GPUs"),
)
# The fields of a GPU's report, by the name that DCGM gives to it.
_FIGURES = {
    "DCGM_FI_DEV_GPU_UTIL": "gpu_util_pct",
    "DCGM_FI_DEV_GPU_TEMP": "temp_c",
    "DCGM_FI_DEV_POWER_USAGE": "power_w",
    "DCGM_FI_DEV_FB_USED": "memory_used_mb",
    "DCGM_FI_DEV_FB_FREE": "free_vram_mib",
    "DCGM_FI_DEV_FB_TOTAL": "gpu_vram_mib",
    "DCGM_FI_DEV_XID_ERRORS": "last_xid",
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "ecc_volatile_uncorrected",
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": "ecc_aggregate_uncorrected",
    "DCGM_FI_DEV_ROW_REMAP_PENDING": "row_remap_pending",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "row_remap_failed",
}


def measure_gpus(
    telemetry: Telemetry,
    gpus: Iterable[gpus_pb2.GpuDevice],
    is_healthy: Callable[[gpus_pb2.GpuDevice], bool],
) -> None:
    """Sets what a reading of the GPUs says; a figure that the driver does not report is not there."""
    read = {(str(gpu.index), gpu.uuid, f"nvidia{gpu.index}"): gpu for gpu in gpus}
    for name, field in _FIGURES.items():
        known = {labels: gpu for labels, gpu in read.items() if gpu.HasField(field)}  # type: ignore[arg-type]
        telemetry.fill(name, {labels: float(getattr(gpu, field)) for labels, gpu in known.items()})
    telemetry.fill("dcp_daemon_gpu_healthy", {labels: is_healthy(gpu) for labels, gpu in read.items()})
    telemetry.fill("dcp_daemon_gpu_info", {(*labels, gpu.gpu_name): 1 for labels, gpu in read.items()})


def outcome_name(outcome: sessions_pb2.RunOutcome.ValueType) -> str:
    """The outcome of a run as a label."""
    return sessions_pb2.RunOutcome.Name(outcome).removeprefix("RUN_OUTCOME_").lower()
