"""PostgreSQL, by its driver. It is imported only if the database is one: the driver takes long to load.

A server that freezes or is cut off in the middle of a transaction has rows locked. PostgreSQL must not wait
for it any longer than the market does, or all other servers stand still.
"""

from __future__ import annotations

from typing import Any

import peewee
from playhouse.postgres_ext import Psycopg3Database
from psycopg.conninfo import conninfo_to_dict

from server.domain.errors import DatabaseUrlError
from server.store.reading import StopsReads

# A server that is silent for longer is taken for gone by the others (server.services.servers).
IDLE_IN_TRANSACTION = "10s"
# Each end notices after about 25 s that the other one's machine is gone, for which TCP alone takes hours.
_SESSION = {
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION,
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
}
_CONNECTION: dict[str, Any] = {
    # Not what the environment or the database's owner says: texts are read as UTF-8.
    "client_encoding": "UTF8",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


class _Postgres(StopsReads, Psycopg3Database):
    """A PostgreSQL database."""

    def _connect(self) -> Any:
        connection = super()._connect()
        try:
            if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
                raise DatabaseUrlError(
                    f"the database has the encoding {encoding}, in which not every text can be stored; "
                    "create it with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                )
            connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in _SESSION.items()))
        except BaseException:
            connection.close()
            raise
        return connection

    def begin(self, isolation_level: str | None = None) -> None:
        """Begins a transaction. A read, which has an isolation level, locks nothing: it may pause."""
        if isolation_level is None:
            super().begin()
            return
        may_pause = "SET LOCAL idle_in_transaction_session_timeout = 0"
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            self.cursor().execute(f"BEGIN ISOLATION LEVEL {isolation_level}; {may_pause}", prepare=False)


def connect(address: str) -> peewee.Database:
    """A database at a URL with the scheme postgresql, whose own parameters go first."""
    given = conninfo_to_dict(address)
    ours: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in given}
    return _Postgres(address, **ours)
