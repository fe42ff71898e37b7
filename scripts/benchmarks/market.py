"""A marketplace for a benchmark, as real processes: server and gateway, or both in one, and one daemon."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from scripts.benchmarks.processes import BIN, READY_SECONDS, BenchError, Program, Programs, workplace
from scripts.market import UNLIMITED

MODEL = "bench/noop"
SLOTS = 64
_GRPC, _HTTP = r"^ready ([\d.]+:\d+)$", r"^ready http://(\S+)$"


@dataclass(frozen=True, slots=True)
class Renter:
    """A registered renter."""

    id: int
    api_key: str


class Market:
    """A server with its database, a gateway after it, and a daemon; all traffic stays on 127.0.0.1.

    ``embedded``: server and gateway are one program, dcp-market. ``settings``: more for each program. Nothing
    runs until it is started.
    """

    def __init__(
        self,
        programs: Programs,
        name: str = "market",
        *,
        embedded: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = programs.folder / name
        self.folder.mkdir(exist_ok=True)
        self.database = self.folder / "dcp.sqlite3"
        self.admin_token = secrets.token_urlsafe(24)
        self.running: list[Program] = []
        """Its programs, for their CPU seconds; the server is the first."""
        self._programs = programs
        self._embedded = embedded
        self._settings = dict(settings or {})
        self._listen = "127.0.0.1:0"

    @property
    def server(self) -> Program:
        """The server, or the program that is both."""
        return self.running[0]

    @property
    def starts(self) -> Path:
        """The file to which the daemon writes the start of each job."""
        return self.folder / "starts"

    def start(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Starts the server and the gateway, and sets both addresses. Raises BenchError."""
        self.start_server(timeout_seconds)
        if self._embedded:
            self.gateway_address = self.server.wait_for(_HTTP, timeout_seconds)
        else:
            self.start_gateway()

    def start_server(self, timeout_seconds: float = READY_SECONDS) -> Program:
        """Starts the server, or starts it again on the port that it had. Raises BenchError."""
        program = self.launch_server()
        self.server_address = self._listen = program.wait_for(_GRPC, timeout_seconds)
        return program

    def launch_server(self) -> Program:
        """Starts the server without waiting until it is ready."""
        kind = "dcp-market" if self._embedded else "dcp-server"
        settings = {
            "DCP_DATABASE_URL": f"sqlite:///{self.database}",
            "DCP_BLOB_STORE": f"file:{self.folder / 'blobs'}",
            "DCP_GRPC_LISTEN": self._listen,
            "DCP_ADMIN_TOKEN": self.admin_token,
            "DCP_SANDBOX_TOPUP": "true",
            "DCP_LOG_LEVEL": "warning",
            "DCP_CANARY_PERCENT": "0",
            **UNLIMITED,
            **({"DCP_HTTP_LISTEN": "127.0.0.1:0"} if self._embedded else {}),
        }
        program = self._start(kind, [BIN / kind], settings)
        self.running[:1] = [program]
        return program

    def stop_server(self, number: signal.Signals, timeout_seconds: float) -> None:
        """Ends the server with a signal and waits for its end. Raises BenchError."""
        self.server.send(number)
        self.server.wait(timeout_seconds)

    def start_gateway(self) -> Program:
        """Starts the gateway and sets ``gateway_address``. Raises BenchError."""
        settings = {
            "DCP_HTTP_LISTEN": "127.0.0.1:0",
            "DCP_SERVER": self.server_address,
            "DCP_LOG_LEVEL": "warning",
        }
        self.gateway = self._start("dcp-gateway", [BIN / "dcp-gateway"], settings)
        self.gateway_address = self.gateway.wait_for(_HTTP)
        self.running.append(self.gateway)
        return self.gateway

    async def start_daemon(self) -> Program:
        """Starts a daemon with a no-op engine, which writes the file ``starts``. Raises BenchError."""
        registered = await self.call(
            "POST", "/api/providers/register", {"name": "Bench node", "email": "bench-node@example.com"}
        )
        self.daemon = self._start(
            "bench-daemon",
            [BIN / "python", "-m", "scripts.benchmarks.daemon", self.server_address, self.starts, str(SLOTS)],
            {"DCP_PROVIDER_KEY": registered["api_key"]},
        )
        self.daemon.wait_for(r"^(ready)")
        self.running.append(self.daemon)
        return self.daemon

    async def start_attached_daemon(self, name: str, url: str, *, key: str = "", slots: int) -> Program:
        """Starts a dcp-daemon, which gives that many jobs at once to a model server. Raises BenchError.

        An operator vouches for its provider: of a new one, only four slots are believed.
        """
        registered = await self.call(
            "POST", "/api/providers/register", {"name": name, "email": f"{name}@example.com"}
        )
        path = f"/api/admin/providers/{registered['provider_id']}/vouch"
        await self.call("POST", path, {"vouched": True, "reason": "Of the bench."}, self.admin)
        settings = {
            # So that it does not read the settings file of the user who runs this.
            "HOME": str(self.folder),
            "DCP_SERVER": self.server_address,
            "DCP_PROVIDER_KEY": registered["api_key"],
            "DCP_STATE_DIR": str(self.folder / name),
            "DCP_MODELS": "",
            "DCP_ATTACHED_URL": url,
            "DCP_ATTACHED_API_KEY": key,
            "DCP_ATTACHED_SLOTS": str(slots),
            "DCP_LOG_LEVEL": "warning",
        }
        daemon = self._start(f"dcp-daemon-{name}", [BIN / "dcp-daemon", "run"], settings)
        daemon.wait_for(r"^(ready)")
        self.running.append(daemon)
        return daemon

    def _start(self, kind: str, command: list[str | Path], settings: dict[str, str]) -> Program:
        program = self._programs.start(f"{self.name}-{kind}", command, {**settings, **self._settings})
        program.name = kind
        return program

    async def new_renter(self, balance_halala: int = 1_000_000_000) -> Renter:
        """Registers a renter and credits its wallet."""
        email = f"renter-{secrets.token_hex(4)}@example.com"
        answer = await self.call("POST", "/api/renters/register", {"name": "Bench", "email": email})
        renter = Renter(answer["renter_id"], answer["api_key"])
        path = f"/api/admin/renters/{renter.id}/credit"
        await self.call("POST", path, {"amount_halala": balance_halala}, self.admin)
        return renter

    @property
    def admin(self) -> dict[str, str]:
        """The headers of an operator."""
        return {"x-admin-token": self.admin_token}

    async def proof(self) -> dict[str, Any]:
        """The ledger's proof."""
        return await self.call("GET", "/api/admin/ledger/proof", headers=self.admin)

    async def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Sends one JSON request to the gateway. Raises BenchError unless the answer is 2xx."""
        async with (
            aiohttp.ClientSession(f"http://{self.gateway_address}") as client,
            client.request(method, path, json=body, headers=headers) as response,
        ):
            answer = await response.read()
        if not 200 <= response.status < 300:
            raise BenchError(f"{method} {path} answered {response.status}: {answer[:300]!r}")
        return dict(json.loads(answer))


@contextlib.contextmanager
def open_market(*, embedded: bool = False) -> Iterator[Market]:
    """A started marketplace with an empty database; its processes and files are always removed."""
    with workplace() as programs:
        market = Market(programs, embedded=embedded)
        market.start()
        yield market
