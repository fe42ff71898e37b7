"""Clients that real generators make of /openapi.json, by their defaults, against the real programs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.market import UNLIMITED
from tests.support.clustered_market import StartMarket, both_forms
from tests.support.file_daemon import content
from tests.support.lengths import lengths

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FILE_DAEMON = (sys.executable, "-m", "tests.support.file_daemon")
# By name of the program in tests/support/generated_clients: how its client is generated from a document.
GENERATORS = {
    "openapi_python_client": (
        "openapi-python-client",
        "generate",
        "--path",
        "openapi.json",
        *("--output-path", "client", "--overwrite"),
    ),
    "openapi_generator": (
        "openapi-generator-cli",
        "generate",
        "-g",
        "python",
        "-i",
        "openapi.json",
        "-o",
        "client",
    ),
    "datamodel_code_generator": (
        *("datamodel-codegen", "--input", "openapi.json", "--input-file-type", "openapi"),
        *("--output", "client/dcp_models.py"),
    ),
}

pytestmark = pytest.mark.e2e


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """The output of a program that must succeed."""
    path = f"{BIN}:/usr/bin:/bin"
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@both_forms
@lengths("generators", short=("openapi_python_client",), full=tuple(GENERATORS))
def test_generated_clients_register_submit_read_and_download(
    start_market: StartMarket, tmp_path: Path, generators: tuple[str, ...]
) -> None:
    settings = {**UNLIMITED, "DCP_SANDBOX_TOPUP": "true"}
    with start_market(
        tmp_path, admin_token="operator-token-of-all-of-the-tests", settings=settings
    ) as market:
        _, key = market.register_provider("Node", "node@example.com")
        market.add_daemon(key, command=FILE_DAEMON)
        for name in generators:
            folder = tmp_path / name
            (folder / "client").mkdir(parents=True)
            (folder / "openapi.json").write_bytes(market.http.get("/openapi.json").content)
            program, *arguments = GENERATORS[name]
            run(BIN / program, *arguments, folder=folder)
            printed = run(
                sys.executable,
                ROOT / f"tests/support/generated_clients/{name}.py",
                market.url,
                folder=folder,
                PYTHONPATH=f"{folder / 'client'}:{ROOT}",
            )
            digest = hashlib.sha256(b"".join(content("model/weights", 3))).hexdigest()
            assert json.loads(printed) == ["completed", "written sent", True, digest, "JOB_NOT_FOUND"], name
