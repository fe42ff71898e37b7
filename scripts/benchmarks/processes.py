"""The benchmarks' processes: starts the installed programs, and always ends them.

Every process gets its own environment and writes to files in a temporary folder. CPU seconds and resident
memory are read from the operating system.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from common.files import raise_file_limit

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
READY_SECONDS = 30.0
TERMINATE_SECONDS = 10.0


class BenchError(Exception):
    """A benchmark cannot continue; the message is for a person."""


def say(text: str) -> None:
    """Prints a line of progress to stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def raise_open_files() -> int:
    """Raises the soft limit of open files to the hard limit, for this process and its children."""
    most = raise_file_limit()
    say(f"open files: the limit is {most:,}")
    return most


class Program:
    """One process that the benchmark started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.name = name
        self._process = process
        self._output = output
        self._errors = errors
        self._system = psutil.Process(process.pid)

    @property
    def cpu_seconds(self) -> float:
        """The user and system time that it has used."""
        times = self._system.cpu_times()
        return float(times.user + times.system)

    @property
    def rss_bytes(self) -> int:
        """Its current resident memory."""
        return int(self._system.memory_info().rss)

    def wait_for(self, pattern: str, timeout_seconds: float = READY_SECONDS) -> str:
        """Waits until the output matches the pattern; returns its first group. Raises BenchError."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            if found := re.search(
                pattern, self._output.read_text(errors="replace", encoding="utf-8"), re.MULTILINE
            ):
                return found[1]
            if ended:
                break
            time.sleep(0.02)
        raise BenchError(f"{self.name} did not print {pattern!r}:\n{self.last_words()}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def check_running(self) -> None:
        """Raises BenchError if the program has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._process.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        """The last 20 lines of its output."""
        text = self._output.read_text(errors="replace", encoding="utf-8") + self._errors.read_text(
            errors="replace", encoding="utf-8"
        )
        return "\n".join(text.splitlines()[-20:]) or "(it wrote nothing)"

    def end(self) -> None:
        """Ends it with SIGTERM, and with SIGKILL if it does not end in time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"{self.name} did not end within {TERMINATE_SECONDS:.0f} s of SIGTERM; killing it")
                self._process.kill()
                self._process.wait(TERMINATE_SECONDS)


@dataclass
class Programs:
    """All processes of one benchmark; leaving the context ends them in reverse order."""

    folder: Path
    _running: list[Program] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in reversed(self._running):
            program.end()

    def start(self, name: str, command: Sequence[str | Path], variables: Mapping[str, str]) -> Program:
        """Starts a program in its own session, so that Ctrl-C in the terminal does not end it first."""
        output, errors = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [str(part) for part in command],
                env=_environment(variables),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        program = Program(name, process, output, errors)
        self._running.append(program)
        return program


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its DCP settings, plus ``variables``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DCP_")}
    return own | {"PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1"} | dict(variables)
