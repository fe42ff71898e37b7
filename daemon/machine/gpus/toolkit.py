"""Owns the question which NVIDIA Container Toolkit is installed. It must not know NVML.

The answer needs a program to be run, so it is asked at the start, at a reload of the settings and once an
hour, never for a sample. A program that is missing costs nothing to look for, and is looked for each minute.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable

ASK_SECONDS = 3600.0
LOOK_SECONDS = 60.0
TIMEOUT_SECONDS = 5.0
# The newer program first: where both are, they are of one release.
_PROGRAMS = ("nvidia-ctk", "nvidia-container-cli")
_VERSION = re.compile(r"version:?\s+v?(\d{1,9}(?:\.\d{1,9}){1,3})", re.IGNORECASE)


class Toolkit:
    """The container toolkit of this machine."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, path: str | None = None) -> None:
        """`path`: where its programs are looked for, as PATH is written; None: there."""
        self._monotonic = monotonic
        self._path = path
        self._asked_at: float | None = None
        self._pause_seconds = ASK_SECONDS
        self._version: str | None = None

    def version(self) -> str | None:
        """Its version, such as `1.14.3`; None if it is missing or does not answer. May block for seconds."""
        if self._asked_at is None or self._monotonic() - self._asked_at >= self._pause_seconds:
            return self.read()
        return self._version

    def forget(self) -> None:
        """The next question is asked anew."""
        self._asked_at = None

    def read(self) -> str | None:
        """The same, asked anew, as when the container engine is tested: an update may have come meanwhile."""
        self._asked_at = self._monotonic()
        programs = [path for name in _PROGRAMS if (path := shutil.which(name, path=self._path))]
        self._pause_seconds = ASK_SECONDS if programs else LOOK_SECONDS
        self._version = next((found for path in programs if (found := _ask(path))), None)
        return self._version


def _ask(path: str) -> str | None:
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stdout[:2000])
    return found[1] if found else None
