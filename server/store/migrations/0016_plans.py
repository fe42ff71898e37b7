"""Requests read no rows of others: indexes, the job type of holds and payouts, and counts of jobs by day."""

import time
from typing import Any

import peewee

DAY_MS = 24 * 60 * 60 * 1000

# With the amount, SQLite and PostgreSQL answer sums of transfers from the index alone.
STATEMENTS = """
ALTER TABLE hold ADD COLUMN job_type TEXT NOT NULL DEFAULT '';
UPDATE hold SET job_type = COALESCE((SELECT job_type FROM job WHERE job.job_id = hold.job_id), '');
CREATE INDEX hold_posted ON hold (renter_id, resolved_ms, job_type, charge_halala) WHERE state = 'posted';
ALTER TABLE transfer ADD COLUMN job_type TEXT;
{unguard};
UPDATE transfer SET job_type = (SELECT job_type FROM job WHERE job.job_id = transfer.job_id)
    WHERE kind = 'payout';
{guard};
CREATE INDEX transfer_earned ON transfer (credit_account_id, created_ms, job_type, amount_halala, kind)
    WHERE kind = 'payout';
DROP INDEX transfer_payout;
CREATE INDEX transfer_debit_amount ON transfer (debit_account_id, id, amount_halala);
CREATE INDEX transfer_credit_amount ON transfer (credit_account_id, id, amount_halala);
CREATE INDEX transfer_amount_of_kind ON transfer (kind, created_ms, amount_halala);
DROP INDEX transfer_debit_line;
DROP INDEX transfer_credit_line;
DROP INDEX transfer_of_kind;
CREATE INDEX job_of_renter_in_state ON job (renter_id, state, created_ms, job_id);
CREATE INDEX job_final ON job (state, created_ms, job_id) WHERE state IN ('completed', 'failed', 'cancelled');
CREATE INDEX job_ended ON job (ended_ms, state) WHERE ended_ms IS NOT NULL;
CREATE TABLE job_tally (
    day BIGINT NOT NULL,
    state TEXT NOT NULL,
    jobs BIGINT NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (day, state)
);
INSERT INTO job_tally SELECT ended_ms / {day_ms}, state, COUNT(*) FROM job
    WHERE ended_ms < {before_ms} GROUP BY ended_ms / {day_ms}, state
"""
# Transfers are immutable; what this adds to them follows from their jobs.
GUARDS = {
    True: (
        "DROP TRIGGER transfer_no_update",
        "CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer "
        "BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END",
    ),
    False: (
        "ALTER TABLE transfer DISABLE TRIGGER transfer_no_change",
        "ALTER TABLE transfer ENABLE TRIGGER transfer_no_change",
    ),
}
# PostgreSQL finds the beginning of a text only in an index that ignores the rules of a language.
POSTGRES = "CREATE INDEX job_id_prefix ON job (job_id text_pattern_ops)"


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds columns, indexes and the table, and counts the jobs that ended before yesterday."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    unguard, guard = GUARDS[sqlite]
    yesterday = int(time.time() * 1000) // DAY_MS - 1
    for statement in (part.strip() for part in STATEMENTS.split(";")):
        sql = {"{unguard}": unguard, "{guard}": guard}.get(statement, statement)
        db.execute_sql(sql.format(day_ms=DAY_MS, before_ms=yesterday * DAY_MS))
    if not sqlite:
        db.execute_sql(POSTGRES)
