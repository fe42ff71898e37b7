"""Chooses the source of GPU telemetry. It knows which there are, not how they work."""

from daemon.machine.gpus import Gpus
from daemon.machine.gpus.none import NoGpus
from daemon.machine.gpus.nvml import NvmlGpus, NvmlUnavailableError
from daemon.machine.gpus.processes import OwnPids, no_others


def detect(own_pids: OwnPids = no_others) -> Gpus:
    """NVML where it answers; otherwise none, with the reason why.

    `own_pids`: the first processes of the daemon's containers, which do not descend from it.
    """
    try:
        return NvmlGpus(own_pids)
    except NvmlUnavailableError as error:
        return NoGpus(str(error))
