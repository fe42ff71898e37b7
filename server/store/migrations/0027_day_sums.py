"""What each account did on past days, which a duty of the server adds up after the start."""

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


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the table."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    db.execute_sql(TABLE + " WITHOUT ROWID" * sqlite)
