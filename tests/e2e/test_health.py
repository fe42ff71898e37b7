"""``health`` of server and gateway, as a container engine runs it: its line and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from scripts.market import Program

pytestmark = pytest.mark.e2e


def health(name: str, *arguments: str, **settings: str) -> tuple[int, str]:
    """The exit status and the line of ``NAME health`` with these settings alone."""
    done = subprocess.run(
        [Path(sys.executable).parent / name, "health", *arguments],
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def port_of(program: Program) -> str:
    return program.address.rpartition(":")[2]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Program]]:
    """The programs that a test starts, which end with it."""
    programs: list[Program] = []
    yield programs
    for program in reversed(programs):
        program.stop()


def server(folder: Path, **settings: str) -> Program:
    database = f"sqlite:///{folder / 'dcp.sqlite3'}"
    return Program("dcp-server", env={"DCP_DATABASE_URL": database, **settings}, folder=folder)


def test_gateway_is_healthy_while_its_server_is(tmp_path: Path, started: list[Program]) -> None:
    started.append(server(tmp_path, DCP_GRPC_LISTEN="127.0.0.1:0"))
    listens = {"DCP_GRPC_LISTEN": f"127.0.0.1:{port_of(started[0])}"}
    assert health("dcp-server", **listens) == (0, "healthy\n")
    settings = {"DCP_HTTP_LISTEN": "0.0.0.0:0", "DCP_INSECURE": "true", "DCP_SERVER": started[0].address}
    started.append(Program("dcp-gateway", env=settings, folder=tmp_path))
    settings["DCP_HTTP_LISTEN"] = f"0.0.0.0:{port_of(started[1])}"
    assert health("dcp-gateway", **settings) == (0, "healthy\n")
    assert started[0].stop() == 0
    status, line = health("dcp-server", **listens)
    assert (status, line.startswith(f"unhealthy: {listens['DCP_GRPC_LISTEN']} does not answer")) == (1, True)
    status, line = health("dcp-gateway", **settings)
    assert (status, "The server cannot be reached" in line) == (1, True)
    assert started[1].stop() == 0
    status, line = health("dcp-gateway", **settings)
    assert (status, line.startswith(f"unhealthy: {settings['DCP_HTTP_LISTEN']} does not answer")) == (1, True)


@pytest.mark.parametrize("names", [("market.example",), ("10.1.2.3",)])
def test_server_with_a_certificate_of_other_names_is_healthy(
    names: tuple[str, ...], tmp_path: Path, started: list[Program]
) -> None:
    """Also while the file already holds the next certificate."""
    issued = trustme.CA().issue_cert(*names)
    settings = {"DCP_TLS_CERT": str(tmp_path / "cert.pem"), "DCP_TLS_KEY": str(tmp_path / "key.pem")}
    issued.cert_chain_pems[0].write_to_path(settings["DCP_TLS_CERT"])
    issued.private_key_pem.write_to_path(settings["DCP_TLS_KEY"])
    started.append(server(tmp_path, DCP_GRPC_LISTEN="0.0.0.0:0", **settings))
    following = trustme.CA().issue_cert("elsewhere.example")
    following.cert_chain_pems[0].write_to_path(settings["DCP_TLS_CERT"])
    following.private_key_pem.write_to_path(settings["DCP_TLS_KEY"])
    settings["DCP_GRPC_LISTEN"] = f"0.0.0.0:{port_of(started[0])}"
    assert health("dcp-server", "--wait", "5", **settings) == (0, "healthy\n")


def test_server_that_hangs_is_unhealthy(tmp_path: Path, started: list[Program]) -> None:
    started.append(server(tmp_path, DCP_GRPC_LISTEN="127.0.0.1:0"))
    listens = {"DCP_GRPC_LISTEN": f"127.0.0.1:{port_of(started[0])}"}
    started[0].pause()
    status, line = health("dcp-server", **listens)
    assert (status, "does not answer: DEADLINE_EXCEEDED" in line) == (1, True)


def test_health_with_a_wrong_setting_is_status_2(tmp_path: Path) -> None:
    for name in ("dcp-server", "dcp-gateway"):
        done = subprocess.run(
            [Path(sys.executable).parent / name, "health"],
            env={"PATH": os.environ["PATH"], "DCP_NO_SUCH": "1"},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, b"DCP_NO_SUCH" in done.stderr) == (2, True)
