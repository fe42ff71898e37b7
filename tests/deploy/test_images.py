"""The images of deploy/images on a real Docker Engine: a market in containers, hardened as in production."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trustme

from tests.support.patient_renter import eventually
from tests.support.private_engine import PrivateEngine

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.slow]

TOKEN = "operator-token-of-all-of-the-tests"
WAIT_SECONDS = 240.0
HARDENED = [
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--network",
    "host",
]


@dataclass
class Box:
    """A running container of one of the images."""

    engine: PrivateEngine
    name: str

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.docker("inspect", self.name))
        return dict(found)

    def run(self, *command: str) -> tuple[int, str]:
        """Runs a command in it."""
        done = subprocess.run(
            ["docker", "-H", f"unix://{self.engine.socket}", "exec", self.name, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def until(self, health: str) -> None:
        """Waits until the engine's health check has found this."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (state := self.inspect()["State"])["Health"]["Status"] != health:
            logs = self.engine.docker("logs", self.name)
            assert time.monotonic() < deadline, f"{state}\n{logs[-2000:]}"
            assert state["Running"], logs[-2000:]
            time.sleep(0.5)

    def wait(self) -> int:
        """Waits until its program has ended; the exit status."""
        return int(self.engine.docker("wait", self.name))

    def stop(self) -> int:
        """Stops it as an engine does; the exit status, which is 137 if it had to be killed."""
        self.engine.docker("stop", "--time", "30", self.name)
        return int(self.inspect()["State"]["ExitCode"])


Start = Callable[..., Box]


