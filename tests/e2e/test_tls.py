"""With a certificate the three programs use TLS; a client that does not trust it sends nothing."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trustme

from scripts.market import Program

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"

pytestmark = pytest.mark.e2e


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Creates a certificate authority and the server's certificate as files in ``tmp_path``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
    return authority


def test_programs_speak_tls(authority: trustme.CA, tmp_path: Path) -> None:
    programs: list[Program] = []

    def start(name: str, *arguments: str, **settings: str) -> Program:
        programs.append(Program(name, *arguments, env=settings, folder=tmp_path))
        return programs[-1]

    try:
        server = start(
            "dcp-server",
            DCP_DATABASE_URL=f"sqlite:///{tmp_path / 'dcp.sqlite3'}",
            DCP_GRPC_LISTEN="127.0.0.1:0",
            DCP_ADMIN_TOKEN=ADMIN_TOKEN,
            DCP_CANARY_PERCENT="0",
            DCP_TLS_CERT=str(tmp_path / "cert.pem"),
            DCP_TLS_KEY=str(tmp_path / "key.pem"),
        )
        trusting = {"DCP_SERVER": server.address, "DCP_TLS_CA": str(tmp_path / "ca.pem")}
        gateway = start("dcp-gateway", DCP_HTTP_LISTEN="127.0.0.1:0", **trusting)
        body = {"name": "Node", "email": "p@example.com"}
        answer = httpx.post(f"{gateway.address}/api/providers/register", json=body)
        assert answer.status_code == 201
        state = str(tmp_path / "state")
        key = answer.json()["api_key"]
        start("dcp-daemon", "run", DCP_PROVIDER_KEY=key, DCP_STATE_DIR=state, **trusting)
        listed = httpx.get(f"{gateway.address}/api/renters/available-providers").json()
        assert listed["providers"][0]["accepting_jobs"] is True
        stranger = start("dcp-gateway", DCP_HTTP_LISTEN="127.0.0.1:0", DCP_SERVER=server.address)
        refused = httpx.get(f"{stranger.address}/api/renters/available-providers")
        assert (refused.status_code, refused.json()["code"]) == (503, "UNAVAILABLE")
    finally:
        for program in reversed(programs):
            program.stop()
