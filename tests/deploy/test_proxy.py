"""deploy/compose/Caddyfile with a real Caddy in front of a real market with two gateways."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gateway.inference import MAX_BODY_BYTES
from scripts.market import Program
from tests.support.deployments import DEPLOY

pytestmark = pytest.mark.e2e

CADDY = Path(sys.executable).parent / "caddy"
TOKEN = "operator-token-of-all-of-the-tests"
START_SECONDS = 20.0


@dataclass
class Scene:
    """A server, two gateways, and Caddy at ``address``."""

    address: str
    gateways: list[Program]
    programs: list[Program] = field(default_factory=list)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    tmp_path = tmp_path_factory.mktemp("proxy")
    programs: list[Program] = []
    caddy = None
    log = (tmp_path / "caddy.log").open("wb")
    try:
        settings = {
            "DCP_DATABASE_URL": f"sqlite:///{tmp_path / 'dcp.sqlite3'}",
            "DCP_GRPC_LISTEN": "127.0.0.1:0",
            "DCP_ADMIN_TOKEN": TOKEN,
            "DCP_SANDBOX_TOPUP": "true",
            "DCP_LIMIT_REGISTRATIONS": "3",
        }
        programs.append(Program("dcp-server", env=settings, folder=tmp_path))
        behind = {"DCP_SERVER": programs[0].address, "DCP_TRUSTED_PROXIES": "127.0.0.1"}
        for _ in range(2):
            env = {"DCP_HTTP_LISTEN": "127.0.0.1:0", **behind}
            programs.append(Program("dcp-gateway", env=env, folder=tmp_path))
        address = f"http://127.0.0.1:{free_port()}"
        gateways = " ".join(gateway.address.removeprefix("http://") for gateway in programs[1:])
        caddy = subprocess.Popen(
            [CADDY, "run", "--adapter", "caddyfile", "--config", DEPLOY / "compose/Caddyfile"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "CADDY_ADMIN": f"127.0.0.1:{free_port()}",
                "MARKET_DOMAIN": address,
                "MARKET_EMAIL": "ops@market.example",
                "MARKET_GATEWAYS": gateways,
            },
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        until_served(address, tmp_path / "caddy.log")
        yield Scene(address, programs[1:], programs)
    finally:
        if caddy is not None:
            caddy.terminate()
            caddy.wait()
        log.close()
        for program in reversed(programs):
            program.stop()


def until_served(address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{address}/openapi.json").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.1)


def register(scene: Scene, name: str, **headers: str) -> httpx.Response:
    body = {"name": name, "email": f"{name}@example.com"}
    return httpx.post(f"{scene.address}/api/renters/register", json=body, headers=headers)


def test_gateway_and_not_the_proxy_says_that_a_body_is_too_large(scene: Scene) -> None:
    key = {"authorization": f"Bearer {register(scene, 'writer').json()['api_key']}"}
    for path, size in (("/api/renters/topup", 2 << 20), ("/v1/chat/completions", MAX_BODY_BYTES + 1)):
        answer = httpx.post(f"{scene.address}{path}", content=b" " * size, headers=key, timeout=60)
        assert (answer.status_code, "BODY_TOO_LARGE" in answer.text) == (413, True)


def test_events_come_through_at_once_while_the_stream_goes_on(scene: Scene) -> None:
    key = {"x-renter-key": register(scene, "reader").json()["api_key"]}
    httpx.post(f"{scene.address}/api/renters/topup", json={"amount_halala": 5000}, headers=key)
    job = {"job_type": "llm-inference", "duration_minutes": 1, "params": {"model": "a/b", "prompt": "Why?"}}
    submitted = httpx.post(f"{scene.address}/api/jobs/submit", json=job, headers=key).json()
    events = f"{scene.address}/api/jobs/{submitted['job']['job_id']}/events"
    with httpx.stream("GET", events, headers=key, timeout=8) as stream:
        # Nobody runs the job, so the stream has no end, and what a proxy held back would never come.
        assert b"queued" in next(stream.iter_bytes())


def test_probes_are_not_for_callers_from_outside(scene: Scene) -> None:
    assert [httpx.get(f"{scene.address}/{path}").status_code for path in ("healthz", "readyz")] == [404, 404]


def test_caddy_finds_no_fault_in_the_file_of_the_domain(tmp_path: Path) -> None:
    settings = {"MARKET_DOMAIN": "market.example", "MARKET_EMAIL": "ops@market.example"}
    done = subprocess.run(
        [CADDY, "validate", "--adapter", "caddyfile", "--config", DEPLOY / "compose/Caddyfile"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not formatted" not in done.stderr


# These use up what the others need: registrations, and a gateway.


def test_address_that_a_caller_writes_is_not_believed(scene: Scene) -> None:
    """Otherwise a caller would be somebody else for each call, and no limit of an address would hold."""
    answers = [register(scene, f"r{at}", **{"x-forwarded-for": f"203.0.113.{at}"}) for at in range(5)]
    assert answers[0].status_code == 201
    assert answers[-1].status_code == 429


def test_gateway_that_is_gone_costs_no_request(scene: Scene) -> None:
    scene.gateways[0].kill()
    for _ in range(60):
        assert httpx.get(f"{scene.address}/api/prices").status_code == 200
