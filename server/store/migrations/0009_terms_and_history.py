"""Providers get terms: own rates and settings. Leases get a public number, by which the history is paged."""

from typing import Any

import peewee

STATEMENTS = """
CREATE TABLE provider_terms (
    provider_id BIGINT PRIMARY KEY REFERENCES provider (id),
    rates TEXT NOT NULL,
    hours TEXT NOT NULL,
    timezone TEXT NOT NULL,
    max_temp_c INTEGER,
    vram_reserve_mib BIGINT NOT NULL CHECK (vram_reserve_mib >= 0),
    changed_ms BIGINT NOT NULL
);
CREATE INDEX provider_terms_changed ON provider_terms (changed_ms);
ALTER TABLE lease ADD COLUMN number BIGINT NOT NULL DEFAULT 0;
UPDATE lease SET number = {random};
CREATE INDEX lease_record ON lease (provider_id, ended_ms, number, outcome, failure_reason)
    WHERE state = 'ended' AND attempt > 0;
DROP INDEX lease_history
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table and the column. Leases that exist get numbers at random, like those to come."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    number = "random() & 281474976710655" if sqlite else "floor(random() * 281474976710655)::bigint"
    for statement in STATEMENTS.format(random=number).split(";"):
        db.execute_sql(statement.strip())
