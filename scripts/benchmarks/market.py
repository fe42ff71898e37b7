"""A marketplace for a benchmark: one server, one gateway, one daemon, as real processes."""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from scripts.benchmarks.processes import BIN, BenchError, Program, Programs
from scripts.market import UNLIMITED

MODEL = "bench/noop"
SLOTS = 64


@dataclass(frozen=True, slots=True)
class Renter:
    """A registered renter."""

    id: int
    api_key: str


class Market:
    """A server and, after ``start_gateway``, a gateway; all traffic stays on 127.0.0.1."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.folder = programs.folder
        self.admin_token = secrets.token_urlsafe(24)
        self.server = programs.start("dcp-server", [BIN / "dcp-server"], self._server_settings("dcp"))
        self.server_address = self.server.wait_for(r"^ready (\S+)$")

    def _server_settings(self, database: str) -> dict[str, str]:
        return {
            "DCP_DATABASE_URL": f"sqlite:///{self.folder / database}.sqlite3",
            "DCP_GRPC_LISTEN": "127.0.0.1:0",
            "DCP_ADMIN_TOKEN": self.admin_token,
            "DCP_SANDBOX_TOPUP": "true",
            "DCP_LOG_LEVEL": "warning",
            **UNLIMITED,
        }

    def start_gateway(self) -> Program:
        """Starts the gateway and sets ``gateway_address``."""
        self.gateway = self.programs.start(
            "dcp-gateway",
            [BIN / "dcp-gateway"],
            {
                "DCP_HTTP_LISTEN": "127.0.0.1:0",
                "DCP_SERVER": self.server_address,
                "DCP_LOG_LEVEL": "warning",
            },
        )
        self.gateway_address = self.gateway.wait_for(r"^ready http://(\S+)$")
        return self.gateway

    def start_embedded(self) -> tuple[Program, str]:
        """Starts server and gateway as one program, with a database of its own; returns its HTTP address."""
        settings = {**self._server_settings("embedded"), "DCP_HTTP_LISTEN": "127.0.0.1:0"}
        program = self.programs.start("dcp-market", [BIN / "dcp-market"], settings)
        return program, program.wait_for(r"^ready http://(\S+)$")

    async def start_daemon(self) -> Program:
        """Starts a daemon with a no-op engine, which writes the file ``starts``."""
        registered = await self.call(
            "POST", "/api/providers/register", {"name": "Bench node", "email": "bench-node@example.com"}
        )
        self.daemon = self.programs.start(
            "bench-daemon",
            [BIN / "python", "-m", "scripts.benchmarks.daemon", self.server_address, self.starts, str(SLOTS)],
            {"DCP_PROVIDER_KEY": registered["api_key"]},
        )
        self.daemon.wait_for(r"^(ready)")
        return self.daemon

    @property
    def starts(self) -> Path:
        """The file to which the daemon writes the start of each job."""
        return self.folder / "starts"

    async def new_renter(self, balance_halala: int = 1_000_000_000, *, address: str = "") -> Renter:
        """Registers a renter and credits its wallet; ``address`` as for ``call``."""
        email = f"renter-{secrets.token_hex(4)}@example.com"
        body = {"name": "Bench", "email": email}
        answer = await self.call("POST", "/api/renters/register", body, address=address)
        renter = Renter(answer["renter_id"], answer["api_key"])
        await self.call(
            "POST",
            f"/api/admin/renters/{renter.id}/credit",
            {"amount_halala": balance_halala},
            {"x-admin-token": self.admin_token},
            address=address,
        )
        return renter

    async def proof(self) -> dict[str, Any]:
        """The ledger's proof."""
        token = {"x-admin-token": self.admin_token}
        return await self.call("GET", "/api/admin/ledger/proof", headers=token)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        address: str = "",
    ) -> dict[str, Any]:
        """Sends one JSON request. Raises BenchError unless the answer is 2xx.

        ``address``: where to; the default is the gateway.
        """
        async with (
            aiohttp.ClientSession(f"http://{address or self.gateway_address}") as client,
            client.request(method, path, json=body, headers=headers) as response,
        ):
            answer = await response.read()
        if not 200 <= response.status < 300:
            raise BenchError(f"{method} {path} answered {response.status}: {answer[:300]!r}")
        return dict(json.loads(answer))


@contextlib.contextmanager
def open_market() -> Iterator[Market]:
    """A new marketplace with an empty database; its processes and files are always removed."""
    with (
        tempfile.TemporaryDirectory(prefix="dcp-bench-") as folder,
        Programs(Path(folder)) as programs,
    ):
        yield Market(programs)
