"""The process in which the daemon reads NVML: a request a line in, a reading out, until its input ends.

A request is a JSON object: the daemon's processes, and whether what is kept is read anew. An answer is a line
of JSON and, after it, as many bytes of a GpuStatus as the line says. It must not know who reads them.
A driver that hangs holds this process for at most `ALARM_SECONDS`: the kernel ends it then, also when the
daemon has gone meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import BinaryIO

from common import documents
from daemon.machine.gpus.nvml import NvmlGpus

ALARM_SECONDS = 60


class _Log(logging.Handler):
    """Keeps what is logged for the next answer: the daemon's log has its own form."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.levelno, record.getMessage()))

    def taken(self) -> list[tuple[int, str]]:
        lines, self._lines = self._lines, []
        return lines


def main() -> None:
    """Answers until the input ends."""
    log = _Log()
    logging.basicConfig(level="INFO", handlers=[log])
    answers = own_output()
    own_pids: list[int] = []
    gpus = NvmlGpus(lambda: own_pids)
    for line in sys.stdin.buffer:
        request = documents.parse_object(line)
        own_pids[:] = request["own_pids"]
        if request["renews"]:
            gpus.renew()
        signal.alarm(ALARM_SECONDS)
        status = gpus.read().SerializeToString()
        signal.alarm(0)
        head = {"reason": gpus.reason, "stale": gpus.is_stale, "log": log.taken(), "bytes": len(status)}
        answers.write(json.dumps(head).encode() + b"\n" + status)
        answers.flush()
    gpus.close()


def own_output() -> BinaryIO:
    """The output, for answers alone: what a library prints goes to the errors."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
