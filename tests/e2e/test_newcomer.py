"""The promises of the documentation to a newcomer: the demo, the quick start and the reference."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import dcp_client.settings
import pytest

import daemon.config.config
import gateway.config
import server.config
from scripts.market import Market

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = ROOT / "docs" / "reference"
BIN = Path(sys.executable).parent
ADMIN_TOKEN = "operator-token-of-all-of-the-tests"

pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_settings_of_the_reference_are_those_of_the_programs() -> None:
    _, *sections = re.split(r"^## (\w+)$", (REFERENCE / "settings.md").read_text(), flags=re.MULTILINE)
    written: dict[tuple[str, str], str] = {}
    for program, section in zip(sections[::2], sections[1::2], strict=True):
        for name, default in re.findall(r"^\| `(DCP_\w+)` \| (.+?) \| .+ \|$", section, re.MULTILINE):
            written[program.lower(), name] = default
    real = {
        (program, name): default or "unset"
        for program, config in (
            ("server", server.config),
            ("gateway", gateway.config),
            ("daemon", daemon.config.config),
            ("client", dcp_client.settings),
        )
        for name, default, _ in config.VARIABLES
    }
    assert written == real


def test_routes_of_the_reference_are_those_of_openapi(tmp_path: Path) -> None:
    text = (REFERENCE / "routes.md").read_text()
    rows = re.findall(r"^\| `(GET|POST) (/(?:api|v1)/\S+)` \|", text, re.MULTILINE)
    written = set(rows)
    assert len(rows) == len(written)
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        paths = market.get("/openapi.json")["paths"]
    real = {
        (verb.upper(), path) for path, verbs in paths.items() for verb in verbs if verb in ("get", "post")
    }
    assert written == real


@pytest.mark.model
def test_quick_start_of_the_readme_works(tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(api=.*?)```", README, re.DOTALL)
    port = free_port()
    up = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "scripts.up",
            f"--http=127.0.0.1:{port}",
            "--grpc=127.0.0.1:0",
            f"--data={tmp_path}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        for line in up.stdout:
            if line.startswith("Ctrl-C"):
                break
        script = block.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        question = '"prompt": "What is a GPU?"'
        assert question in script
        script = script.replace(question, f'{question}, "max_tokens": 24')
        fetch = 'curl -si $api/jobs/$job/output -H "x-renter-key: $key"'
        script = script.replace(
            fetch, f"until {fetch} | grep -q '^HTTP/1.1 200'; do sleep 0.1; done; {fetch}"
        )
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert '"actual_cost_halala"' in result.stdout
    finally:
        up.send_signal(signal.SIGINT)
        _, _ = up.communicate(timeout=60)
    assert up.returncode == 0


@pytest.mark.model
def test_demo_answers_bills_and_balances() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--max-tokens", "24"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "prompt: What is a GPU?" in result.stdout
    assert re.search(r"\d+ tokens at [\d.]+ tokens/s", result.stdout)
    bill = dict(re.findall(r"^  (\w+) +([\d.]+) halala$", result.stdout, re.MULTILINE))
    amounts = {name: Decimal(value) for name, value in bill.items()}
    assert amounts["hold"] == 450
    assert amounts["charge"] + amounts["refund"] == 450
    assert amounts["provider"] + amounts["platform"] == amounts["charge"] > 0
    assert "ledger    balances" in result.stdout


def test_buf_curl_lists_the_services_and_calls_one_with_a_key(tmp_path: Path) -> None:
    buf = shutil.which("buf", path=str(BIN))
    assert buf is not None
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        renter_id, key = market.register_renter("Acme", "r@example.com")
        base = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        url = f"http://{market.grpc_address}"
        listed = subprocess.run(
            [*base, "--list-methods", url], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        assert "dcp.v1.RenterService/GetOwnRenter" in listed
        assert "dcp.v1.SessionService/Connect" in listed
        called = subprocess.run(
            [*base, "-H", f"authorization: Bearer {key}", f"{url}/dcp.v1.RenterService/GetOwnRenter"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    assert json.loads(called)["renter"]["id"] == str(renter_id)
