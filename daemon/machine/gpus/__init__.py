"""The gpus port: what a machine says about its GPUs.

It must not know NVML or any other way to ask; `nvml.detect` chooses one.
"""

from typing import Protocol

from dcp.v1 import gpus_pb2


class Gpus(Protocol):
    """A source of GPU telemetry. Calls block: they belong in a thread."""

    name: str
    """How the GPUs are read: `nvml` or `none`."""
    reason: str
    """Why there is nothing to read, for a person; empty when there is."""

    def read(self) -> gpus_pb2.GpuStatus:
        """Facts and a fresh sample. Whatever cannot be read is left unset; never raises."""
        ...

    def close(self) -> None:
        """Gives back what the source holds."""
        ...
