"""A server with a listener for gateways: only there, and with a certificate, it serves operators, and gives a
gateway the checks of batches that another one left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import openai
import pytest
import trustme
from dcp.v1 import batches_pb2 as pb
from dcp.v1 import batches_pb2_grpc

from scripts.market import Program
from tests.support import scripted_daemon
from tests.support.patient_renter import eventually
from tests.support.running_server import bearer
from tests.support.scene import SCRIPTED

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
ADMIN = {"x-admin-token": ADMIN_TOKEN}
LINES = 20_000
"""As many that a check of them has not ended when its gateway is killed at once."""
TAKEN_SECONDS = 240

pytestmark = pytest.mark.e2e


class Place:
    """A server with a listener for gateways, and what trusts its certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Program] = []
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        cert, key = issue(self.authority, folder, "server")
        settings = {
            "DCP_DATABASE_URL": f"sqlite:///{folder / 'dcp.sqlite3'}",
            "DCP_GRPC_LISTEN": "127.0.0.1:0",
            "DCP_GATEWAY_LISTEN": "127.0.0.1:0",
            "DCP_GATEWAY_CA": str(self.ca),
            "DCP_ADMIN_TOKEN": ADMIN_TOKEN,
            "DCP_CANARY_PERCENT": "0",
            "DCP_TLS_CERT": cert,
            "DCP_TLS_KEY": key,
        }
        server = self._started(Program("dcp-server", env=settings, folder=folder, ports=2))
        self.public, self.for_gateways = server.addresses
        self._own = issue(self.authority, folder, "gateway")

    def gateway(self, address: str, pair: tuple[str, str] | None = None) -> Program:
        """Starts a gateway at an address of the server, with a certificate or without one."""
        folder = self.folder / f"gateway-{len(self.programs)}"
        folder.mkdir()
        settings = {**self.trusting(address), "DCP_HTTP_LISTEN": "127.0.0.1:0"}
        if pair is not None:
            settings |= {"DCP_GATEWAY_CERT": pair[0], "DCP_GATEWAY_KEY": pair[1]}
        return self._started(Program("dcp-gateway", env=settings, folder=folder))

    def known_gateway(self) -> Program:
        """Starts a gateway that the server knows."""
        return self.gateway(self.for_gateways, self._own)

    def scripted_daemon(self, key: str) -> None:
        """Starts a daemon with the model of the scripts."""
        state = {"DCP_PROVIDER_KEY": key, "DCP_STATE_DIR": str(self.folder / "daemon")}
        settings = {**self.trusting(self.public), **state, "HOME": str(self.folder)}
        self._started(Program("dcp-daemon", "run", env=settings, folder=self.folder, command=SCRIPTED))

    def trusting(self, address: str) -> dict[str, str]:
        """The settings of a program that calls the server there."""
        return {"DCP_SERVER": address, "DCP_TLS_CA": str(self.ca)}

    def stop(self) -> None:
        """Ends all programs."""
        for program in reversed(self.programs):
            program.stop()

    def _started(self, program: Program) -> Program:
        self.programs.append(program)
        return program


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[str, str]:
    """The files of a certificate and its key."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    issued.private_key_pem.write_to_path(str(key))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(cert), append=True)
    return str(cert), str(key)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    try:
        yield place
    finally:
        place.stop()


def test_only_a_gateway_with_a_certificate_carries_operators_calls(place: Place, tmp_path: Path) -> None:
    certified = place.known_gateway().address
    assert httpx.get(f"{certified}/api/admin/dashboard", headers=ADMIN).status_code == 200
    plain = place.gateway(place.public).address
    refused = httpx.get(f"{plain}/api/admin/dashboard", headers=ADMIN)
    assert (refused.status_code, refused.json()["code"]) == (401, "WRONG_ROLE")
    listed = httpx.get(f"{plain}/api/renters/available-providers")
    assert listed.status_code == 200, "what is for everybody is served at both"
    for pair in (None, issue(trustme.CA(), tmp_path, "stranger")):
        stranger = place.gateway(place.for_gateways, pair).address
        assert httpx.get(f"{stranger}/api/renters/available-providers").status_code == 503


@pytest.mark.slow
def test_check_of_a_batch_whose_gateway_is_killed_goes_on_though_its_renter_never_looks(place: Place) -> None:
    doomed, other, plain = place.known_gateway(), place.known_gateway(), place.gateway(place.public)
    parties = {
        kind: httpx.post(
            f"{other.address}/api/{kind}/register", json={"name": "A", "email": f"{kind}@b.example"}
        )
        for kind in ("providers", "renters")
    }
    keys = {kind: answer.json()["api_key"] for kind, answer in parties.items()}
    place.scripted_daemon(keys["providers"])
    body = {"model": scripted_daemon.MODEL, "messages": [{"role": "user", "content": "a 1 0"}]}
    written = b"".join(
        json.dumps(
            {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
        ).encode()
        + b"\n"
        for number in range(LINES)
    )
    client = openai.OpenAI(base_url=f"{doomed.address}/v1", api_key=keys["renters"])
    file = client.files.create(file=("a.jsonl", written), purpose="batch")
    batch_id = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id
    doomed.kill()
    # At the server alone: a gateway that is asked would take the check over with the renter's key.
    with grpc.secure_channel(place.public, grpc.ssl_channel_credentials(place.ca.read_bytes())) as channel:
        service = batches_pb2_grpc.BatchServiceStub(channel)

        def found() -> pb.Batch:
            return service.GetBatch(pb.GetBatchRequest(batch_id=batch_id), metadata=bearer(keys["renters"]))

        assert found().status == pb.BATCH_STATUS_VALIDATING
        eventually("the check", lambda: found().status != pb.BATCH_STATUS_VALIDATING, TAKEN_SECONDS)
        assert found().request_counts.total == LINES, found()
    taken = [each.log.read_text().count("took over the check") for each in (other, plain)]
    assert taken == [1, 0], "it is the gateway with a certificate that goes on"
