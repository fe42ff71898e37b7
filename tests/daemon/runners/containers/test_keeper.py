"""The keeper's program: it ends on time, on each kind of processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from daemon.runners.containers import keeper

EMULATORS = {"x86_64": "qemu-x86_64-static", "aarch64": "qemu-aarch64-static"}


def runnable(architecture: str, content: bytes, folder: Path) -> list[str]:
    """A command that runs the program, with an emulator if it is for another processor."""
    command = []
    if platform.machine() != architecture:
        emulator = shutil.which(EMULATORS[architecture])
        if emulator is None:
            pytest.skip(
                f"this processor is no {architecture}, and {EMULATORS[architecture]} is not installed"
            )
        command = [emulator]
    program = folder / "keeper"
    program.write_bytes(content)
    program.chmod(0o755)
    return [*command, str(program)]


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_program_ends_after_its_time(tmp_path: Path, architecture: str) -> None:
    command = runnable(architecture, keeper.program(architecture, 1), tmp_path)
    began = time.monotonic()
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_program_without_a_time_ends_with_its_standard_input(tmp_path: Path, architecture: str) -> None:
    command = runnable(architecture, keeper.program(architecture, None), tmp_path)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(60) == 0


def test_time_limit_of_days_is_possible() -> None:
    assert len(keeper.program("amd64", 1440 * 60 + 120)) == len(keeper.program("amd64", 1))


def test_unknown_processor_has_no_program() -> None:
    assert "riscv64" not in keeper.ARCHITECTURES
    with pytest.raises(KeyError):
        keeper.program("riscv64", 1)
