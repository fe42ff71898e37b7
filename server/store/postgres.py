"""PostgreSQL, by its driver. It is imported only if the database is one: the driver takes long to load."""

from __future__ import annotations

import peewee
from playhouse.postgres_ext import Psycopg3Database

from server.store.reading import StopsReads


class _Postgres(StopsReads, Psycopg3Database):
    """A PostgreSQL database."""


def connect(address: str) -> peewee.Database:
    """A database at a URL with the scheme postgresql."""
    return _Postgres(address, connect_timeout=10)
