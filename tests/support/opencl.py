"""Whether OpenCL runs on this machine's processor, which plays a GPU in tests."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

import pytest

_BUILD = (
    "import pyopencl; "
    "context = pyopencl.create_some_context(interactive=False); "
    "pyopencl.Program(context, 'kernel void one(global int *a) { a[0] = 1; }').build()"
)


def needs_opencl() -> None:
    """Skips the test where no kernel can be built: pocl's compiler must know the processor."""
    if why := _missing():
        pytest.skip(f"OpenCL cannot build a kernel for this processor: {why}")


@functools.cache
def _missing() -> str:
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PYOPENCL_CTX": "0", "POCL_CACHE_DIR": folder}
        built = subprocess.run(
            [sys.executable, "-c", _BUILD],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    errors = [line.strip() for line in built.stderr.splitlines() if "error:" in line]
    return "" if built.returncode == 0 else (errors or built.stderr.splitlines() or ["no OpenCL"])[-1]
