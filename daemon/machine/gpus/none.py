"""The gpus port on a machine without GPUs that can be read. It must not look for any."""

from dcp.v1 import gpus_pb2

from daemon.machine.gpus.machine import machine_status


class NoGpus:
    """Reports the machine without a GPU."""

    name = "none"

    def __init__(self, reason: str = "GPU telemetry is switched off") -> None:
        self.reason = reason

    def read(self) -> gpus_pb2.GpuStatus:
        """The machine's versions and a GPU count of zero."""
        status = machine_status()
        status.gpu_count = 0
        return status

    def close(self) -> None:
        """Nothing is held."""
