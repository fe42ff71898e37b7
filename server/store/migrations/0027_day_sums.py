"""What each account did on past days, which a duty of the server adds up after the start; indexes of sums."""

from typing import Any

import peewee

TABLE = """
CREATE TABLE day_sum (
    what TEXT NOT NULL,
    owner_id BIGINT NOT NULL,
    day BIGINT NOT NULL,
    part TEXT NOT NULL,
    number BIGINT NOT NULL,
    halala BIGINT NOT NULL,
    PRIMARY KEY (what, owner_id, day, part)
)
"""
# With the amount, sums of requests are read from the index alone.
INDEXES = (
    "CREATE INDEX withdrawal_amount ON withdrawal (state, id, amount_halala)",
    "DROP INDEX withdrawal_state",
)


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table and the index."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for statement in (TABLE + " WITHOUT ROWID" * sqlite, *INDEXES):
        db.execute_sql(statement)
