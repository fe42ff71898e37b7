"""Mail that waits to be sent, codes that were mailed, and accounts whose mailbox is not proven."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE mail (
    id {serial},
    address TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms BIGINT NOT NULL
);
CREATE INDEX mail_next ON mail (next_ms);
CREATE TABLE mailed_code (
    sha256 {blob} PRIMARY KEY,
    purpose TEXT NOT NULL,
    role TEXT NOT NULL,
    owner_id BIGINT NOT NULL,
    email_key TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    from_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX mailed_code_owner ON mailed_code (role, owner_id, purpose);
CREATE INDEX mailed_code_until ON mailed_code (until_ms);
ALTER TABLE provider ADD COLUMN unproven BOOLEAN NOT NULL DEFAULT {false};
ALTER TABLE renter ADD COLUMN unproven BOOLEAN NOT NULL DEFAULT {false}
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the tables. Accounts that are there need no proof."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    words = {
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY",
        "blob": "BLOB" if sqlite else "BYTEA",
        "false": "0" if sqlite else "FALSE",
    }
    for statement in TABLES.format(**words).split(";"):
        db.execute_sql(statement.strip())
