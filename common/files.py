"""Owns how many files and connections a process may open."""

from __future__ import annotations

import resource

# Some systems have hard limits of a billion, and some programs that a child starts close every possible file.
MOST_FILES = 1 << 20


def raise_file_limit() -> int:
    """Raises the soft limit of open files to the hard limit; returns the soft limit that holds now.

    The usual soft limit of 1,024 is full at as many connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft
