"""Renters upload inputs: a row for each, one for each piece of its bytes, and those that jobs name."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE input (
    id {pk},
    input_id TEXT NOT NULL UNIQUE,
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    purpose TEXT NOT NULL,
    name TEXT NOT NULL,
    size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
    received_bytes BIGINT NOT NULL DEFAULT 0,
    sha256 {blob} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('uploading', 'ready', 'doomed')),
    created_ms BIGINT NOT NULL,
    used_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX input_content ON input (renter_id, sha256) WHERE state = 'ready' AND purpose = 'job';
CREATE INDEX input_of_renter ON input (renter_id, purpose, id);
CREATE INDEX input_by_use ON input (state, used_ms);
CREATE TABLE input_piece (
    id {pk},
    owner_id BIGINT NOT NULL REFERENCES input (id),
    first_byte BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    blob_key TEXT NOT NULL UNIQUE,
    stored_ms BIGINT
);
CREATE UNIQUE INDEX input_piece_place ON input_piece (owner_id, first_byte) WHERE stored_ms IS NOT NULL;
CREATE INDEX input_piece_of ON input_piece (owner_id);
CREATE TABLE job_input (
    job_id TEXT NOT NULL REFERENCES job (job_id),
    input_id TEXT NOT NULL,
    PRIMARY KEY (job_id, input_id)
);
CREATE INDEX job_input_named ON job_input (input_id);
ALTER TABLE renter ADD COLUMN input_bytes BIGINT NOT NULL DEFAULT 0;
CREATE INDEX renter_with_bytes ON renter (storage_day, id) WHERE request_bytes + input_bytes > 0
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables, the column and their indexes."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
