"""Chooses the source of GPU telemetry. It knows which there are, not how they work."""

from daemon.gpus import Gpus
from daemon.gpus.none import NoGpus
from daemon.gpus.nvml import NvmlGpus, NvmlUnavailableError
from daemon.gpus.processes import OwnPids, no_others


def detect(own_pids: OwnPids = no_others) -> Gpus:
    """NVML where it answers; otherwise none, with the reason why.

    `own_pids`: the first processes of the daemon's containers, which do not descend from it.
    """
    try:
        return NvmlGpus(own_pids)
    except NvmlUnavailableError as error:
        return NoGpus(str(error))
