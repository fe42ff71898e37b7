"""Jobs get the time when their texts were removed, renters the size of their kept requests."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE job ADD COLUMN texts_removed_ms BIGINT;
ALTER TABLE renter ADD COLUMN request_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE renter SET request_bytes = COALESCE(
    (SELECT SUM({octets}) FROM job WHERE job.renter_id = renter.id AND renter.state <> 'deleted'), 0
);
CREATE INDEX job_with_texts ON job (ended_ms) WHERE texts_removed_ms IS NULL;
CREATE INDEX job_files_of_renter ON job (renter_id, artifact_bytes) WHERE artifact_bytes > 0;
CREATE INDEX job_files_of_provider ON job (provider_id, artifact_bytes) WHERE artifact_bytes > 0
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns and indexes, and measures the stored requests."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    octets = "LENGTH(CAST(job.spec AS BLOB))" if sqlite else "OCTET_LENGTH(job.spec)"
    for statement in TABLES.format(octets=octets).split(";"):
        db.execute_sql(statement.strip())
