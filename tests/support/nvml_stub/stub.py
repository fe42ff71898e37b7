"""Builds the stub and runs code against it, in a process that is started with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("nvml_stub.c")
_ROOT = Path(__file__).parents[3]

RTX_4090 = "device GPU-aaaa NVIDIA_GeForce_RTX_4090 24564 20000 4564 42 55 120500 8 9"
A100 = "device GPU-bbbb NVIDIA_A100-SXM4-80GB 81920 81000 920 0 33 60000 8 0"

# Its driver has no memory to report: it answers NotSupported or zeros.
GB10 = "device GPU-cccc NVIDIA_GB10 0 0 0 5 41 9100 12 1"


def build(folder: Path, *flags: str) -> Path:
    """Compiles the stub into a folder for LD_LIBRARY_PATH."""
    gcc = shutil.which("gcc")
    assert gcc, "gcc is missing: run scripts/setup"
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([gcc, "-shared", "-fPIC", "-Wall", "-Werror", *flags, "-o", library, _SOURCE], check=True)
    return folder


@dataclass(frozen=True)
class Machine:
    """A machine with scripted GPUs."""

    library: Path
    script: Path

    path: str = os.environ.get("PATH", "")
    """The PATH of the process."""

    def environment(self) -> dict[str, str]:
        """The environment variables with which a process sees the GPUs."""
        return os.environ | {
            "PATH": self.path,
            "LD_LIBRARY_PATH": str(self.library),
            "NVIDIA_STUB_SCRIPT": str(self.script),
            "PYTHONWARNINGS": "error",
        }

    def run(self, *stages: str) -> list[dict[str, Any]]:
        """Reads the GPUs once per stage, after replacing the script; see `reader.py`."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.nvml_stub.reader", *stages],
            env=self.environment(),
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]
