"""Keys get names, scopes, an end and a last use; renters get webhooks with an outbox."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE api_key ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN scopes TEXT;
ALTER TABLE api_key ADD COLUMN expires_ms BIGINT;
ALTER TABLE api_key ADD COLUMN last_used_ms BIGINT;
CREATE INDEX api_key_of_owner ON api_key (role, owner_id, id);
CREATE TABLE webhook (
    renter_id BIGINT PRIMARY KEY REFERENCES renter (id),
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    balance_low_halala BIGINT,
    balance_is_low BOOLEAN NOT NULL,
    due_ms BIGINT,
    claimed_until_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX webhook_due ON webhook (due_ms) WHERE due_ms IS NOT NULL;
CREATE TABLE webhook_delivery (
    id {pk},
    renter_id BIGINT NOT NULL REFERENCES renter (id),
    event_id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('waiting', 'delivered', 'failed')),
    created_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms BIGINT NOT NULL,
    last_ms BIGINT,
    status_code INTEGER,
    error TEXT
);
CREATE INDEX webhook_delivery_of_renter ON webhook_delivery (renter_id, id);
CREATE INDEX webhook_delivery_waiting ON webhook_delivery (renter_id, next_ms) WHERE status = 'waiting'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns and tables. Every key that exists is a main key without an end."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(pk="INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY")
    for statement in tables.split(";"):
        db.execute_sql(statement)
