"""Requests that are sent twice are remembered."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE repeat (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    digest {blob} NOT NULL,
    answer {blob},
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX repeat_created ON repeat (created_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables and indices."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in TABLES.format(blob="BLOB" if sqlite else "BYTEA").split(";"):
        db.execute_sql(statement.strip())
