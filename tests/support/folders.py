"""Where the folders of tests are."""

from __future__ import annotations

import os

IN_MEMORY = "/dev/shm"
_NEEDED_BYTES = 6 << 30


def has_room_in_memory() -> bool:
    """Whether the folders of a whole run have room in memory, and programs in them can be run."""
    try:
        disk = os.statvfs(IN_MEMORY)
    except OSError:
        return False
    is_usable = not disk.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return is_usable and disk.f_bavail * disk.f_frsize > _NEEDED_BYTES
