"""Requests that are sent twice are remembered; operators change rates and list all jobs."""

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
CREATE INDEX repeat_created ON repeat (created_ms);
CREATE TABLE job_rate (
    job_type TEXT NOT NULL PRIMARY KEY,
    halala_per_minute BIGINT NOT NULL CHECK (halala_per_minute > 0)
);
CREATE INDEX job_by_time ON job (created_ms, job_id);
CREATE INDEX job_open ON job (created_ms, job_id)
    WHERE state IN ('queued', 'pending', 'assigned', 'running');
CREATE INDEX transfer_of_kind ON transfer (kind, created_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables and indices."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in TABLES.format(blob="BLOB" if sqlite else "BYTEA").split(";"):
        db.execute_sql(statement.strip())
