"""Jobs know the key that submitted them; keys have budgets, and models and providers that they may use."""

from typing import Any

import peewee

TABLE = """
CREATE TABLE budget_use (
    key_id BIGINT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('day', 'month', 'total')),
    start_day BIGINT NOT NULL,
    used_micros BIGINT NOT NULL,
    is_reported BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (key_id, period, start_day)
)
"""
COLUMNS = (
    "ALTER TABLE job ADD COLUMN key_id BIGINT",
    "ALTER TABLE api_key ADD COLUMN day_budget_micros BIGINT",
    "ALTER TABLE api_key ADD COLUMN month_budget_micros BIGINT",
    "ALTER TABLE api_key ADD COLUMN total_budget_micros BIGINT",
    "ALTER TABLE api_key ADD COLUMN allowed_models TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE api_key ADD COLUMN allowed_providers TEXT NOT NULL DEFAULT '[]'",
)


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table and the columns. Jobs of before this migration count against no key."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in (TABLE + " WITHOUT ROWID" * sqlite, *COLUMNS):
        db.execute_sql(statement)
