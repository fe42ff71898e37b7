"""What `doctor` and the start of the daemon find out about this machine's GPUs.

Pure but for the reading. A figure that the driver does not report is said to be unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from dcp.v1 import gpus_pb2

from daemon.cli.findings import Finding, Level
from daemon.machine.gpus import Gpus
from daemon.machine.policy import Rules, refusal


def gpu_findings(rules: Rules, gpus: Gpus) -> list[Finding]:
    """Reads the GPUs once, and gives them back. Blocks for as long as a reading may take."""
    try:
        status = gpus.read()
    finally:
        gpus.close()
    if gpus.reason and not status.driver_lost:
        return [Finding(Level.WARN, f"no GPU telemetry: {gpus.reason}; jobs run on the processor")]
    return list(judged(status, rules, never_answered=True))


def judged(status: gpus_pb2.GpuStatus, rules: Rules, *, never_answered: bool = False) -> Iterator[Finding]:
    """What a reading says; `never_answered`: it is the first."""
    if status.driver_lost:
        what = "does not answer" if never_answered else "stopped answering"
        text = f"the NVIDIA driver {what}: run nvidia-smi, or restart the machine"
        yield Finding(Level.FAIL, f"GPUs: {text}; no job is taken meanwhile")
        return
    names = ", ".join(described(gpu) for gpu in status.all_gpus)
    driver = f"driver {status.driver_version}" if status.driver_version else "the driver's version is unknown"
    yield Finding(Level.OK, f"{status.gpu_count} GPU: {names or 'none'}; {driver}")
    for index in status.empty_mig_gpus:
        text = f"GPU {index} is in MIG mode and has no MIG device, so it is not offered"
        remedy = f"run nvidia-smi mig -i {index} -cgi PROFILE -C, or nvidia-smi -i {index} -mig 0"
        yield Finding(Level.WARN, f"{text}: {remedy}")
    if why := refusal(replace(rules, schedules=()), status, datetime.now(UTC)):
        remedy = "correct DCP_MAX_TEMP_C or DCP_VRAM_RESERVE_MIB, or cool or free it"
        yield Finding(Level.WARN, f"no job is taken now: {why}; {remedy}")


def described(gpu: gpus_pb2.GpuDevice) -> str:
    """A GPU in a few words: `NVIDIA GB10 122500 MiB (shared with the machine)`."""
    name = gpu.gpu_name or f"GPU {gpu.index} without a name"
    if not gpu.HasField("gpu_vram_mib"):
        return f"{name} (its memory is unknown)"
    return f"{name} {gpu.gpu_vram_mib} MiB{' (shared with the machine)' if gpu.vram_is_shared else ''}"
