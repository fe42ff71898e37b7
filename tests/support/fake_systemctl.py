"""A systemctl for a single unit, without systemd: it starts and stops the unit's command.

Run as a program with DCP_FAKE_UNIT, a folder that holds `command` (the unit's ExecStart), `pid`, `log`.
Like systemd, it reads the drop-in only at daemon-reload.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ.get("DCP_FAKE_UNIT", "."))
PID, LOADED = FOLDER / "pid", FOLDER / "loaded"


def main() -> int:
    """Runs one of systemctl's commands."""
    verb = sys.argv[1]
    with (FOLDER / "log").open("a") as log:
        log.write(" ".join(sys.argv[1:]) + "\n")
    if verb == "daemon-reload":
        drop_in = FOLDER / "dcp-daemon.service.d" / "trial.conf"
        text = drop_in.read_text() if drop_in.exists() else ""
        LOADED.write_text(next(iter(re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)), ""))
    elif verb in ("restart", "stop"):
        _stop()
        if verb == "restart":
            _start()
    elif verb == "is-active":
        sys.stdout.write("active\n" if _runs() else "inactive\n")
    elif verb == "is-failed":
        sys.stdout.write("inactive\n" if _runs() else "failed\n")
    return 0


def _start() -> None:
    trial = LOADED.read_text() if LOADED.exists() else ""
    command = shlex.split(trial or (FOLDER / "command").read_text())
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    PID.write_text(str(process.pid))


def _runs() -> bool:
    # This process ends before its child, so the child is adopted and reaped by another process.
    try:
        state = Path(f"/proc/{int(PID.read_text())}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z"


def _stop() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 2
        while _runs() and time.monotonic() < deadline:
            os.kill(int(PID.read_text()), number)
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
