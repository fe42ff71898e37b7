"""Checkpoints of the ledger: sums up to one transfer, from which a proof starts. They never change."""

from typing import Any

import peewee

TABLES = """
CREATE TABLE checkpoint (
    id BIGINT NOT NULL PRIMARY KEY,
    transfer_id BIGINT NOT NULL UNIQUE,
    transfers BIGINT NOT NULL CHECK (transfers > 0),
    rows_sha256 {blob} NOT NULL,
    sha256 {blob} NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE TABLE checkpoint_sum (
    account_id BIGINT NOT NULL,
    checkpoint_id BIGINT NOT NULL REFERENCES checkpoint (id),
    sum_halala BIGINT NOT NULL,
    PRIMARY KEY (account_id, checkpoint_id)
);
CREATE INDEX checkpoint_sum_of_checkpoint ON checkpoint_sum (checkpoint_id);
CREATE TABLE checkpoint_hold (
    checkpoint_id BIGINT NOT NULL REFERENCES checkpoint (id),
    job_id TEXT NOT NULL,
    amount_halala BIGINT NOT NULL,
    PRIMARY KEY (checkpoint_id, job_id)
);
CREATE INDEX transfer_of_withdrawal ON transfer (withdrawal_id) WHERE withdrawal_id IS NOT NULL
"""
GUARDED = ("checkpoint", "checkpoint_sum", "checkpoint_hold")
POSTGRES_FUNCTION = (
    "CREATE FUNCTION checkpoint_is_immutable() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = 'checkpoints are immutable'; END $$"
)


def _guards(sqlite: bool) -> list[str]:
    if sqlite:
        return [
            f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'checkpoints are immutable'); END"
            for table in GUARDED
            for event in ("UPDATE", "DELETE")
        ]
    return [
        POSTGRES_FUNCTION,
        *(
            f"CREATE TRIGGER {table}_no_{each.lower()}_change BEFORE {events} ON {table} "
            f"FOR EACH {each} EXECUTE FUNCTION checkpoint_is_immutable()"
            for table in GUARDED
            for events, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT"))
        ),
    ]


def up(migrator: Any, db: peewee.Database) -> None:
    """Creates the tables, their guards, and the index of withdrawals' transfers."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    tables = TABLES.format(blob="BLOB" if sqlite else "BYTEA")
    for statement in [*(part.strip() for part in tables.split(";")), *_guards(sqlite)]:
        db.execute_sql(statement)
