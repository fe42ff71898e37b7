"""Owns the folder that the daemon is installed in: one virtual environment a version, and which is current.

    ROOT/versions/1.4.0/     a virtual environment; `.complete` in it is written last
    ROOT/current             a link to one of them, and always to one that was ready once

Whatever moment the power fails in, `current` names a whole version: it changes by
one rename, and only to what is complete. It must not know signatures or processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.machine import durable

PIP_SECONDS = 900.0
_COMPLETE = ".complete"


class InstallationError(Exception):
    """A version cannot be installed; the text says why and what helps."""


class Installation:
    """One such folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "current"

    @classmethod
    def of_this_process(cls) -> Installation:
        """The one that this program runs from. Raises InstallationError when it is another kind."""
        folder = Path(sys.prefix).resolve()
        root = folder.parent.parent
        if folder.parent.name != "versions" or not (root / "current").is_symlink():
            raise InstallationError(
                f"{folder} was not created by scripts/install-daemon: update it in the way it was installed, "
                "or name the installation with --root"
            )
        return cls(root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other update out. Raises InstallationError."""
        try:
            descriptor = os.open(self.root / "update.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstallationError(
                f"{self.root} cannot be written ({error.strerror}): run it as root"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InstallationError("another update is at work") from None
        else:
            yield
        finally:
            os.close(descriptor)

    def folder(self, version: str) -> Path:
        """Where a version is, or would be."""
        return self.root / "versions" / version

    def program(self, version: str) -> Path:
        """A version's `dcp-daemon`."""
        return self.folder(version) / "bin" / "dcp-daemon"

    @property
    def current_version(self) -> str:
        """The version that `current` names; empty: none yet."""
        return self.current.readlink().name if self.current.is_symlink() else ""

    def has(self, version: str) -> bool:
        """Whether a version is here as a whole."""
        return (self.folder(version) / _COMPLETE).exists()

    def install(self, version: str, wheel_name: str, wheel: bytes, extras: str) -> None:
        """Creates a version's virtual environment, beside the others. Raises InstallationError."""
        if self.has(version):
            return
        folder = self.folder(version)
        # What lies there was begun and not finished.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._build(folder, wheel_name, wheel, extras)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not self.program(version).exists():
            shutil.rmtree(folder, ignore_errors=True)
            raise InstallationError(f"{wheel_name} brings no dcp-daemon")
        # All of the file system: one by one, thousands of files would take longer.
        os.sync()
        (folder / _COMPLETE).touch()
        durable.sync(folder)
        durable.sync(folder.parent)

    def switch(self, version: str) -> None:
        """Makes a version the current one: before it returns, or not at all."""
        if not self.has(version):
            raise InstallationError(f"{version} is not installed as a whole")
        link = self.root / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("versions", version))
        link.replace(self.current)
        durable.sync(self.root)

    def remove(self, version: str) -> None:
        """Removes a version that is not the current one."""
        assert version != self.current_version
        shutil.rmtree(self.folder(version), ignore_errors=True)

    def remove_others(self, *kept: str) -> None:
        """Removes every version but the current one and those that are named."""
        for folder in (self.root / "versions").iterdir():
            if folder.name not in {*kept, self.current_version}:
                shutil.rmtree(folder, ignore_errors=True)

    def _build(self, folder: Path, wheel_name: str, wheel: bytes, extras: str) -> None:
        folder.parent.mkdir(exist_ok=True)
        # Root installs what the service's user runs.
        folder.parent.chmod(0o755)
        _run("make a virtual environment", sys.executable, "-m", "venv", str(folder))
        file = folder / wheel_name
        file.write_bytes(wheel)
        pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input")
        _run(f"install {wheel_name}", *pip, "install", "--quiet", f"{file}{extras}")
        file.unlink()


def pip_install(what: str) -> str:
    """The command that adds a package to the environment of this very program."""
    return f"{sys.executable} -m pip install {what}"


def _run(what: str, *command: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_SECONDS,
            check=False,
            umask=0o022,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired:
        raise InstallationError(f"could not {what} within {PIP_SECONDS:.0f} s") from None
    if done.returncode:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise InstallationError(f"could not {what}:\n{words}")
