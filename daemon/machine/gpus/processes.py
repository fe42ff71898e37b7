"""Owns the question of who owns a process: this daemon, or another program. It must not know GPUs.

Only the answer leaves this file: no name, no command and no owner of a foreign process is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import psutil

OwnPids = Callable[[], Collection[int]]


def no_others() -> Collection[int]:
    """Nothing but what descends from the daemon is its own."""
    return ()


def is_foreign(pid: int, own_pids: Collection[int]) -> bool | None:
    """Whether a process descends neither from this one nor from `own_pids`; None when that is unknown.

    It is unknown of a process that has ended, or that is in another process namespace, as the
    machine's do for a daemon in a container.
    """
    roots = {os.getpid(), *own_pids}
    try:
        process = psutil.Process(pid)
        return roots.isdisjoint([pid, *(parent.pid for parent in process.parents())])
    except psutil.Error:
        return None
