"""The benchmarks' processes: starts the installed programs, and always ends them.

Every process gets its own environment and writes to files in a temporary folder. CPU seconds and resident
memory are read from the operating system.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
LOOK_SECONDS = 0.005
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class BenchError(Exception):
    """A benchmark cannot continue; the message is for a person."""


class PartTimeout(KeyboardInterrupt):
    """A part of the bench has reached its deadline."""


def say(text: str) -> None:
    """Prints a line of progress to stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises PartTimeout in the main thread, wherever it is then, once the block has taken that long."""

    def interrupt(*_: object) -> None:
        raise PartTimeout(f"did not end within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def raise_open_files(needed: int) -> None:
    """Raises the soft limit of open files, for this process and its children. Raises BenchError."""
    limit = raise_file_limit()
    if needed > limit:
        raise BenchError(
            f"{needed:,} open files are needed, and the limit is {limit:,}; "
            "raise it (ulimit -n), or choose a smaller size"
        )


class Program:
    """One process that the benchmark started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.name = name
        self.process = process
        self.started = time.monotonic()
        self._output = output
        self._errors = errors
        self._system = psutil.Process(process.pid)

    @property
    def cpu_seconds(self) -> float:
        """The user and system time that it and its child processes have used."""
        return sum(_cpu_seconds(process) for process in (self._system, *self._children()))

    @property
    def rss_bytes(self) -> int:
        """Its current resident memory."""
        return int(self._system.memory_info().rss)

    def wait_for(self, pattern: str, timeout_seconds: float = READY_SECONDS) -> str:
        """Waits until the output matches the pattern; returns its first group. Raises BenchError."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            if found := re.search(
                pattern, self._output.read_text(errors="replace", encoding="utf-8"), re.MULTILINE
            ):
                return found[1]
            if ended:
                break
            time.sleep(LOOK_SECONDS)
        raise BenchError(f"{self.name} did not print {pattern!r}:\n{self.last_words()}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_seconds: float) -> None:
        """Waits for its end. Raises BenchError if it does not end in time."""
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(
                f"{self.name} did not end within {timeout_seconds:.0f} s:\n{self.last_words()}"
            ) from None

    def check_running(self) -> None:
        """Raises BenchError if the program has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self.process.returncode}:\n{self.last_words()}")

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return self._errors.read_text(errors="replace", encoding="utf-8")

    def last_words(self) -> str:
        """The last 20 lines of its output."""
        text = self._output.read_text(errors="replace", encoding="utf-8") + self.errors
        return "\n".join(text.splitlines()[-20:]) or "(it wrote nothing)"

    def end(self) -> None:
        """Ends it with SIGTERM, and with SIGKILL if it does not end in time; then ends what it has left."""
        if self.process.poll() is None:
            children = self._children()
            self.process.terminate()
            try:
                self.process.wait(TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"{self.name} did not end within {TERMINATE_SECONDS:.0f} s of SIGTERM; killing it")
                self.process.kill()
                self.process.wait(TERMINATE_SECONDS)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    def _children(self) -> list[psutil.Process]:
        try:
            return self._system.children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def own_cpu_seconds() -> float:
    """The user and system time that this process has used."""
    return time.process_time()


def cpu_seconds_of(programs: Iterable[Program]) -> float:
    """The user and system time that all of these have used."""
    return sum(program.cpu_seconds for program in programs)


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
        # A second Ctrl-C or the deadline would interrupt this, and leave processes.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTIONS}
        try:
            for program in reversed(self._running):
                program.end()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def start(
        self, name: str, command: Sequence[str | Path], variables: Mapping[str, str], executable: str = ""
    ) -> Program:
        """Starts a program in its own session, so that Ctrl-C in the terminal does not end it first.

        ``executable``: the file to run, if the program is called by another name than its file's.
        """
        output, errors = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [str(part) for part in command],
                executable=executable or None,
                env=environment(variables),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        program = Program(name, process, output, errors)
        self._running.append(program)
        return program


@contextlib.contextmanager
def workplace() -> Iterator[Programs]:
    """Programs with a temporary folder; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="dcp-bench-") as folder, Programs(Path(folder)) as programs:
        yield programs


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its DCP settings, plus ``variables``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DCP_")}
    return own | {"PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1"} | dict(variables)
