"""The gpus port: what a machine says about its GPUs.

It must not know NVML or any other way to ask; `watched.detect` chooses one.
"""

from typing import Protocol

from dcp.v1 import gpus_pb2


class Gpus(Protocol):
    """A source of GPU telemetry. Calls block: they belong in a thread."""

    reason: str
    """Why the last reading has no GPU that answers, for a person; empty when it has, or before the first."""

    is_late: bool
    """The driver did not answer in time at the last reading: nothing says that it was away, or reset."""

    def read(self) -> gpus_pb2.GpuStatus:
        """Facts and a fresh sample. Whatever cannot be read is left unset; never raises."""
        ...

    def renew(self) -> None:
        """What is kept between readings of the software that is installed is read anew the next time."""
        ...

    def close(self) -> None:
        """Gives back what the source holds. From any thread; it does not wait for a driver that hangs."""
        ...
