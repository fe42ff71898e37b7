"""Webhooks note how addresses answer, and keep replaced secrets; events keep the facts of their bodies."""

from typing import Any

import peewee

COLUMNS = """
ALTER TABLE webhook ADD COLUMN previous_secrets TEXT NOT NULL DEFAULT '[]';
ALTER TABLE webhook ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE webhook ADD COLUMN failed_id BIGINT;
ALTER TABLE webhook ADD COLUMN paused_until_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE webhook_delivery ADD COLUMN facts TEXT NOT NULL DEFAULT '{}'
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns. Every address counts as working; older events keep their bodies."""
    for statement in COLUMNS.split(";"):
        db.execute_sql(statement)
