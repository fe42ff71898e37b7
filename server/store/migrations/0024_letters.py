"""Accounts prove their e-mail addresses by codes, which letters carry from an outbox."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE provider ADD COLUMN email_verified_ms BIGINT;
ALTER TABLE renter ADD COLUMN email_verified_ms BIGINT;
CREATE TABLE email_code (
    id {serial},
    role TEXT NOT NULL CHECK (role IN ('provider', 'renter')),
    owner_id BIGINT NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('verify_email', 'new_key')),
    mailbox TEXT NOT NULL,
    sha256 {blob} UNIQUE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    guesses INTEGER NOT NULL,
    ready_ms BIGINT,
    ended_ms BIGINT
);
CREATE INDEX email_code_of_owner ON email_code (role, owner_id, purpose, created_ms);
CREATE INDEX email_code_expires ON email_code (expires_ms);
CREATE TABLE letter (
    id {serial},
    role TEXT NOT NULL CHECK (role IN ('provider', 'renter')),
    owner_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    recipient TEXT NOT NULL,
    mailbox TEXT NOT NULL,
    email_code_id BIGINT,
    facts TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('waiting', 'sent', 'failed')),
    created_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms BIGINT NOT NULL,
    error TEXT
);
CREATE INDEX letter_waiting ON letter (next_ms) WHERE status = 'waiting';
CREATE INDEX letter_of_mailbox ON letter (mailbox, kind, created_ms);
CREATE INDEX letter_of_owner ON letter (role, owner_id);
CREATE INDEX letter_created ON letter (created_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns and tables. No address of an older account counts as proven."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        serial="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
