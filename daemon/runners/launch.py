"""Turns into a job's command: the program that the process runner starts instead of the command itself.

Run by its path: ``launch.py PARENT LARGEST_FILE COMMAND...``. It bounds the files, leaves no core, and has
the kernel end the command when the daemon ends. In the daemon itself, between fork and exec, that could
crash: it has threads. Ends with 127 if there is no such command, as shells do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Does not return where the command can be started."""
    parent, largest, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)  # the daemon ended before that
    # Python ignores both, and what ignores SIGXFSZ is not ended by it.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the job's command, unchanged
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
