"""The statements of one database by transaction, from PostgreSQL's log, which only a superuser can read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import psycopg

_LINE = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] (LOG|DETAIL|ERROR|STATEMENT|HINT|WARNING): +(.*)$")
_STATEMENT = re.compile(r"^(?:statement|execute [^:]*): (.*)$")


class StatementLog:
    """Logs every statement of a database from now on, in connections that are opened from now on."""

    def __init__(self, url: str) -> None:
        self._url = url
        name = urlsplit(url).path.lstrip("/")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'".encode())
        self._skipped = 0

    def clear(self) -> None:
        """Forgets what was logged."""
        self._skipped = len(self._read())

    def transactions(self, text: str) -> list[list[str]]:
        """The transactions since then that had this in the parameters of a statement, as their statements."""
        found: list[list[str]] = []
        open_: dict[str, tuple[list[str], list[str]]] = {}
        for line in self._read()[self._skipped :].split("\n"):
            if not (matched := _LINE.match(line)):
                continue
            pid, kind, rest = matched.groups()
            statements, parameters = open_.setdefault(pid, ([], []))
            if kind == "DETAIL":
                parameters.append(rest)
            elif kind == "LOG" and (statement := _STATEMENT.match(rest)):
                statements.append(statement[1])
                if statement[1].split(" ")[0].rstrip(";") in ("COMMIT", "ROLLBACK"):
                    if any(text in each for each in parameters):
                        found.append(statements)
                    del open_[pid]
        return found

    def _read(self) -> str:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT pg_read_file('log')").fetchone()
        assert row is not None
        return str(row[0])
