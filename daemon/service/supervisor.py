"""Who starts and ends the daemon on this machine: systemd, or the update itself.

An update tries a version before it becomes the current one. Under systemd that
is a drop-in below /run, which a restart of the machine forgets; without it, the
update starts the new version as a process of its own. It must not know releases.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from daemon.cli import control
from daemon.service import unit

UNIT = unit.NAME
STOP_SECONDS = 60.0
SYSTEMCTL_SECONDS = 150.0
KILL_SECONDS = 5.0


class SupervisorError(Exception):
    """The daemon could not be started or ended; the text says why."""


class Supervisor(Protocol):
    """Starts and ends the one daemon of this machine."""

    def is_running(self) -> bool:
        """Whether one is wanted to run now."""
        ...

    def try_version(self, program: Path) -> None:
        """Ends what runs, after its drain, and starts this program in its place, for the time being."""
        ...

    def settle(self) -> None:
        """What is current is what runs: forget the trial, interrupt nothing."""
        ...

    def go_back(self) -> None:
        """Ends the trial and starts what is current."""
        ...

    def stop(self) -> None:
        """Ends what runs: none did before."""
        ...

    def has_ended(self) -> bool:
        """Whether the program that was tried has ended by itself already."""
        ...


class Systemd:
    """The unit of `dcp-daemon unit`."""

    def __init__(
        self,
        config_flags: Sequence[str],
        *,
        runtime: Path = Path("/run/systemd/system"),
        systemctl: str = "systemctl",
    ) -> None:
        self._flags = list(config_flags)
        self.drop_in = runtime / f"{UNIT}.d" / "trial.conf"
        self._systemctl = systemctl

    @staticmethod
    def manages_this_machine() -> bool:
        """Whether systemd runs here and knows the unit."""
        return Path("/run/systemd/system").is_dir() and Path("/etc/systemd/system", UNIT).exists()

    def is_running(self) -> bool:
        """Whether the unit is active, or on its way there."""
        return self._ask("is-active") in ("active", "activating", "reloading")

    def try_version(self, program: Path) -> None:
        """Restarts the unit with this program."""
        command = " ".join([str(program), *self._flags, "run"])
        try:
            self.drop_in.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.drop_in.write_text(
                f"# An update tries a version.\n[Service]\nExecStart=\nExecStart={command}\n",
                encoding="utf-8",
            )
            self.drop_in.chmod(0o644)
        except OSError as error:
            raise SupervisorError(
                f"{self.drop_in} cannot be written ({error.strerror}): run it as root"
            ) from None
        self._do("daemon-reload")
        self._do("restart", UNIT)

    def settle(self) -> None:
        """Forgets the drop-in: the unit's own command leads to the same program now."""
        self.drop_in.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it may hold what others put there
            self.drop_in.parent.rmdir()
        self._do("daemon-reload")

    def go_back(self) -> None:
        """Restarts the unit with its own command."""
        self.settle()
        with contextlib.suppress(SupervisorError):
            self._do("reset-failed", UNIT)
        self._do("restart", UNIT)

    def stop(self) -> None:
        """Stops the unit."""
        self.settle()
        self._do("stop", UNIT)

    def has_ended(self) -> bool:
        """Whether systemd has given it up."""
        return self._ask("is-failed") == "failed"

    def _ask(self, what: str) -> str:
        done = self._run(what, UNIT)
        return done.stdout.strip()

    def _do(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0].rstrip(".")
            raise SupervisorError(f"systemctl {' '.join(arguments)}: {said}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._systemctl, *arguments]
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=SYSTEMCTL_SECONDS,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SupervisorError(f"{' '.join(command)} failed: {type(error).__name__}") from None


class OwnProcess:
    """A daemon without a service manager: found by its socket, started in the background."""

    def __init__(
        self,
        state_dir: Path,
        current: Path,
        config_flags: Sequence[str],
        *,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """`stop_seconds`: how long a daemon may take to drain."""
        self._state_dir = state_dir
        self._current = current
        self._stop_seconds = stop_seconds
        self._flags = list(config_flags)
        self._child: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        """Whether a daemon answers."""
        return self._pid() is not None

    def try_version(self, program: Path) -> None:
        """Ends what runs, after its drain, and starts this program."""
        self._end()
        self._start(program)

    def settle(self) -> None:
        """The child runs on without this process."""

    def go_back(self) -> None:
        """Ends the child, and whatever else runs, and starts the current program."""
        self._end()
        self._start(self._current)

    def stop(self) -> None:
        """Ends what runs."""
        self._end()

    def has_ended(self) -> bool:
        """Whether the child has."""
        return self._child is not None and self._child.poll() is not None

    def _pid(self) -> int | None:
        try:
            return int(control.ask(self._state_dir, "status")["pid"])
        except (control.NotRunningError, KeyError, TypeError, ValueError):
            return None
        except PermissionError:
            raise SupervisorError(f"{self._state_dir} belongs to another user: run it as that user") from None

    def _end(self) -> None:
        pid = self._child.pid if self._child is not None else self._pid()
        if pid is not None:
            _end_process(pid, self._stop_seconds)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def _start(self, program: Path) -> None:
        with (self._state_dir / "daemon.log").open("ab") as log:
            self._child = subprocess.Popen(
                [str(program), *self._flags, "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _end_process(pid: int, patience_seconds: float) -> None:
    """Asks a process to drain, waits, and kills it in the end; a missing process is not an error."""
    try:
        # By descriptor: the number may be another's as soon as the process has ended.
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number, patience in ((signal.SIGTERM, patience_seconds), (signal.SIGKILL, KILL_SECONDS)):
            signal.pidfd_send_signal(descriptor, number)
            if _ends(descriptor, patience):
                return
        raise SupervisorError(f"process {pid} does not end")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _ends(descriptor: int, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            return True
    return False
