"""The gpus port through a process of its own: a driver that hangs or crashes must not harm the daemon.

Each reading has a deadline. A process that does not answer in time, or that ends, is replaced, later and
later while that goes on. It must not know NVML.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dcp.v1 import gpus_pb2

from common import documents
from daemon.machine.gpus import Gpus
from daemon.machine.gpus.none import machine_status
from daemon.machine.gpus.processes import OwnPids, no_others

logger = logging.getLogger(__name__)

# The first reading of a process initializes the driver, which takes seconds where nothing keeps it loaded.
FIRST_SECONDS = 30.0
NEXT_SECONDS = 15.0
# How soon a library that is missing, or that does not fit the driver, is looked for again.
LOOK_SECONDS = 60.0
MAX_BACKOFF_SECONDS = 60.0
# After so many good readings of one process, the earlier ones that broke are forgotten.
GOOD_READINGS = 6
KILL_SECONDS = 1.0
_MAX_HEAD_BYTES = 1 << 20
# -P: the folder that the daemon was started in must not shadow its modules.
_COMMAND = (sys.executable, "-P", "-m", "daemon.machine.gpus.nvml_child")


class _BrokenError(Exception):
    """The process did not answer; the text says why."""


class _LateError(_BrokenError):
    """The process did not answer in time: its driver hangs, or the machine is very busy."""

    def __init__(self) -> None:
        super().__init__("it does not answer in time")


@dataclass(frozen=True)
class _Answer:
    """What the process said."""

    status: gpus_pb2.GpuStatus
    reason: str
    is_stale: bool
    log: Sequence[tuple[int, str]]


class WatchedGpus:
    """The GPUs as a process of its own reads them. One thread reads; any may close."""

    def __init__(
        self,
        own_pids: OwnPids = no_others,
        *,
        environment: Mapping[str, str],
        first_seconds: float = FIRST_SECONDS,
        next_seconds: float = NEXT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own_pids`: the daemon's processes that do not descend from it, as those of containers.

        `environment`: all that the environment of the process holds.
        """
        self.is_late = False
        """The driver did not answer in time at the last reading, as one that hangs."""
        self.reason = ""
        """Why the last reading has no GPU that answers; empty when it has."""
        self._own_pids = own_pids
        self._environment = dict(environment)
        self._seconds = first_seconds, next_seconds
        self._monotonic = monotonic
        self._child: _Child | None = None
        self._ended: list[_Child] = []
        self._not_before = float("-inf")
        self._failures = 0
        self._has_answered = False
        self._renews = False
        self._closing = threading.Lock()
        self._is_closed = self._is_reading = False

    def read(self) -> gpus_pb2.GpuStatus:
        """Facts and a fresh sample; after a while, at the latest, what is known without the driver."""
        self._reap()
        if self._is_closed or self._monotonic() < self._not_before:
            return self._without_driver()
        self._is_reading = True
        try:
            return self._take(self._ask())
        except Exception as error:
            self._broke(str(error) or type(error).__name__, is_late=isinstance(error, _LateError))
            return self._without_driver()
        finally:
            self._is_reading = False
            if self._is_closed:
                self._reap()

    def renew(self) -> None:
        """The next reading that its process answers has the container toolkit of now. From any thread."""
        self._renews = True

    def close(self) -> None:
        """Kills the process and ends a reading that waits for it, in whatever thread."""
        with self._closing:
            self._is_closed = True
            self._end_child()

    def _ask(self) -> _Answer:
        with self._closing:
            if self._is_closed:
                raise _BrokenError("the daemon ends")
            child = self._child = self._child or _Child(self._environment)
        first, following = self._seconds
        # A process that breaks is replaced, and the new one has kept nothing.
        renews, self._renews = self._renews, False
        request = {"own_pids": [os.getpid(), *self._own_pids()], "renews": renews}
        answer = child.ask(request, following if child.readings else first)
        if child.readings >= GOOD_READINGS:
            self._failures = 0
        return answer

    def _take(self, answer: _Answer) -> gpus_pb2.GpuStatus:
        for level, line in answer.log:
            logger.log(level, "%s", line)
        self.reason, self.is_late = answer.reason, False
        if answer.is_stale:
            self._not_before = self._monotonic() + LOOK_SECONDS
            with self._closing:
                self._end_child()
        if not answer.reason:
            self._has_answered = True
        # A process that replaced another does not know that the driver answered before.
        return self._without_driver() if answer.reason else answer.status

    def _broke(self, reason: str, *, is_late: bool) -> None:
        self.is_late = is_late
        self.reason = f"the NVIDIA driver cannot be read: {reason}"
        delay = min(MAX_BACKOFF_SECONDS, 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._not_before = self._monotonic() + delay
        with self._closing:
            self._end_child()

    def _without_driver(self) -> gpus_pb2.GpuStatus:
        status = machine_status()
        # A driver that hangs from its first reading has GPUs, whatever they are.
        if self._has_answered or self.is_late:
            status.driver_lost = True
        else:
            status.gpu_count = 0
        return status

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            self._ended.append(child)
            if not (self._is_closed and self._is_reading):
                self._reap()

    def _reap(self) -> None:
        """Forgets the processes that have ended, and waits for none: inside the kernel no signal ends one."""
        self._ended = [child for child in self._ended if not child.has_ended()]


class _Child:
    """The process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts it. Raises _BrokenError."""
        pipe = subprocess.PIPE
        try:
            # In a session of its own, so that Ctrl-C at the daemon's terminal is the daemon's alone.
            self._process = subprocess.Popen(
                _COMMAND, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True, env=environment
            )
        except OSError as error:
            raise _BrokenError(f"no process can be started: {error.strerror}") from None
        self._woken, self._wake = os.pipe()
        self._rest = b""
        self.readings = 0
        """How many readings it has given."""

    def ask(self, request: Mapping[str, object], seconds: float) -> _Answer:
        """One reading. Raises _BrokenError."""
        assert self._process.stdin is not None
        until = time.monotonic() + seconds
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except (OSError, ValueError):
            raise self._gone() from None
        while b"\n" not in self._rest and len(self._rest) < _MAX_HEAD_BYTES:
            self._more(until)
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            head = documents.parse_object(line, _MAX_HEAD_BYTES)
        except documents.DocumentError as error:
            raise _BrokenError(f"its process answers nonsense: {error}") from None
        while len(self._rest) < head["bytes"]:
            self._more(until)
        status = gpus_pb2.GpuStatus.FromString(self._rest[: head["bytes"]])
        self._rest = self._rest[head["bytes"] :]
        self.readings += 1
        return _Answer(status, head["reason"], head["stale"], head["log"])

    def kill(self) -> None:
        """Kills it, and ends a reading in another thread. Waits no longer than a moment."""
        os.write(self._wake, b"x")
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)

    def has_ended(self) -> bool:
        """Whether it has ended; its pipes are closed then. From the reading thread, or when none reads."""
        if self._process.poll() is None:
            return False
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        os.close(self._woken)
        os.close(self._wake)
        return True

    def _more(self, until: float) -> None:
        assert self._process.stdout is not None
        answers = self._process.stdout.fileno()
        ready, _, _ = select.select([answers, self._woken], [], [], max(0.0, until - time.monotonic()))
        if self._woken in ready:
            raise _BrokenError("the daemon ends")
        if not ready:
            raise _LateError
        piece = os.read(answers, 65536)
        if not piece:
            raise self._gone()
        self._rest += piece

    def _gone(self) -> _BrokenError:
        try:
            status = self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return _BrokenError("its process gave up")
        if status < 0:
            return _BrokenError(f"its library crashed with {signal.Signals(-status).name}")
        return _BrokenError(f"its process ended with status {status}")


def detect(environment: Mapping[str, str], own_pids: OwnPids = no_others) -> Gpus:
    """The GPUs of this machine, now or as soon as its driver is there.

    `environment`: that of the process which reads them; no key of the daemon's may be in it. `own_pids`: the
    first processes of the daemon's containers, which do not descend from it.
    """
    return WatchedGpus(own_pids, environment=environment)
