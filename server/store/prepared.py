"""Queries that are built once: peewee generates the SQL at the first use; later only values are bound.

peewee needs ten times as long to build a query as SQLite needs to run it, so the queries that run for
every job or heartbeat are prepared. A prepared query is written as an ordinary peewee query in
which ``arg("name")`` stands for each value:

    _find = PreparedQuery(lambda: Renter.select(Renter.id).where(Renter.id == arg("id")))
    _find.one(id=7)
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import peewee as pw

from server.store.models import Job


class _Arg:
    """The placeholder of a named value."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def arg(name: str) -> Any:
    """The placeholder of a named value, which is bound unchanged: no field converts it."""
    return pw.Value(_Arg(name), converter=False)


class PreparedQuery:
    """One query, prepared at its first use for the database to which its models are bound."""

    __slots__ = ("_build", "_database", "_parameters", "_sql")

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._database: pw.Database | None = None

    def run(self, **values: Any) -> int:
        """Runs an INSERT, UPDATE or DELETE; returns how many rows it changed."""
        return int(self._execute(values).rowcount)

    def one(self, **values: Any) -> tuple[Any, ...] | None:
        """The first row of a SELECT."""
        row: tuple[Any, ...] | None = self._execute(values).fetchone()
        return row

    def all(self, **values: Any) -> list[tuple[Any, ...]]:
        """Every row of a SELECT."""
        rows: list[tuple[Any, ...]] = self._execute(values).fetchall()
        return rows

    def value(self, **values: Any) -> Any:
        """The first column of the first row of a SELECT; None without a row."""
        row = self.one(**values)
        return row[0] if row else None

    def _execute(self, values: dict[str, Any]) -> Any:
        database = Job._meta.database  # every model is bound to the same database
        if self._database is not database:
            self._sql, self._parameters = self._build().sql()
            self._database = database
        parameters = [values[p.name] if isinstance(p, _Arg) else p for p in self._parameters]
        return database.execute_sql(self._sql, parameters)


class OfEach:
    """A query for one id, asked for many of them, such as for the newest rows of each.

    ``text`` is its SQL, with ``{id}`` in place of the id. SQLite runs it for each id, as one prepared
    statement; PostgreSQL joins it to all ids, and so plans it once.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def rows(self, ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """The rows of all these ids."""
        database = Job._meta.database
        if database.for_update:  # PostgreSQL
            text = self._text.format(id="wanted.id")
            joined = (
                "SELECT found.* FROM unnest(%s::bigint[]) AS wanted (id) "  # noqa: S608  (the text is ours)
                f"CROSS JOIN LATERAL ({text}) AS found"
            )
            yield from database.execute_sql(joined, (list(ids),))
            return
        text = self._text.format(id="?1")
        for id_ in ids:
            yield from database.execute_sql(text, (id_,))


class PreparedRows:
    """Rows of one table, as named tuples with the names of its columns.

    Columns ``without`` are None; ``also`` are expressions over the tables that ``where`` joins, by name.
    """

    def __init__(
        self,
        model: type[pw.Model],
        where: Callable[[Any], Any],
        without: Sequence[str] = (),
        **also: Any,
    ) -> None:
        fields = [field for field in model._meta.sorted_fields if field.name not in without]
        names = [*(field.name for field in fields), *also, *without]
        self._row = namedtuple(model.__name__, names, defaults=[None] * len(without))  # type: ignore[misc]
        self._query = PreparedQuery(lambda: where(model.select(*fields, *also.values())))

    def one(self, **values: Any) -> Any:
        """The first row; None if there is none."""
        row = self._query.one(**values)
        return self._row(*row) if row is not None else None

    def all(self, **values: Any) -> list[Any]:
        """Every row."""
        return [self._row(*row) for row in self._query.all(**values)]


def squeezed_column(column: Any) -> Any:
    """``server.domain.gpu_models.squeezed`` of a column whose values have single spaces."""
    text: Any = pw.fn.REPLACE(column, " ", "")
    if Job._meta.database.for_update:  # PostgreSQL: lower ASCII letters alone, as SQLite does
        text = pw.NodeList((text, pw.SQL('COLLATE "C"')))
    return pw.fn.LOWER(text)


def locking(query: Any, how: str = "FOR UPDATE") -> Any:
    """The query with a row lock. SQLite does not have row locks, and needs none: it has one writer."""
    return query.for_update(how) if Job._meta.database.for_update else query


def bound(model: type[pw.Model], *names: str, **fixed: Any) -> dict[Any, Any]:
    """The columns of an INSERT or UPDATE: ``names`` with placeholders, ``fixed`` with their values."""
    return {
        **{getattr(model, name): arg(name) for name in names},
        **{getattr(model, name): value for name, value in fixed.items()},
    }
