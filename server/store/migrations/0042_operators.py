"""Named operators with roles: invitations, keys, log-ins, passkeys, and the challenges that these answer."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE operator (
    id {serial},
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('support', 'finance', 'admin')),
    handle {blob} NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    removed_ms BIGINT
);
CREATE TABLE operator_invitation (
    id {serial},
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    sha256 {blob} NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ended_ms BIGINT
);
CREATE INDEX operator_invitation_open ON operator_invitation (operator_id) WHERE ended_ms IS NULL;
CREATE INDEX operator_invitation_expires ON operator_invitation (expires_ms);
CREATE TABLE operator_key (
    id {serial},
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    sha256 {blob} NOT NULL UNIQUE,
    last4 TEXT NOT NULL,
    name TEXT NOT NULL,
    is_log_in BOOLEAN NOT NULL,
    by_key_id BIGINT,
    by_passkey_id BIGINT,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    last_used_ms BIGINT,
    revoked_ms BIGINT
);
CREATE INDEX operator_key_of_operator ON operator_key (operator_id, is_log_in, id);
CREATE INDEX operator_key_expires ON operator_key (expires_ms);
CREATE TABLE passkey (
    id {serial},
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    credential_id {blob} NOT NULL UNIQUE,
    public_key {blob} NOT NULL,
    sign_count BIGINT NOT NULL,
    name TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    last_used_ms BIGINT
);
CREATE INDEX passkey_of_operator ON passkey (operator_id, id);
CREATE TABLE passkey_challenge (
    id {serial},
    browser_sha256 {blob} NOT NULL UNIQUE,
    purpose TEXT NOT NULL CHECK (purpose IN ('invitation', 'add', 'log_in')),
    operator_id BIGINT REFERENCES operator (id),
    invitation_id BIGINT,
    challenge {blob} NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX passkey_challenge_expires ON passkey_challenge (expires_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables. There is no operator yet: the admin token invites the first."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(
        serial="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        blob="BLOB" if sqlite else "BYTEA",
    )
    for statement in tables.split(";"):
        db.execute_sql(statement.strip())
