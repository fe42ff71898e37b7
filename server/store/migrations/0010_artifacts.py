"""Jobs leave files: a row for each, beside the store of their bytes."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE job ADD COLUMN artifact_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN artifact_bytes BIGINT NOT NULL DEFAULT 0;
CREATE TABLE artifact (
    id {pk},
    job_id TEXT NOT NULL REFERENCES job (job_id),
    lease_epoch INTEGER NOT NULL,
    name TEXT NOT NULL,
    size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
    sha256 {blob} NOT NULL,
    blob_key TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('uploading', 'ready', 'published', 'doomed')),
    created_ms BIGINT NOT NULL,
    published_ms BIGINT
);
CREATE UNIQUE INDEX artifact_name ON artifact (job_id, lease_epoch, name)
    WHERE state IN ('ready', 'published');
CREATE INDEX artifact_of_job ON artifact (job_id, lease_epoch);
CREATE INDEX artifact_unpublished ON artifact (state, created_ms) WHERE state <> 'published';
CREATE INDEX artifact_published ON artifact (published_ms) WHERE state = 'published'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns, the table and its indices."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
