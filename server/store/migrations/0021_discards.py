"""Records of what daemons report and the server does not know."""

from typing import Any

import peewee

TABLE = """
CREATE TABLE discard (
    id {serial},
    kind TEXT NOT NULL,
    provider_id BIGINT NOT NULL,
    job_id TEXT NOT NULL,
    lease_epoch INTEGER NOT NULL,
    key_last4 TEXT NOT NULL,
    address TEXT NOT NULL,
    detail TEXT NOT NULL,
    times BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX discard_subject ON discard (provider_id, kind, job_id, lease_epoch, key_last4, address);
CREATE INDEX discard_last ON discard (last_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    serial = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY"
    for statement in TABLE.format(serial=serial).split(";"):
        db.execute_sql(statement.strip())
