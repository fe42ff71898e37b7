"""What the server's programs load, and what they print about a setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Starts the whole program and ends it when it is ready.
SCRIPT = """
import gc, os, signal, sys, threading
import {module}.__main__ as program
class Ended(threading.Thread):
    def run(self):
        import time
        while "server.app" not in sys.modules or not hasattr(sys.modules["server.app"], "Server"):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
Ended(daemon=True).start()
status = program.main([])
loaded = sorted(name for name in ("psycopg", "psycopg_binary") if sys.modules.get(name))
print(status, gc.get_threshold()[0], loaded)
"""


@pytest.mark.parametrize("module", ["server", "market"])
def test_server_on_sqlite_loads_no_driver_of_postgresql_and_collects_garbage_seldom(
    module: str, tmp_path: Path
) -> None:
    settings = {
        "DCP_DATABASE_URL": f"sqlite:///{tmp_path / 'dcp.sqlite3'}",
        "DCP_BLOB_STORE": f"file:{tmp_path / 'blobs'}",
        "DCP_GRPC_LISTEN": "127.0.0.1:0",
        "DCP_HTTP_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings},
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 10000 []", done.stderr


@pytest.mark.parametrize("module", ["server", "market"])
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("DCP_DATABASE_URL", "mysql://h/d", "DCP_DATABASE_URL: write sqlite:///FILE or postgresql://"),
        ("DCP_GRPC_LISTEN", "nowhere", "DCP_GRPC_LISTEN: "),
    ],
)
def test_bad_setting_is_one_line_and_status_2(module: str, name: str, value: str, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DCP_HTTP_LISTEN": "127.0.0.1:0", name: value},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"dcp-{module}: {line}")
    assert done.stderr.count("\n") == 1
