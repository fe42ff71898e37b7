"""Runs the project's tools, as a developer would, on the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("server", "gateway", "daemon", "wire")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a program of the virtual environment, or Python itself; output and exit status come back."""
    program, *arguments = command
    found = BIN / program
    return subprocess.run(
        [str(found), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


def assert_passes(*command: str | Path, cwd: Path = ROOT) -> None:
    """The program must end well; what it said is shown where it did not."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def sources(*folders: str) -> list[Path]:
    """All Python files in these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    """The name that a file is imported by; a package's is that of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tracked_files() -> list[Path]:
    """The files of the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listed.stdout.decode().rstrip("\0").split("\0")
    return [ROOT / name for name in names if (ROOT / name).is_file()]