@pytest.fixture
def start(engine: PrivateEngine, version: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a program's container with settings; the test's folder is its /run/secrets."""
    names: list[str] = []

    def starting(program: str, *, volume: str = "", arguments: Sequence[str] = (), **settings: str) -> Box:
        names.append(f"test-{program}-{len(names)}")
        options = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
        options += [
            "--volume",
            f"{tmp_path}:/run/secrets:ro",
            "--health-interval",
            "1s",
            "--health-timeout",
            "60s",
        ]
        options += ["--volume", f"{volume}:/var/lib/dcp"] if volume else []
        image = f"dcp-{program}:{version}"
        engine.docker("run", "--detach", "--name", names[-1], *HARDENED, *options, image, *arguments)
        return Box(engine, names[-1])

    yield starting
    for name in reversed(names):
        engine.docker("rm", "--force", "--volumes", name)
    engine.docker("volume", "rm", "--force", "test-provider")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets of a server, which its user can read."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    issued = authority.issue_cert("market.example", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    (tmp_path / "admin-token").write_text(f"{TOKEN}\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    for path in tmp_path.iterdir():
        os.chown(path, 10001, 10001)
        path.chmod(0o400)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_is_confined(box: Box, program: str) -> None:
    facts = box.inspect()
    assert facts["Config"]["User"] == "10001:10001"
    assert box.run("id", "-u") == (0, "10001\n")
    assert box.run("touch", "/opt/dcp/x")[0] != 0
    assert box.run("touch", "/var/lib/dcp/x") == (0, "")
    # No tool to install or fetch anything more.
    assert box.run(f"/opt/dcp/bin/{program}", "--version")[0] == 0
    assert box.run("/opt/dcp/bin/python", "-m", "pip", "--version")[0] != 0


@pytest.mark.usefixtures("secrets")
def test_market_in_containers_answers_a_chat_and_stops_in_its_time(start: Start, version: str) -> None:
    grpc, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    server = start(
        "server",
        DCP_GRPC_LISTEN=grpc,
        DCP_ADMIN_TOKEN_FILE="/run/secrets/admin-token",
        DCP_TLS_CERT="/run/secrets/server.pem",
        DCP_TLS_KEY="/run/secrets/server.key",
        DCP_SANDBOX_TOPUP="true",
        DCP_CANARY_PERCENT="0",
        DCP_STANDING_COUNTS="false",
    )
    trusting = {"DCP_SERVER": grpc, "DCP_TLS_CA": "/run/secrets/authority.pem"}
    gateway = start("gateway", DCP_HTTP_LISTEN=http, **trusting)
    server.until("healthy")
    gateway.until("healthy")
    assert_is_confined(server, "dcp-server")
    assert_is_confined(gateway, "dcp-gateway")
    labels = server.inspect()["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == version
    assert TOKEN not in json.dumps(server.inspect())

    with httpx.Client(base_url=f"http://{http}", timeout=60) as client:
        dashboard = client.get("/api/admin/dashboard", headers={"x-admin-token": TOKEN})
        assert dashboard.status_code == 200
        # Registered once, by a container whose volume the daemon then has.
        kept = {"volume": "test-provider", "arguments": ("register", "--name", "N", "--email", "p@x.example")}
        assert start("daemon", **kept, **trusting).wait() == 0
        daemon = start("daemon", volume="test-provider", **trusting)
        daemon.until("healthy")
        assert_is_confined(daemon, "dcp-daemon")
        renter = client.post("/api/renters/register", json={"name": "Me", "email": "r@example.com"})
        key = {"x-renter-key": renter.json()["api_key"]}
        assert client.post("/api/renters/topup", json={"amount_halala": 5000}, headers=key).is_success
        chat = {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": "What is a GPU?"}],
            "max_tokens": 8,
        }
        answer = client.post("/v1/chat/completions", json=chat, headers=key)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]

    assert server.run("dcp-server", "prove")[1].endswith("The ledger balances.\n")
    assert daemon.stop() == 0
    assert server.stop() == 0
    gateway.until("unhealthy")
    assert gateway.stop() == 0


@contextmanager
def debian_postgres() -> Iterator[str]:
    """The URL of a database of this machine's own PostgreSQL, of the version of the clients in the image."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("postgresql missing: apt-get install it")
    programs, port = found[-1].parent, free_port()
    folder = Path(tempfile.mkdtemp(prefix="dcp-pg-"))
    shutil.chown(folder, "postgres")
    create: list[str | Path] = [
        programs / "initdb",
        "--auth=trust",
        "--username=postgres",
        f"--pgdata={folder / 'data'}",
    ]
    subprocess.run(create, check=True, capture_output=True, user="postgres", cwd=folder)
    serve = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-c", "fsync=off"]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with subprocess.Popen(serve, stderr=subprocess.DEVNULL, user="postgres", cwd=folder) as process:
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            eventually("PostgreSQL", lambda: accepts(url), WAIT_SECONDS)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            shutil.rmtree(folder)


def accepts(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.usefixtures("secrets")
def test_server_in_a_container_backs_up_its_postgresql_and_restores_it(start: Start) -> None:
    with debian_postgres() as url:
        settings = {
            "DCP_DATABASE_URL": url,
            "DCP_GRPC_LISTEN": f"127.0.0.1:{free_port()}",
            "DCP_TLS_CERT": "/run/secrets/server.pem",
            "DCP_TLS_KEY": "/run/secrets/server.key",
        }
        server = start("server", volume="test-provider", **settings)
        server.until("healthy")
        status, printed = server.run("dcp-server", "backup", "/var/lib/dcp/market.dump")
        assert (status, "verified" in printed) == (0, True), printed
        assert server.stop() == 0
        command = ("restore", "--replace", "/var/lib/dcp/market.dump")
        restoring = start("server", volume="test-provider", arguments=command, **settings)
        assert restoring.wait() == 0, restoring.engine.docker("logs", restoring.name)


def test_image_without_settings_does_not_serve_to_other_machines_in_plain(
    engine: PrivateEngine, version: str
) -> None:
    for program, named in (("server", "DCP_TLS_CERT"), ("gateway", "DCP_INSECURE=true")):
        done = subprocess.run(
            ["docker", "-H", f"unix://{engine.socket}", "run", "--rm", *HARDENED, f"dcp-{program}:{version}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, named in done.stderr) == (2, True), done.stderr
