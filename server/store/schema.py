"""Which migrations a database has had, and which it lacks. It changes no database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee

from server.domain.errors import DatabaseUrlError
from server.store.database import MIGRATIONS, Database
from server.store.faults import start_fault

_TABLE = "schema_migration"


@dataclass(frozen=True, slots=True)
class State:
    """The schema of one database."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        """Whether no program has prepared the database."""
        return not self.applied

    @property
    def newest(self) -> str:
        """The name of the newest migration that the database has had."""
        return self.applied[-1] if self.applied else "empty"


def known() -> tuple[str, ...]:
    """The migrations of this program, in their order."""
    return tuple(sorted(path.stem for path in Path(MIGRATIONS).glob("[0-9]*.py")))


def of_nothing() -> State:
    """The state of a database that does not exist yet."""
    return state_of(())


def state_of(names: Iterable[str]) -> State:
    """The state of a database that has had these migrations. Raises DatabaseUrlError if it is newer."""
    applied = tuple(sorted(names))
    if unknown := [name for name in applied if name not in known()]:
        raise DatabaseUrlError(
            f"the database is newer than this program (it has {', '.join(unknown)}); run the newer program"
        )
    return State(applied, tuple(name for name in known() if name not in applied))


def read(database_url: str) -> State:
    """The state of a database. Raises DatabaseUrlError if it cannot be read or is newer."""
    with opened(database_url) as database:
        return read_from(database)


def read_from(database: peewee.Database) -> State:
    """The state of an open database. Raises DatabaseUrlError if it is newer."""
    if _TABLE not in database.get_tables():
        return of_nothing()
    return state_of(name for (name,) in rows(database, f"SELECT name FROM {_TABLE}"))  # noqa: S608


@contextmanager
def opened(database_url: str) -> Iterator[peewee.Database]:
    """A connection that prepares nothing. Raises DatabaseUrlError."""
    database = Database(database_url).peewee
    if isinstance(database, peewee.SqliteDatabase):
        # Without a server's settings, some of which are stored in the file.
        database.init(database.database, pragmas=())
    try:
        database.connect()
        yield database
    except peewee.PeeweeException as error:
        raise DatabaseUrlError(start_fault(error)) from None
    finally:
        database.close()


def rows(database: peewee.Database, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    found: list[tuple[Any, ...]] = database.execute_sql(sql, values or None).fetchall()
    return found
