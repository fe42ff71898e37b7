"""Owns what a status says about the machine itself, and the gpus port of a machine without readable GPUs.

It must not look for any GPU.
"""

import platform
from functools import cache

import psutil
from dcp.v1 import gpus_pb2

from daemon.service.version import daemon_version


def machine_status() -> gpus_pb2.GpuStatus:
    """A status with the versions of daemon, Python and operating system."""
    return gpus_pb2.GpuStatus(
        daemon_version=daemon_version(),
        python_version=platform.python_version(),
        os_info=os_info(),
        architecture=architecture(),
    )


def machine_memory() -> tuple[int, int]:
    """The machine's memory, which a GPU without its own uses: in all, and what is free now, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def architecture() -> str:
    """The processor, as images name it."""
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)[:20]


@cache
def os_info() -> str:
    """The operating system, for a person: `Debian GNU/Linux 12 (bookworm), Linux 6.1.0 x86_64`."""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{name}, {kernel}"[:300] if name else kernel[:300]


class NoGpus:
    """Reports the machine without a GPU."""

    is_late = False

    def __init__(self, reason: str = "GPU telemetry is switched off") -> None:
        self.reason = reason

    def read(self) -> gpus_pb2.GpuStatus:
        """The machine's versions and a GPU count of zero."""
        status = machine_status()
        status.gpu_count = 0
        return status

    def renew(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""
