"""Runs the project's tools on the repository, as a developer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PRODUCT = ("server", "gateway", "market", "daemon", "common")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a program of the virtual environment, or Python itself; returns its output and exit status."""
    program, *arguments = command
    found = BIN / program
    return subprocess.run(
        [str(found), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


def assert_passes(*command: str | Path, cwd: Path = ROOT) -> None:
    """Asserts that the program succeeds; shows its output if it fails."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def sources(*folders: str) -> list[Path]:
    """All Python files in these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    """The name under which a file is imported; for a package, the name of its folder."""
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
