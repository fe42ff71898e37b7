"""A market of real processes to kill: daemons behind proxies, a renter, and a check of the ledger."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from daemon.config.config import BUNDLED_MODEL
from scripts.market import Market, Program
from tests.support import scripted_daemon
from tests.support.patient_renter import Renter, assert_books, eventually
from tests.support.tcp_proxy import TcpProxy

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
SCRIPTED = (sys.executable, "-m", "tests.support.scripted_daemon")
STORY = "Tell a long story about a river."
STORY_TOKENS = 24


class Scene:
    """A market, a renter, and daemons that each reach the server through a proxy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.market = Market(folder, admin_token=ADMIN_TOKEN, embedded=False)
        self._stack = stack
        stack.callback(self._kill_all)
        self.server = self.market.start_server()
        self.gateway_proxy = stack.enter_context(TcpProxy(self.server.address))
        self.gateway = self.market.start_gateway(self.gateway_proxy.address)
        self.renter = Renter(self.market, "renter@example.com", 100_000)
        self.daemons: dict[int, Program] = {}
        self.proxies: dict[int, TcpProxy] = {}
        self.keys: list[str] = []
        self._job_ids: list[str] = []

    def _kill_all(self) -> None:
        self.market.http.close()
        for program in reversed(self.market.programs):
            program.kill()

    def add_daemon(self, *, real: bool = False) -> int:
        """Starts a daemon, with the real model or a scripted engine; returns its provider's id."""
        proxy = self._stack.enter_context(TcpProxy(self.server.address))
        number = len(self.daemons) + 1
        provider_id, key = self.market.register_provider("Node", f"p{number}@example.com")
        daemon = self.market.add_daemon(
            key,
            self.state_dir(number),
            server=proxy.address,
            command=() if real else SCRIPTED,
        )
        self.daemons[provider_id], self.proxies[provider_id] = daemon, proxy
        self.keys.append(key)
        return provider_id

    def state_dir(self, number: int) -> Path:
        """The folder of a daemon's journal, by the number of its start."""
        return self.market.folder / f"daemon-{number}"

    def story(self, **changes: Any) -> str:
        """Submits a job for the real model."""
        changes = {"params": {"max_tokens": STORY_TOKENS}, **changes}
        return self._noted(self.renter.submit(BUNDLED_MODEL, STORY, **changes))

    def play(self, prompt: str, **changes: Any) -> str:
        """Submits a job for a scripted engine."""
        return self._noted(self.renter.submit(scripted_daemon.MODEL, prompt, **changes))

    def _noted(self, job_id: str) -> str:
        if job_id not in self._job_ids:
            self._job_ids.append(job_id)
        return job_id

    def lines(self, pattern: str) -> list[re.Match[str]]:
        """The lines of the daemons' logs that match."""
        log = (self.market.folder / "dcp-daemon.log").read_text()
        return list(re.finditer(pattern, log))

    def until_logged(self, pattern: str, times: int = 1) -> None:
        """Waits until the daemons have logged matching lines the given number of times."""
        eventually(f"{times} times {pattern!r} in the log", lambda: len(self.lines(pattern)) >= times)

    def assert_whole(self, job_id: str, output: str, *, attempt: int) -> dict[str, Any]:
        """Asserts that the job completed in this attempt with this output and is billed for that run."""
        job = self.renter.until_final(job_id)
        assert (job["status"], job["attempt"]) == ("completed", attempt), job
        assert self.renter.output(job_id) == output
        self.assert_billed_for_its_run(job)
        return job

    def assert_billed_for_its_run(self, job: dict[str, Any]) -> None:
        """Asserts that the billed time is the lesser of the daemon's and the server's measured time."""
        (finished,) = self.lines(
            rf"job finished outcome=\S+ run_ms=(\d+) job_id={job['job_id']} attempt={job['attempt']} "
        )
        on_record_ms = _ms(job["ended_at"]) - _ms(job["started_at"])
        billed_ms = round(job["billing"]["billed_seconds"] * 1000)
        assert billed_ms == min(int(finished[1]), on_record_ms)
        assert billed_ms > 0

    def assert_books(self) -> None:
        """Asserts that every job is billed once and the ledger balances."""
        assert_books(self.market, self.renter, self._job_ids, self.keys)


@contextmanager
def played(folder: Path) -> Iterator[Scene]:
    """Runs a scene, and ends all its processes whatever happened in it."""
    with ExitStack() as stack:
        yield Scene(folder, stack)
    eventually("the end of every process", lambda: not _processes_of(folder), seconds=10)


def _processes_of(folder: Path) -> list[int]:
    """The processes that were started for a folder, and their descendants."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in value for value in process.environ().values()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return [pid for pid in found if pid != psutil.Process().pid]


def _ms(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
