"""A server with a listener for gateways serves operators only there, and only with a certificate."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trustme

from scripts.market import Program

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"

pytestmark = pytest.mark.e2e


def _issue(authority: trustme.CA, folder: Path, name: str) -> tuple[str, str]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    issued.private_key_pem.write_to_path(str(key))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(cert), append=True)
    return str(cert), str(key)


def test_only_a_gateway_with_a_certificate_carries_operators_calls(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    ca = tmp_path / "ca.pem"
    ours.cert_pem.write_to_path(str(ca))
    server_cert, server_key = _issue(ours, tmp_path, "server")
    programs: list[Program] = []

    def gateway(address: str, **settings: str) -> str:
        folder = tmp_path / f"gateway-{len(programs)}"
        folder.mkdir()
        trust = {"DCP_SERVER": address, "DCP_TLS_CA": str(ca), "DCP_HTTP_LISTEN": "127.0.0.1:0"}
        programs.append(Program("dcp-gateway", env={**trust, **settings}, folder=folder))
        return programs[-1].address

    try:
        server = Program(
            "dcp-server",
            env={
                "DCP_DATABASE_URL": f"sqlite:///{tmp_path / 'dcp.sqlite3'}",
                "DCP_GRPC_LISTEN": "127.0.0.1:0",
                "DCP_GATEWAY_LISTEN": "127.0.0.1:0",
                "DCP_GATEWAY_CA": str(ca),
                "DCP_ADMIN_TOKEN": ADMIN_TOKEN,
                "DCP_TLS_CERT": server_cert,
                "DCP_TLS_KEY": server_key,
            },
            folder=tmp_path,
            ports=2,
        )
        programs.append(server)
        public, for_gateways = server.addresses
        headers = {"x-admin-token": ADMIN_TOKEN}
        cert, key = _issue(ours, tmp_path, "gateway")
        certified = gateway(for_gateways, DCP_GATEWAY_CERT=cert, DCP_GATEWAY_KEY=key)
        assert httpx.get(f"{certified}/api/admin/dashboard", headers=headers).status_code == 200
        plain = gateway(public)
        refused = httpx.get(f"{plain}/api/admin/dashboard", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "WRONG_ROLE")
        listed = httpx.get(f"{plain}/api/renters/available-providers")
        assert listed.status_code == 200, "what is for everybody is served at both"
        strange = _issue(theirs, tmp_path, "stranger")
        for settings in ({}, {"DCP_GATEWAY_CERT": strange[0], "DCP_GATEWAY_KEY": strange[1]}):
            stranger = gateway(for_gateways, **settings)
            assert httpx.get(f"{stranger}/api/renters/available-providers").status_code == 503
    finally:
        for program in programs:
            program.stop()
