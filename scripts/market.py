"""Starts the three programs as real processes on free ports, for the demo, ``up`` and the tests.

Each program runs as its own console command with settings in its environment, and is ended by its process
id. Its standard error goes to a file in the market's folder.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

# Settings without limits, for a test or a measurement whose callers are all on this machine.
UNLIMITED = dict.fromkeys(
    (
        "DCP_LIMIT_KEY",
        "DCP_LIMIT_ADDRESS",
        "DCP_LIMIT_REGISTRATIONS",
        "DCP_LIMIT_FAILED_KEYS",
        "DCP_MAX_OPEN_JOBS",
        "DCP_MAX_STREAMS",
    ),
    "0",
)
READY_SECONDS = 60.0
STOP_SECONDS = 15.0


class NotReadyError(RuntimeError):
    """A program ended, or did not print ``ready`` in time. The text has the end of its log."""


class UnbalancedError(RuntimeError):
    """The ledger of a market did not balance at its end. The text has the discrepancies."""


class Program:
    """A running program. ``addresses`` are what it printed after ``ready``, a line for each port."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        env: Mapping[str, str],
        folder: Path,
        command: Sequence[str] = (),
        ports: int = 1,
    ) -> None:
        """``command``: the command to run; the default is the console command of that name.

        ``ports``: how many lines with ``ready`` it prints.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        self.env = dict(env)
        self._paused = False
        self.command = [*(command or (str(Path(sys.executable).parent / name),)), *arguments]
        self._ports = ports
        self.addresses: list[str] = []
        self.launch()
        try:
            self.wait_ready()
        except BaseException:  # an interruption too: nobody else knows the process yet
            self.stop()
            raise

    @property
    def address(self) -> str:
        """The address that it printed last."""
        return self.addresses[-1]

    def launch(self) -> None:
        """Starts the process without waiting until it is ready."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("DCP_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**inherited, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._pump = threading.Thread(target=_pump, args=(self.process.stdout, self._lines), daemon=True)
        self._pump.start()

    def wait_ready(self) -> None:
        """Waits until it prints ``ready``. If it does not, ends it and raises NotReadyError."""
        self.addresses = []
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            if line.startswith("ready "):
                self.addresses.append(line.removeprefix("ready ").strip())
                if len(self.addresses) == self._ports:
                    return
        self.stop()
        raise NotReadyError(f"{self.name} did not become ready:\n{self.last_words()}")

    def last_words(self) -> str:
        """The last 2,000 characters of its log."""
        return self.log.read_text(errors="replace", encoding="utf-8")[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits; kills the process if it does not end. Returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.resume()  # a paused process does not handle signals
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._close()
        return status

    def kill(self) -> None:
        """Kills it, as a power cut would."""
        self.process.kill()
        self.process.wait()
        self._close()

    def pause(self) -> None:
        """Pauses it with SIGSTOP."""
        self._paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it continue after a pause."""
        self._paused = False
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        """Whether it can answer: it has not ended and is not paused."""
        return self.process.poll() is None and not self._paused

    def restart(self) -> None:
        """Starts a program that has ended again, with the same command and settings."""
        self.launch()
        self.wait_ready()

    def _close(self) -> None:
        """Reads the rest of standard output and closes it. The process must have ended."""
        self._pump.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _pump(lines: Iterable[str], into: queue.Queue[str]) -> None:
    for line in lines:
        into.put(line)


@dataclass
class Market:
    """A server, a gateway and the added daemons, with their data in one folder.

    ``embedded``: server and gateway are one program, dcp-market, which starts in half of the time.
    """

    folder: Path
    admin_token: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Additional DCP_ settings for the server."""
    gateway_settings: Mapping[str, str] = field(default_factory=dict)
    """Additional DCP_ settings for the gateway."""
    http_listen: str = "127.0.0.1:0"
    grpc_listen: str = "127.0.0.1:0"
    embedded: bool = True
    programs: list[Program] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Keys by role, to be printed at the end."""
    grpc_address: str = ""
    url: str = ""
    http: httpx.Client = field(default_factory=httpx.Client)

    def start(self) -> Market:
        """Starts the server and the gateway, and waits until requests can be carried out."""
        if self.embedded:
            self.start_embedded()
        else:
            self.start_gateway(self.start_server().address)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Waits until the gateway reaches the server and its database. Raises NotReadyError."""
        deadline = time.monotonic() + READY_SECONDS
        while (answer := self.http.get("/readyz")).status_code != 200:
            if time.monotonic() > deadline:
                raise NotReadyError(f"the market did not become ready: {answer.text}")
            time.sleep(0.1)

    def start_server(self) -> Program:
        """Starts the server. A restart of it keeps the port and the database."""
        server = Program("dcp-server", env=self._server_env(), folder=self.folder)
        self.programs.append(server)
        self.grpc_address = server.env["DCP_GRPC_LISTEN"] = server.address
        return server

    def start_embedded(self) -> Program:
        """Starts server and gateway as one program. A restart of it keeps both ports and the database."""
        both = Program(
            "dcp-market",
            env={**self._server_env(), "DCP_HTTP_LISTEN": self.http_listen, **self.gateway_settings},
            folder=self.folder,
            ports=2,
        )
        self.programs.append(both)
        self.grpc_address = both.env["DCP_GRPC_LISTEN"] = both.addresses[0]
        self._reach(both)
        return both

    def _server_env(self) -> dict[str, str]:
        url = f"sqlite:///{self.folder / 'dcp.sqlite3'}"
        return {**server_env(self.folder, url, self.grpc_listen, self.admin_token), **self.settings}

    def start_gateway(self, server: str, *, command: Sequence[str] = ()) -> Program:
        """Starts the gateway for the server at an address. A restart of it keeps the port.

        ``command``: as for Program.
        """
        gateway = Program(
            "dcp-gateway",
            env={"DCP_HTTP_LISTEN": self.http_listen, "DCP_SERVER": server, **self.gateway_settings},
            folder=self.folder,
            command=command,
        )
        self.programs.append(gateway)
        self._reach(gateway)
        return gateway

    def _reach(self, gateway: Program) -> None:
        self.url = gateway.address
        gateway.env["DCP_HTTP_LISTEN"] = gateway.address.rpartition("/")[2]
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def add_daemon(
        self,
        provider_key: str,
        state_dir: Path | None = None,
        *,
        server: str = "",
        command: Sequence[str] = (),
        arguments: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> Program:
        """Starts a daemon and waits until it has a session.

        ``server``: the address that the daemon connects to; the default is the server's own address.
        ``command``: as for Program. ``arguments``, ``settings``: additional ones for the daemon.
        """
        daemon = Program(
            "dcp-daemon",
            "run",
            *arguments,
            env={
                # So that the daemon does not read the settings file of the user who runs this.
                "HOME": str(self.folder),
                "DCP_SERVER": server or self.grpc_address,
                "DCP_PROVIDER_KEY": provider_key,
                "DCP_STATE_DIR": str(state_dir or self.folder / "daemon"),
                **(settings or {}),
            },
            folder=self.folder,
            command=command,
        )
        self.programs.append(daemon)
        return daemon

    def register_provider(self, name: str, email: str) -> tuple[int, str]:
        """Registers a provider over HTTP; returns its id and key."""
        answer = self.post("/api/providers/register", {"name": name, "email": email})
        return answer["provider_id"], answer["api_key"]

    def register_renter(self, name: str, email: str) -> tuple[int, str]:
        """Registers a renter over HTTP; returns its id and key."""
        answer = self.post("/api/renters/register", {"name": name, "email": email})
        return answer["renter_id"], answer["api_key"]

    def credit(self, renter_id: int, amount_halala: int) -> int:
        """Credits a renter as the operator; returns the wallet's new balance, in halala."""
        path = f"/api/admin/renters/{renter_id}/credit"
        answer = self.post(path, {"amount_halala": amount_halala}, **{"x-admin-token": self.admin_token})
        return int(answer["balance_halala"])

    def prove_ledger(self) -> dict[str, object]:
        """The proof of the ledger, over HTTP."""
        return self.get("/api/admin/ledger/proof", **{"x-admin-token": self.admin_token})

    def post(self, path: str, body: object, **headers: str) -> dict[str, Any]:
        """The JSON response to a POST. Raises httpx.HTTPStatusError with the response's text."""
        return _checked(self.http.post(path, json=body, headers=headers))

    def get(self, path: str, **headers: str) -> dict[str, Any]:
        """The JSON response to a GET. Raises httpx.HTTPStatusError with the response's text."""
        return _checked(self.http.get(path, headers=headers))

    def check_ledger(self) -> None:
        """Checks the proof of the ledger if server and gateway are running. Raises UnbalancedError."""
        running = {program.name for program in self.programs if program.is_running}
        needed = {"dcp-market"} if self.embedded else {"dcp-server", "dcp-gateway"}
        if not self.admin_token or self.http.is_closed or not running >= needed:
            return
        proof = self.prove_ledger()
        if not proof["balanced"]:
            raise UnbalancedError(f"{self.folder}: {proof['discrepancies']}")

    def stop(self) -> list[int]:
        """Checks the ledger, then stops all programs in reverse order; returns their exit statuses.

        Raises UnbalancedError after all programs have ended.
        """
        try:
            self.check_ledger()
        finally:
            self.http.close()
            statuses = [program.stop() for program in reversed(self.programs)]
        return statuses

    def __enter__(self) -> Market:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def server_env(folder: Path, database_url: str, listen: str, admin_token: str) -> dict[str, str]:
    """The settings of a server whose files of jobs are in a folder."""
    return {
        "DCP_DATABASE_URL": database_url,
        "DCP_BLOB_STORE": f"file:{folder / 'artifacts'}",
        "DCP_GRPC_LISTEN": listen,
        "DCP_ADMIN_TOKEN": admin_token,
        # Nobody is to be checked here, and who counts jobs counts their own.
        "DCP_CANARY_PERCENT": "0",
    }


def _checked(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        text = (
            f"{response.request.method} {response.url.path} answered {response.status_code}: {response.text}"
        )
        raise httpx.HTTPStatusError(text, request=response.request, response=response)
    answer: dict[str, Any] = response.json()
    return answer
