"""Copies of a PostgreSQL database, by its own programs: pg_dump and pg_restore, if they are installed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from urllib.parse import unquote, urlsplit

import peewee

from server.domain.errors import CopyError
from server.store import schema
from server.store.copies import TABLES, Contents, Restored, new_file

_KEPT = "before_restore_"
# Ownership and rights are those of whoever restores.
_PLAIN = ("--no-owner", "--no-privileges")
_MIGRATIONS = re.compile(r"^COPY public\.schema_migration .*?$\n(.*?)^\\\.$", re.MULTILINE | re.DOTALL)


def take(database_url: str, into: Path, environ: Mapping[str, str]) -> Contents:
    """Dumps a database to a new file, whoever uses it meanwhile. Raises CopyError, DatabaseUrlError."""
    with new_file(into) as partial, schema.opened(database_url) as database:
        # The dump and the counts see the same state.
        with database.atomic("REPEATABLE READ"):
            ((snapshot,),) = schema.rows(database, "SELECT pg_export_snapshot()")
            run_program(
                "pg_dump",
                database_url,
                environ,
                "--format=custom",
                f"--snapshot={snapshot}",
                f"--exclude-schema={_KEPT}*",
                f"--file={partial}",
                *_PLAIN,
            )
            state, counts = schema.read_from(database), _counts(database)
        names = _migrations_in(partial, database_url, environ)
        if sorted(names) != list(state.applied):
            raise CopyError(f"{partial} does not have the schema of the database")
        return Contents(
            partial.stat().st_size, state.newest, counts, "by reading the dump's index and schema"
        )


def put(copy: Path, database_url: str, time: str, environ: Mapping[str, str], *, replace: bool) -> Restored:
    """Restores a dump; the tables that were there are kept in a schema with the time in its name.

    Raises CopyError, and then nothing was changed.
    """
    if not copy.is_file():
        raise CopyError(f"{copy} is not a file")
    state = schema.state_of(_migrations_in(copy, database_url, environ))
    with schema.opened(database_url) as database:
        ((others,),) = schema.rows(
            database,
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        if others:
            raise CopyError(f"{others} connections to the database are open: stop every dcp-server first")
        kept = f"{_KEPT}{time}" if database.get_tables() else ""
        if kept and not replace:
            raise CopyError(
                "the database has tables: --replace keeps them in a schema beside the restored ones"
            )
        if kept:
            _move_aside(database, kept)
        try:
            run_program(
                "pg_restore",
                database_url,
                environ,
                "--single-transaction",
                "--exit-on-error",
                *_PLAIN,
                str(copy),
            )
        except CopyError:
            if kept:
                _move_back(database, kept)
            raise
        contents = Contents(
            copy.stat().st_size, state.newest, _counts(database), "by reading the dump's index and schema"
        )
    return Restored(contents, f"the schema {kept}" if kept else "")


def _move_aside(database: peewee.Database, kept: str) -> None:
    with database.atomic():
        database.execute_sql(f"ALTER SCHEMA public RENAME TO {kept}")
        database.execute_sql("CREATE SCHEMA public")


def _move_back(database: peewee.Database, kept: str) -> None:
    with database.atomic():
        database.execute_sql("DROP SCHEMA public CASCADE")
        database.execute_sql(f"ALTER SCHEMA {kept} RENAME TO public")


def _counts(database: peewee.Database) -> dict[str, int]:
    return {
        table: int(schema.rows(database, f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608
        for table in TABLES
    }


def _migrations_in(copy: Path, database_url: str, environ: Mapping[str, str]) -> list[str]:
    """The migrations that a dump's database has had. Raises CopyError if it is not a dump of ours."""
    text = run_program(
        "pg_restore", "", environ, "--data-only", "--table=schema_migration", "--file=-", str(copy)
    )
    found = _MIGRATIONS.search(text)
    if found is None:
        raise CopyError(f"{copy} is not a dump of a database of dcp-server")
    return [line.split("\t")[1] for line in found[1].splitlines()]


def run_program(program: str, database_url: str, environ: Mapping[str, str], *arguments: str) -> str:
    """Runs a program of PostgreSQL and returns its output. Raises CopyError with its words."""
    path = which(program, path=environ.get("PATH"))
    if path is None:
        raise CopyError(
            f"{program} is not installed: install PostgreSQL's client programs (Debian: postgresql-client), "
            "of at least the version of the database's server"
        )
    address, password = _without_password(database_url)
    # A password among the arguments could be read by every user of the machine.
    secret = {"PGPASSWORD": password} if password else {}
    done = subprocess.run(
        [path, *([f"--dbname={address}"] if address else []), *arguments],
        env={**environ, **secret},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = " ".join(done.stderr.split())[:500]
        remedy = "; install the programs of the server's version" if "version mismatch" in words else ""
        raise CopyError(f"{program} failed: {words}{remedy}")
    return done.stdout


def _without_password(url: str) -> tuple[str, str]:
    """The address without its password, and the password; both are empty for an empty address."""
    if not url:
        return "", ""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    address = parts._replace(scheme="postgresql", netloc=f"{user.partition(':')[0]}{at}{host}").geturl()
    return address, unquote(parts.password or "")
