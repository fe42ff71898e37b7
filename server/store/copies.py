"""Copies of a SQLite database: taken beside a running server, verified, and put in its place.

A copy is one file, without a log beside it. It appears under its name only when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from server.domain.errors import CopyError
from server.store import schema, sqlite_files

# What the ledger and the market consist of, in the order in which it is printed.
TABLES = ("transfer", "account", "hold", "job", "provider", "renter")
_SIDES = ("-wal", "-shm", "-journal")
# Where SQLite's connections lock the file as long as they are open (its file format, "locking").
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a copy."""

    size_bytes: int
    schema: str
    """The newest migration."""
    rows: Mapping[str, int]
    """The number of rows by table."""
    verified_by: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What is now in the place of the database, and where the one before it is."""

    contents: Contents
    kept: str
    """Empty if there was none."""


def take(database: Path, into: Path) -> Contents:
    """Copies a database to a new file, whoever uses it meanwhile. Raises CopyError, DatabaseUrlError."""
    sqlite_files.make_private(database, may_create=False)
    with new_file(into) as partial:
        _copy(database, partial)
        return _verified(partial)


def put(copy: Path, database: Path, time: str, *, replace: bool) -> Restored:
    """Puts a copy in the place of a database, which is kept beside it under a name with the time.

    Raises CopyError, and then nothing was changed.
    """
    if not copy.is_file():
        raise CopyError(f"{copy} is not a file")
    if copy.exists() and database.exists() and copy.samefile(database):
        raise CopyError(f"{copy} is the database itself")
    is_there = any(_side(database, suffix).exists() for suffix in ("", "-wal"))
    if is_there and not replace:
        raise CopyError(f"{database} exists: --replace keeps it beside the restored one")
    fresh = database.with_name(f"{database.name}.restoring")
    fresh.unlink(missing_ok=True)  # of a restore that was interrupted
    try:
        _reserve(fresh)
        _copy(copy, fresh)
        contents = _verified(fresh)
        _sync(fresh)
        kept = database.with_name(f"{database.name}.before-restore-{time}") if is_there else None
        with _closed(database):
            if kept is not None:
                _set_aside(database, kept)
            fresh.replace(database)
        _sync(database.parent)
    finally:
        fresh.unlink(missing_ok=True)
    return Restored(contents, str(kept or ""))


@contextmanager
def new_file(into: Path) -> Iterator[Path]:
    """A file to write, which gets its name, on the disk, if the block does not fail. Raises CopyError."""
    if into.exists():
        raise CopyError(f"{into} exists, and no backup overwrites a file: choose another name")
    partial = into.with_name(f"{into.name}.partial")
    _reserve(partial)
    try:
        yield partial
        _sync(partial)
        try:
            os.link(partial, into)  # unlike a rename it fails if the name was taken meanwhile
        except FileExistsError:
            raise CopyError(f"{into} exists, and no backup overwrites a file: choose another name") from None
        except OSError:  # a file system without links
            partial.rename(into)
        partial.unlink(missing_ok=True)
        _sync(into.parent)
    finally:
        partial.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise CopyError(
            f"{path} exists: another backup writes it, or one was interrupted; then remove it"
        ) from None
    except OSError as error:
        raise CopyError(f"{path} cannot be written: {error.strerror}") from None


def _copy(source: Path, into: Path) -> None:
    """Copies one state of a database, also from its log, into an empty file."""
    try:
        with closing(_open(source, "rw")) as live, closing(_open(into, "rw")) as copy:
            # All pages in one step, since a write of another process would begin a copy in steps anew.
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = delete")
    except sqlite3.Error as error:
        raise CopyError(f"{source} cannot be copied: {error}") from None


def _verified(copy: Path) -> Contents:
    """Reads a copy whole. Raises CopyError if it is damaged or not a database of this program."""
    try:
        with closing(_open(copy, "ro")) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise CopyError(f"{copy} is damaged: {' '.join(str(found).split())}")
            if database.execute("PRAGMA foreign_key_check").fetchone():
                raise CopyError(f"{copy} is damaged: a row names one that does not exist")
            names = [name for (name,) in database.execute("SELECT name FROM schema_migration")]
            state = schema.state_of(names)
            rows = {
                table: int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608
                for table in TABLES
            }
    except sqlite3.OperationalError as error:
        raise CopyError(f"{copy} is not a database of dcp-server: {error}") from None
    except sqlite3.DatabaseError as error:
        raise CopyError(f"{copy} is damaged or not a database: {error}") from None
    return Contents(copy.stat().st_size, state.newest, rows, "integrity and foreign keys, whole file")


@contextmanager
def _closed(database: Path) -> Iterator[None]:
    """A block in which no program has the database open. Raises CopyError if one has."""
    if not database.exists():
        yield
        return
    with database.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError:
            raise CopyError(f"a program has {database} open: stop dcp-server first") from None
        yield


def _set_aside(database: Path, kept: Path) -> None:
    """Gives the old database and its log another name. Until it is replaced, its file has both names."""
    if database.exists():
        try:
            os.link(database, kept)
        except OSError:  # a file system without links
            database.rename(kept)
    for suffix in _SIDES:
        with contextlib.suppress(FileNotFoundError):
            _side(database, suffix).rename(_side(kept, suffix))


def _side(database: Path, suffix: str) -> Path:
    return Path(f"{database}{suffix}")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, timeout=10)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
