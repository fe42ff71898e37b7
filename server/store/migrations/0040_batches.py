"""Renters run many requests from a file: a row for each batch, and one for each of its lines."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE batch (
    id {pk},
    batch_id TEXT NOT NULL UNIQUE,
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    key_id BIGINT,
    endpoint TEXT NOT NULL,
    input_id TEXT NOT NULL,
    state TEXT NOT NULL,
    stop TEXT,
    faults TEXT NOT NULL DEFAULT '[]',
    metadata TEXT NOT NULL DEFAULT '{{}}',
    max_cost_micros BIGINT,
    lines BIGINT NOT NULL DEFAULT 0,
    added_bytes BIGINT NOT NULL DEFAULT 0,
    completed BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    charged_micros BIGINT NOT NULL DEFAULT 0,
    output_bytes BIGINT NOT NULL DEFAULT 0,
    times TEXT NOT NULL DEFAULT '{{}}',
    created_ms BIGINT NOT NULL,
    touched_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ended_ms BIGINT
);
CREATE INDEX batch_of_renter ON batch (renter_id, id);
CREATE INDEX batch_open ON batch (id) WHERE ended_ms IS NULL;
CREATE INDEX batch_ended ON batch (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX batch_kept ON batch (renter_id, id, ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX batch_failed ON batch (id) WHERE state = 'failed';
CREATE TABLE batch_line (
    batch_id BIGINT NOT NULL REFERENCES batch (id),
    number BIGINT NOT NULL,
    custom_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    request {blob},
    max_tokens BIGINT,
    cache_key TEXT NOT NULL,
    form {blob} NOT NULL,
    state TEXT NOT NULL,
    job_id TEXT,
    hold_micros BIGINT NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    PRIMARY KEY (batch_id, number)
);
CREATE UNIQUE INDEX batch_line_custom ON batch_line (batch_id, custom_id);
CREATE INDEX batch_line_state ON batch_line (batch_id, state, number);
CREATE INDEX batch_line_job ON batch_line (job_id) WHERE job_id IS NOT NULL
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables and their indexes."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
