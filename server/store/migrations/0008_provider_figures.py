"""Providers see what they earned when, all their jobs in pages, and how their GPUs did over time."""

from typing import Any

import peewee

# With kind, which is the same in all of it, SQLite answers a sum of payouts from transfer_payout alone.
TABLES = """
CREATE INDEX transfer_payout ON transfer (credit_account_id, created_ms, amount_halala, kind)
    WHERE kind = 'payout';
CREATE INDEX job_of_provider ON job (provider_id, created_ms, job_id);
CREATE INDEX job_of_provider_in_state ON job (provider_id, state, created_ms, job_id);
DROP INDEX job_provider;
CREATE TABLE gpu_metrics (
    provider_id BIGINT NOT NULL REFERENCES provider (id),
    width_seconds INTEGER NOT NULL,
    start_ms BIGINT NOT NULL,
    writer BIGINT NOT NULL,
    gpus TEXT NOT NULL,
    PRIMARY KEY (provider_id, width_seconds, start_ms, writer)
){clustered};
CREATE INDEX gpu_metrics_old ON gpu_metrics (width_seconds, start_ms)
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table and the indices; one of jobs replaces a shorter one."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in TABLES.format(clustered=" WITHOUT ROWID" if sqlite else "").split(";"):
        db.execute_sql(statement.strip())
