"""Runs a Python command many times as a process of its own, and loads its modules once.

Most of the processor time of a short command is the import of its modules. A process with these modules
forks for each run. The run has its own arguments, environment, folder and streams, and ends as the
interpreter ends: so only what reads the environment at import cannot be tested here.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_FDS = 4  # standard input, output and error, and the pipe for the process id and the status
_MOST_BYTES = 1 << 20
# What the interpreter or the C library has read before a fork.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")


class WarmCommand:
    """Runs the function ``main`` of a module.

    ``environ``: that of the process that forks; ``options``: those of its interpreter.
    """

    def __init__(self, name: str, module: str, environ: Mapping[str, str], options: Sequence[str]) -> None:
        self._name = name
        self._start = _read_at_start(environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *options, "-m", __name__, module, str(theirs.fileno())],
                env=environ,
                cwd=Path(__file__).parents[2],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def can_run(self, environ: Mapping[str, str]) -> bool:
        """Whether a run with this environment is the same as one that starts an interpreter."""
        return _read_at_start(environ) == self._start

    def run(
        self, arguments: Sequence[str], stdin: str, environ: Mapping[str, str], folder: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command until it ends. Raises TimeoutExpired."""
        command = [self._name, *arguments]
        order = json.dumps([command, dict(environ), str(folder)]).encode()
        assert len(order) < _MOST_BYTES
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(stdin.encode())
            given.seek(0)
            reports, theirs = os.pipe()
            try:
                files = [given.fileno(), out.fileno(), err.fileno(), theirs]
                head = len(order).to_bytes(4, "big")
                socket.send_fds(self._socket, [head], files)
                self._socket.sendall(order)
            finally:
                os.close(theirs)
            with os.fdopen(reports, "rb", buffering=0) as report:
                status = self._status(report, command, timeout)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess(command, status, *texts)

    def _status(self, report: Any, command: Sequence[str], timeout: float) -> int:
        deadline, lines = time.monotonic() + timeout, b""
        while lines.count(b"\n") < 2:
            if not select.select([report], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if lines:
                    os.kill(int(lines.split(b"\n")[0]), signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout)
            piece = report.read(100)
            assert piece, "the process that forks has ended"
            lines += piece
        return int(lines.split(b"\n")[1])

    def close(self) -> None:
        """Ends the process that forks."""
        self._socket.close()
        self._process.wait()


@cache
def warm_command(
    name: str, module: str, environ: tuple[tuple[str, str], ...], options: tuple[str, ...] = ()
) -> WarmCommand:
    """The command of this test process, which ends with it."""
    command = WarmCommand(name, module, dict(environ), options)
    atexit.register(command.close)
    return command


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_READ_AT_START)}


def _serve(orders: socket.socket) -> None:
    """Forks for each order. Returns only in the process of a run, which is to call ``main``."""
    while True:
        head, files, _, _ = socket.recv_fds(orders, 4, _FDS)
        if not head:
            os._exit(0)
        order = b""
        while len(order) < int.from_bytes(head, "big"):
            order += orders.recv(int.from_bytes(head, "big") - len(order))
        first = os.fork()
        if not first:
            orders.close()
            command, environ, folder = json.loads(order)
            _begin(command, environ, folder, files)
            return
        os.waitpid(first, 0)
        for file in files:
            os.close(file)


def _begin(command: list[str], environ: dict[str, str], folder: str, files: list[int]) -> None:
    """Prepares a run in a process of its own, and reports its id and later its status to the last file."""
    reports = files[3]
    if os.fork():
        os._exit(0)  # so that the process that forks does not wait for the run
    if run := os.fork():
        os.write(reports, f"{run}\n".encode())
        _, status = os.waitpid(run, 0)
        os.write(reports, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    time.tzset()
    sys.argv = command


def _main() -> int:
    module = importlib.import_module(sys.argv[1])
    package = importlib.import_module(sys.argv[1].rpartition(".")[0])
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[2])))
    status: int = module.main()
    return status


if __name__ == "__main__":
    sys.exit(_main())
