"""The programs as processes: one ready line, a drain on SIGTERM, and one clear line for a bad setting."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.files import MOST_FILES
from scripts.market import Market, Program

BIN = Path(sys.executable).parent
PROGRAMS = ("dcp-server", "dcp-gateway", "dcp-market", "dcp-daemon run")
ADMIN_TOKEN = "operator-token-of-all-of-the-tests"

pytestmark = pytest.mark.e2e


def start(command: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that is expected to end by itself."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DCP_")}
    name, *arguments = command.split()
    return subprocess.run(
        [str(BIN / name), *arguments],
        env={**environ, "HOME": str(folder), "DCP_STATE_DIR": str(folder / "state"), **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The error message of a program that refuses to start, which must be a single line."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("command", PROGRAMS)
def test_unknown_setting_is_refused(command: str, tmp_path: Path) -> None:
    assert "DCP_GRPC_LISTNE" in refused(start(command, tmp_path, DCP_GRPC_LISTNE="127.0.0.1:0"))


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("dcp-server", "DCP_DATABASE_URL", "mysql://x"),
        ("dcp-server", "DCP_DATABASE_URL", "sqlite:///no/such/folder/file"),
        ("dcp-server", "DCP_DATABASE_URL", "sqlite:///:memory:"),
        ("dcp-server", "DCP_GRPC_LISTEN", "nowhere"),
        ("dcp-server", "DCP_GRPC_LISTEN", "0.0.0.0:0"),
        ("dcp-server", "DCP_SANDBOX_TOPUP", "perhaps"),
        ("dcp-server", "DCP_TLS_CERT", "only-one-of-two"),
        ("dcp-server", "DCP_ADMIN_TOKEN", "short"),
        ("dcp-gateway", "DCP_HTTP_LISTEN", "nowhere"),
        ("dcp-gateway", "DCP_HTTP_LISTEN", "0.0.0.0:0"),
        ("dcp-gateway", "DCP_SERVER", "market.example.com:50051"),
        ("dcp-server", "DCP_DATABASE_URL", "postgresql://[x"),
        ("dcp-server", "DCP_DATABASE_URL", "postgresql://u:a@secret-word@127.0.0.1:1/none"),
        ("dcp-server", "DCP_DATABASE_URL", f"sqlite:///{__file__}"),
        ("dcp-gateway", "DCP_TLS_CA", "no-such-file.pem"),
        ("dcp-gateway", "DCP_TLS_CA", __file__),
        ("dcp-market", "DCP_DATABASE_URL", "sqlite:///no/such/folder/file"),
        ("dcp-market", "DCP_GRPC_LISTEN", "nowhere"),
        ("dcp-market", "DCP_HTTP_LISTEN", "0.0.0.0:0"),
        ("dcp-daemon run", "DCP_TLS_CA", __file__),
        ("dcp-daemon run", "DCP_SERVER", "market.example.com:50051"),
        ("dcp-daemon run", "DCP_MODELS", "name-without-a-file"),
    ],
)
def test_bad_setting_is_reported_in_one_line(command: str, name: str, value: str, tmp_path: Path) -> None:
    settings = {name: value}
    if command.startswith("dcp-daemon"):
        settings["DCP_PROVIDER_KEY"] = "dcp-provider-some-key"
    line = refused(start(command, tmp_path, **settings))
    assert name in line or "DCP_TLS_CA" in line
    assert "secret-word" not in line


@pytest.mark.parametrize("command", ["dcp-server", "dcp-market", "dcp-server prove"])
def test_database_that_is_away_is_no_wrong_setting_so_that_the_program_is_started_again(
    command: str, tmp_path: Path
) -> None:
    ended = start(command, tmp_path, DCP_DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:1/none")
    # Status 1 of a command has a meaning of its own.
    assert ended.returncode == (2 if command.endswith("prove") else 1)
    assert "DCP_DATABASE_URL: the database cannot be opened" in ended.stderr
    assert "secret-word" not in ended.stderr


def test_daemon_without_a_key_says_how_to_get_one(tmp_path: Path) -> None:
    assert "register" in refused(start("dcp-daemon run", tmp_path))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("dcp-server", "DCP_GRPC_LISTEN"),
        ("dcp-gateway", "DCP_HTTP_LISTEN"),
        ("dcp-market", "DCP_GRPC_LISTEN"),
        ("dcp-market", "DCP_HTTP_LISTEN"),
    ],
)
def test_port_in_use_is_reported_in_one_line(command: str, name: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(start(command, tmp_path, **{name: address}))
    assert name in line


def test_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dcp.sqlite3"
    server = Program(
        "dcp-server",
        env={"DCP_DATABASE_URL": f"sqlite:///{path}", "DCP_GRPC_LISTEN": "127.0.0.1:0"},
        folder=tmp_path,
    )
    assert server.stop() == 0
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT INTO schema_migration (name, applied) VALUES ('9999_future_contract', '2099-01-01')"
        )
    database.close()
    line = refused(start("dcp-server", tmp_path, DCP_DATABASE_URL=f"sqlite:///{path}", DCP_LOG_LEVEL="error"))
    assert "newer" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_programs_drain_and_exit_0(number: signal.Signals, tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN, embedded=False) as market:
        _, key = market.register_provider("Node", "p@example.com")
        market.add_daemon(key)
        server, gateway, daemon = market.programs
        assert [program.stop(number) for program in (daemon, gateway, server)] == [0, 0, 0]


def test_joined_program_drains_its_requests_and_exits_0(tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        _, key = market.register_provider("Node", "p@example.com")
        market.add_daemon(key)
        joined, daemon = market.programs
        body = b'{"name": "R", "email": "r@example.com"}'
        head = f"POST /api/renters/register HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        host, _, port = market.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(head.encode() + body[:5])
            # The request has begun when a later one on another connection is answered.
            assert market.http.get("/readyz").status_code == 200
            joined.process.send_signal(signal.SIGTERM)
            until_log_has(joined, "Waiting for connections to close")
            client.sendall(body[5:])
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
        assert joined.stop() == 0
        assert daemon.process.poll() is None, "a daemon waits for its server"
        joined.restart()
        assert market.http.get("/readyz").status_code == 200


def until_log_has(program: Program, words: str) -> None:
    """Waits until a program has logged this. Fails after 20 s."""
    deadline = time.monotonic() + 20
    while words not in program.last_words():
        assert time.monotonic() < deadline, f"{words!r} was not logged"
        time.sleep(0.02)


def test_joined_program_ignores_the_way_from_gateway_to_server(tmp_path: Path) -> None:
    settings = {"DCP_SERVER": "other.example.com:50051", "DCP_TLS_CA": "no-such-file.pem"}
    with Market(tmp_path, ADMIN_TOKEN, gateway_settings=settings) as market:
        market.register_provider("Node", "p@example.com")
        # The page tells providers the real port of gRPC.
        assert market.grpc_address.rpartition(":")[2] in market.http.get("/").text


def test_programs_raise_their_limit_of_open_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with Market(tmp_path, admin_token=ADMIN_TOKEN, embedded=False) as market:
            _, key = market.register_provider("Node", "p@example.com")
            market.add_daemon(key)
            for program in market.programs:
                raised, _ = resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)
                assert raised == min(hard, MOST_FILES), program.name
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_server_stops_while_a_daemon_is_connected(tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN, embedded=False) as market:
        _, key = market.register_provider("Node", "p@example.com")
        market.add_daemon(key)
        assert market.programs[0].stop() == 0
        unreachable = market.http.get("/api/renters/available-providers")
        assert (unreachable.status_code, unreachable.json()["code"]) == (503, "UNAVAILABLE")
        assert int(unreachable.headers["retry-after"]) > 0
        assert market.programs[2].process.poll() is None, "a daemon waits for its server"


def test_invalid_provider_key_ends_the_daemon(tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        settings = {"DCP_SERVER": market.grpc_address, "DCP_PROVIDER_KEY": "dcp-provider-unknown"}
        result = start("dcp-daemon run", tmp_path, **settings)
    assert result.returncode == 2
    assert "dcp-provider-unknown" not in result.stdout + result.stderr


def test_daemon_registers_and_keeps_its_key_private(tmp_path: Path) -> None:
    with Market(tmp_path, admin_token=ADMIN_TOKEN) as market:
        settings = {"DCP_SERVER": market.grpc_address}
        command = "dcp-daemon register --name Node --email joins@example.com"
        result = start(command, tmp_path, **settings)
        assert result.returncode == 0, result.stderr
        (identity,) = (tmp_path / "state").glob("*.json")
        assert identity.stat().st_mode & 0o777 == 0o600
        assert "dcp-provider-" not in result.stdout + result.stderr
        again = start("dcp-daemon register --name Node --email again@example.com", tmp_path, **settings)
        assert again.returncode == 2
        assert "--force" in again.stderr
        doctor = start("dcp-daemon doctor", tmp_path, **settings)
        assert "NVIDIA" in doctor.stdout


@pytest.mark.parametrize("command", ["dcp-server", "dcp-gateway", "dcp-market", "dcp-daemon"])
def test_help_lists_the_settings(command: str, tmp_path: Path) -> None:
    result = start(f"{command} --help", tmp_path)
    assert result.returncode == 0
    assert "DCP_" in result.stdout
    version = start(f"{command} --version", tmp_path)
    assert (version.returncode, version.stdout.strip()) == (0, "0.1.0")


@pytest.mark.parametrize("embedded", [False, True])
def test_no_key_reaches_a_log(embedded: bool, tmp_path: Path) -> None:
    settings = {"DCP_LOG_LEVEL": "debug"}
    with Market(tmp_path, admin_token=ADMIN_TOKEN, settings=settings, embedded=embedded) as market:
        _, provider_key = market.register_provider("Node", "p@example.com")
        renter_id, renter_key = market.register_renter("Acme", "r@example.com")
        market.credit(renter_id, 5000)
        market.add_daemon(provider_key)
        market.http.get("/api/renters/me", params={"key": renter_key})
        job = {
            "job_type": "llm-inference",
            "duration_minutes": 1,
            "params": {"model": "nobody/serves", "prompt": "the secret prompt"},
            "wait_for_supply": True,
        }
        market.post("/api/jobs/submit", job, **{"x-renter-key": renter_key})
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))
    assert "submitted" in logs
    for secret in (provider_key, renter_key, ADMIN_TOKEN, "the secret prompt"):
        assert secret not in logs
