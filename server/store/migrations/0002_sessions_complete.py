"""Deadlines to start, lost periods of each job, truncation, and who renewed a lease when."""

import time
from typing import Any

import peewee

START_WITHIN_MS = 600_000
LOST_AFTER_MS = 300_000
OUTPUT_LIMIT_BYTES = 2 * 1024 * 1024

COLUMNS = f"""
ALTER TABLE job ADD COLUMN start_within_ms BIGINT NOT NULL DEFAULT {START_WITHIN_MS};
ALTER TABLE job ADD COLUMN start_by_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN lost_after_ms BIGINT NOT NULL DEFAULT {LOST_AFTER_MS};
ALTER TABLE job ADD COLUMN output_truncated BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE lease ADD COLUMN failure_reason TEXT;
ALTER TABLE lease ADD COLUMN output_limit_bytes BIGINT NOT NULL DEFAULT {OUTPUT_LIMIT_BYTES};
ALTER TABLE provider ADD COLUMN renewed_ms BIGINT;
CREATE INDEX job_start_by ON job (start_by_ms) WHERE state = 'queued';
CREATE INDEX lease_history ON lease (provider_id, ended_ms) WHERE state = 'ended' AND attempt > 0;
CREATE INDEX lease_accepted ON lease (accepted_ms) WHERE state = 'accepted'
"""
# Until now a failed lease kept its reason where the words for people are.
CARRIED_OVER = """
UPDATE provider SET renewed_ms = last_heartbeat_ms;
UPDATE lease SET failure_reason = CASE detail WHEN 'ended by the server' THEN 'DURATION_LIMIT' ELSE detail END
    WHERE outcome = 'failed'
"""
TRUNCATE_GUARD = (
    "CREATE TRIGGER transfer_no_truncate BEFORE TRUNCATE ON transfer "
    "FOR EACH STATEMENT EXECUTE FUNCTION transfer_is_immutable()"
)


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns. A job that waits already gets the whole default time from now on."""
    for statement in (COLUMNS + ";" + CARRIED_OVER).split(";"):
        db.execute_sql(statement.strip())
    job = peewee.Table("job").bind(db)
    job.update({job.c.start_by_ms: int(time.time() * 1000) + START_WITHIN_MS}).execute()
    if not isinstance(db, peewee.SqliteDatabase):
        db.execute_sql(TRUNCATE_GUARD)
