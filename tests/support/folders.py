"""Where the folders of tests are."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

IN_MEMORY = "/dev/shm"
_NEEDED_BYTES = 6 << 30
# What the programs under test need besides.
_PROGRAMS_BYTES = 4 << 30
_GROUP = Path("/sys/fs/cgroup")


def has_room_in_memory() -> bool:
    """Whether the folders of a whole run have room in memory, and programs in them can be run."""
    try:
        disk = os.statvfs(IN_MEMORY)
    except OSError:
        return False
    is_usable = not disk.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    has_room = disk.f_bavail * disk.f_frsize > _NEEDED_BYTES
    return is_usable and has_room and _free_bytes() > _NEEDED_BYTES + _PROGRAMS_BYTES


def _free_bytes() -> int:
    """The memory that is free on the machine, or in the group of this process if that has less."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free = int(found[1]) * 1024 if found else 0
    with suppress(OSError, ValueError):  # it has no limit of its own
        limit, used = [int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current")]
        free = min(free, limit - used)
    return free
