"""Browsers log in: a log-in is a main key with an end; a mailed code gives one to the browser that asked."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE api_key ADD COLUMN is_log_in BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX api_key_of_log_ins ON api_key (expires_ms) WHERE is_log_in;
CREATE INDEX api_key_log_ins_of_owner ON api_key (role, owner_id, id) WHERE is_log_in AND revoked_ms IS NULL;
CREATE INDEX api_key_ended_log_ins ON api_key (revoked_ms) WHERE is_log_in AND revoked_ms IS NOT NULL;
ALTER TABLE letter ADD COLUMN log_in_code_id BIGINT;
CREATE TABLE log_in_code (
    id {serial},
    role TEXT NOT NULL CHECK (role IN ('provider', 'renter')),
    owner_id BIGINT NOT NULL,
    browser_sha256 {blob} NOT NULL UNIQUE,
    sha256 {blob},
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    guesses INTEGER NOT NULL,
    ended_ms BIGINT
);
CREATE INDEX log_in_code_of_owner ON log_in_code (role, owner_id);
CREATE INDEX log_in_code_expires ON log_in_code (expires_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns and the table. No key that exists is a log-in."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        serial="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
