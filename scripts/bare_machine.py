"""Owns a fresh Debian in a folder, with systemd as its first process and this machine's network.

It needs root, debootstrap and systemd-nspawn. It must not know what is tested on the machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

PACKAGES = "systemd,systemd-sysv,dbus"
BOOT_SECONDS = 60.0
STOP_SECONDS = 60.0
SETTLE_SECONDS = 2.0
COMMAND_SECONDS = 600.0
_NAME = f"dcp-try-{os.getpid()}"
_IN_GROUP = 'echo $$ > "$0"; exec "$@"'
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MachineError(Exception):
    """The machine could not be created or started, or a command on it failed. The text has the reason."""


class BareMachine:
    """A machine in a folder. Leaving the `with` block shuts it down and removes it."""

    def __init__(self, folder: Path, environ: Mapping[str, str], *, keep: bool = False) -> None:
        """`environ`: variables for every command on it. `keep`: whether the folder stays after the end."""
        self.folder = folder
        self._environ = dict(environ)
        self._keep = keep
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._first: psutil.Process | None = None
        self._group = _own_group()

    def make(self, suite: str, base: Path | None) -> None:
        """Fills the folder with a copy of `base`, or with debootstrap. Raises MachineError."""
        if base is not None:
            _do("cp", "-a", "--reflink=auto", f"{base}/.", str(self.folder))
        else:
            _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(self.folder))

    def boot(self) -> None:
        """Starts the machine and waits until systemd has started all units. Raises MachineError."""
        command = ["systemd-nspawn", "--quiet", f"--directory={self.folder}", f"--machine={_NAME}", "--boot"]
        # bpf: systemd needs it to deny services access to devices, as on a real machine.
        command += ["--register=no", "--console=read-only", "--system-call-filter=bpf"]
        if self._group is not None:
            # Without systemd on this machine, the group is created here: two machines in the same group
            # would end each other's services.
            self._group.mkdir(exist_ok=True)
            command = ["sh", "-c", _IN_GROUP, str(self._group / "cgroup.procs"), *command, "--keep-unit"]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                command,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._wait_for_boot()

    def reboot(self) -> None:
        """Restarts the machine with systemctl reboot."""
        before = self._first
        self._inside("systemctl", "reboot")
        assert before is not None
        psutil.wait_procs([before], timeout=STOP_SECONDS)
        time.sleep(SETTLE_SECONDS)
        # On some hosts the machine ends instead of restarting.
        if self._nspawn is not None and self._nspawn.poll() is not None:
            self.boot()
        else:
            self._wait_for_boot()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as the machine's root, under its systemd. Raises MachineError if it fails."""
        settings = [f"--setenv={name}={text}" for name, text in self._environ.items()]
        done = self._inside("systemd-run", "--quiet", "--pipe", "--wait", "--collect", *settings, *command)
        if check and done.returncode:
            output = (done.stdout + done.stderr).strip()[-2000:]
            raise MachineError(f"{' '.join(command)}: exit status {done.returncode}:\n{output}")
        return done

    def path(self, inside: str) -> Path:
        """The path on this machine of a file inside the machine."""
        return self.folder / inside.lstrip("/")

    def close(self) -> None:
        """Shuts the machine down, and removes its folder unless `keep` was set."""
        if self._nspawn is not None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn = None
        _remove_group(self._group)
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._console.unlink(missing_ok=True)

    def __enter__(self) -> BareMachine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _console(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.console")

    def _wait_for_boot(self) -> None:
        self._first, state = None, "it did not start"
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._nspawn is not None and self._nspawn.poll() is None:
            self._first = self._find_first()
            if self._first is not None:
                state = self._inside("systemctl", "is-system-running").stdout.strip()
                if state in ("running", "degraded"):
                    break
            time.sleep(0.2)
        if state != "running":
            failed = (
                self._inside("systemctl", "--failed", "--no-legend", "--plain").stdout if self._first else ""
            )
            console = self._console.read_text(errors="replace", encoding="utf-8")[-2000:]
            raise MachineError(f"the machine is not running: {state}\n{failed}{console}")

    def _find_first(self) -> psutil.Process | None:
        assert self._nspawn is not None
        try:
            children = psutil.Process(self._nspawn.pid).children()
            return next((child for child in children if child.name() == "systemd"), None)
        except psutil.NoSuchProcess:
            return None

    def _inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        if self._first is None:
            raise MachineError("the machine is not running")
        enter = ["nsenter", f"--target={self._first.pid}", *_NAMESPACES, "env", "-i", _PATH, "LANG=C.UTF-8"]
        try:
            return subprocess.run(
                [*enter, *command],
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise MachineError(f"{' '.join(command)} took more than {COMMAND_SECONDS:.0f} s") from None


def _own_group() -> Path | None:
    """The control group for the machine; None if systemd is running here, because it creates one."""
    if Path("/run/systemd/system").is_dir():
        return None
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
    roots = _group_roots("cgroup2", "")
    if not roots or own is None:
        raise MachineError("this kernel has no unified control groups mounted")
    return Path(roots[0], own[1], _NAME)


def _group_roots(kind: str, option: str) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return [Path(fields[1]) for fields in mounts if fields[2] == kind and option in fields[3]]


def _remove_group(group: Path | None) -> None:
    """Removes the machine's group, and the group that systemd-nspawn created in the older hierarchy."""
    if group is None:
        return
    for top in (group, *(root / _NAME for root in _group_roots("cgroup", "name=systemd"))):
        folders = [top, *(path for path in top.rglob("*") if path.is_dir())] if top.exists() else []
        for folder in sorted(folders, reverse=True):
            folder.rmdir()


def _do(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        raise MachineError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-2000:]}")
