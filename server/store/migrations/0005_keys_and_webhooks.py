"""Keys get names, scopes, an end and a last use."""

from typing import Any

import peewee

TABLES = """
ALTER TABLE api_key ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN scopes TEXT;
ALTER TABLE api_key ADD COLUMN expires_ms BIGINT;
ALTER TABLE api_key ADD COLUMN last_used_ms BIGINT;
CREATE INDEX api_key_of_owner ON api_key (role, owner_id, id)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns. Every key that exists is a main key without an end."""
    for statement in TABLES.split(";"):
        db.execute_sql(statement)
