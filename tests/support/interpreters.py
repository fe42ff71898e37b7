"""Finds the Python interpreters of this machine that the client's wheel may run on, and installs it there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

OLDEST = (3, 9)
"""What `requires-python` of the client's wheel says."""
_NEWEST_LOOKED_FOR = 20
_VERSIONS = Path.home() / ".pyenv" / "versions"


@cache
def interpreters() -> tuple[Path, ...]:
    """One of each version, the oldest first: on the path, of pyenv, and the one that runs the tests."""
    found: dict[tuple[int, int], Path] = {}
    for minor in range(OLDEST[1], _NEWEST_LOOKED_FOR):
        name = f"python3.{minor}"
        on_path = shutil.which(name)
        for path in [
            *([Path(on_path)] if on_path else []),
            *sorted(_VERSIONS.glob(f"3.{minor}.*/bin/{name}")),
        ]:
            if path.is_file() and _version(path) == (3, minor):
                found.setdefault((3, minor), path)
    found.setdefault(sys.version_info[:2], Path(sys.executable))
    return tuple(found[version] for version in sorted(found))


def installed(python: Path, place: Path, *wanted: str) -> Path:
    """A new virtual environment with these packages; returns its folder of programs.

    Skips if pip gets them nowhere; packages that do not go together are a fault of what the wheel asks for.
    """
    # Its own pip: that of another version of Python may not run on it.
    subprocess.run([str(python), "-m", "venv", "--symlinks", str(place)], check=True)
    programs = place / "bin"
    pip = [
        str(programs / "python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
        *wanted,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "ResolutionImpossible" not in done.stderr, done.stderr
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        pytest.skip(f"pip reached no registry with what the wheel needs: {said}")
    return programs


def _version(python: Path) -> tuple[int, ...]:
    # One of pyenv that is not chosen only says so. A virtual environment needs the module venv.
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return tuple(map(int, re.findall(r"\d+", done.stdout)))
