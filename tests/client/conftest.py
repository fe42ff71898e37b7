"""One market of real processes for the folder, with daemons that play scripts and leave files, and `dcp`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dcp_client import Client

from scripts.market import UNLIMITED, Market
from tests.support.clustered_market import StartMarket
from tests.support.scene import SCRIPTED
from tests.support.terminal_window import Window
from tests.support.warm_command import warm_command

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
FILE_DAEMON = (sys.executable, "-m", "tests.support.file_daemon")
DCP = str(Path(sys.executable).parent / "dcp")
AT_START = {"LANG": "C.UTF-8", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
_numbers = itertools.count(1)


def unique_email(kind: str) -> str:
    """An e-mail address that no other test has used."""
    return f"client-{kind}-{next(_numbers)}@example.com"


@dataclass
class Stage:
    """A market with two providers: one answers scripts, one leaves files."""

    market: Market
    talker: tuple[int, str]
    filer: tuple[int, str]


@pytest.fixture(scope="package")
def stage(start_market: StartMarket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("market")
    settings = {**UNLIMITED, "DCP_SANDBOX_TOPUP": "true"}
    with start_market(folder, admin_token=ADMIN_TOKEN, settings=settings) as market:
        talker = market.register_provider("Riyadh Talker", "talker@example.com")
        filer = market.register_provider("Jeddah Files", "filer@example.com")
        market.add_daemon(talker[1], folder / "talker", command=SCRIPTED)
        market.add_daemon(filer[1], folder / "filer", command=FILE_DAEMON)
        yield Stage(market, talker, filer)
        statuses = market.stop()
    assert statuses == [0] * len(statuses), "every program drains on SIGTERM and exits 0"


@pytest.fixture
def key(stage: Stage) -> str:
    """The key of a new renter with 50 SAR."""
    renter_id, key = stage.market.register_renter("Acme AI", unique_email("renter"))
    stage.market.credit(renter_id, 5000)
    return key


@pytest.fixture
def client(stage: Stage, key: str) -> Iterator[Client]:
    with Client(stage.market.url, key) as client:
        yield client


@pytest.fixture
def admin(stage: Stage) -> Iterator[Client]:
    with Client(stage.market.url, ADMIN_TOKEN) as client:
        yield client


@dataclass
class Terminal:
    """Runs `dcp` as a program of its own, with a home of its own."""

    folder: Path
    environ: dict[str, str]
    program: str = DCP

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs the command without a terminal."""
        given = {**self.environ, **environ}
        dcp = warm_command(DCP, "dcp_client.cli.__main__", (("PATH", os.environ["PATH"]), *AT_START.items()))
        if self.program == DCP and dcp.can_run(given):
            return dcp.run(arguments, stdin, given, self.folder, timeout=120)
        return subprocess.run(
            self.command(arguments),
            input=stdin,
            env=given,
            cwd=self.folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    def output(self, *arguments: str, stdin: str = "", **environ: str) -> str:
        """The standard output of a command that succeeds."""
        done = self.run(*arguments, stdin=stdin, **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def open(self, *arguments: str, columns: int = 100, **environ: str) -> Window:
        """Starts the command on a terminal of its own."""
        return Window(self.command(arguments), {**self.environ, **environ}, self.folder, columns)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The words of a command."""
        return [self.program, *arguments]


@pytest.fixture
def terminal(stage: Stage, tmp_path: Path) -> Terminal:
    """A user who is not logged in. No keyring works here."""
    kept = {name: os.environ[name] for name in ("PATH", "OMP_THREAD_LIMIT") if name in os.environ}
    environ = {
        **kept,
        "HOME": str(tmp_path),
        "COLUMNS": "100",
        "DCP_API_URL": stage.market.url,
        **AT_START,
    }
    return Terminal(tmp_path, environ)


@pytest.fixture
def user(terminal: Terminal, key: str) -> Terminal:
    """A user whose key is in the environment."""
    return Terminal(terminal.folder, {**terminal.environ, "DCP_API_KEY": key})
