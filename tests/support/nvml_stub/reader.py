"""Reads the GPUs through the daemon's own code, for the tests with the stub.

Each argument is a script and produces a line of JSON: the status, what was
detected, and how many warnings there have been. In a script `SELF`, `CHILD` and `PARENT`
stand for the ids of this process, of its child and of its parent.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from daemon.machine.gpus.nvml import NvmlGpus


class Counter(logging.Handler):
    """Counts warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Counts a warning."""
        self.count += record.levelno >= logging.WARNING


def main() -> None:
    """Reads the GPUs once per script."""
    counter = Counter()
    logging.getLogger().addHandler(counter)
    script = Path(os.environ["NVIDIA_STUB_SCRIPT"])
    gpus = None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    pids = {"SELF": os.getpid(), "CHILD": child.pid, "PARENT": os.getppid()}
    for stage in sys.argv[1:]:
        for name, pid in pids.items():
            stage = stage.replace(name, str(pid))
        script.write_text(stage + "\n")
        gpus = gpus or NvmlGpus()
        status = MessageToDict(gpus.read(), preserving_proto_field_name=True)
        line = {
            "status": status,
            "name": "none" if gpus.reason else "nvml",
            "reason": gpus.reason,
            "warnings": counter.count,
        }
        sys.stdout.write(json.dumps(line) + "\n")
    if gpus is not None:
        gpus.close()
    child.communicate(b"\n")


if __name__ == "__main__":
    main()
