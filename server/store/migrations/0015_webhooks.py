"""Webhooks note how their addresses answer, and keep replaced secrets for their grace period."""

from typing import Any

import peewee

COLUMNS = """
ALTER TABLE webhook ADD COLUMN previous_secrets TEXT NOT NULL DEFAULT '[]';
ALTER TABLE webhook ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE webhook ADD COLUMN failed_id BIGINT;
ALTER TABLE webhook ADD COLUMN paused_until_ms BIGINT NOT NULL DEFAULT 0
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns: every address counts as working, and no secret as replaced."""
    for statement in COLUMNS.split(";"):
        db.execute_sql(statement)
