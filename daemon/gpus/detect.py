"""Chooses the source of GPU telemetry. It knows which there are, not how they work."""

from daemon.gpus import Gpus
from daemon.gpus.none import NoGpus
from daemon.gpus.nvml import NvmlGpus, NvmlUnavailableError


def detect() -> Gpus:
    """NVML where it answers; otherwise none, with the reason why."""
    try:
        return NvmlGpus()
    except NvmlUnavailableError as error:
        return NoGpus(str(error))
