"""Owns what a status says about the machine beside its GPUs. It must not know any GPU."""

import platform
from functools import cache

from dcp.v1 import gpus_pb2

from daemon.service.version import daemon_version


def machine_status() -> gpus_pb2.GpuStatus:
    """A status that tells the versions of daemon, Python and operating system."""
    return gpus_pb2.GpuStatus(
        daemon_version=daemon_version(), python_version=platform.python_version(), os_info=os_info()
    )


@cache
def os_info() -> str:
    """The operating system, for a person: `Debian GNU/Linux 12 (bookworm), Linux 6.1.0 x86_64`."""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{name}, {kernel}"[:300] if name else kernel[:300]
