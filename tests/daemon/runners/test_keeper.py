"""The keeper's program: it ends when it is to, on each kind of processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from daemon.runners import keeper

EMULATORS = {"x86_64": "qemu-x86_64-static", "aarch64": "qemu-aarch64-static"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_program_ends_after_its_time(tmp_path: Path, architecture: str) -> None:
    command = []
    if platform.machine() != architecture:
        emulator = shutil.which(EMULATORS[architecture])
        if emulator is None:
            pytest.skip(
                f"this processor is no {architecture}, and {EMULATORS[architecture]} is not installed"
            )
        command = [emulator]
    program = tmp_path / "keeper"
    program.write_bytes(keeper.program(architecture, 1))
    program.chmod(0o755)
    began = time.monotonic()
    assert subprocess.run([*command, str(program)], check=False, timeout=60).returncode == 0
    assert time.monotonic() - began >= 1.0


def test_time_of_days_fits() -> None:
    assert len(keeper.program("amd64", 1440 * 60 + 120)) == len(keeper.program("amd64", 1))


def test_unknown_processor_has_none() -> None:
    assert "riscv64" not in keeper.ARCHITECTURES
    with pytest.raises(KeyError):
        keeper.program("riscv64", 1)
