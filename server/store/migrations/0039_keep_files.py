"""A cancelled job may keep the files that it has written; an input may be fetched from an address."""

from typing import Any

import peewee

COLUMNS = """
ALTER TABLE job ADD COLUMN keeps_files BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE input ADD COLUMN url TEXT NOT NULL DEFAULT '';
ALTER TABLE input ADD COLUMN problem TEXT NOT NULL DEFAULT '';
CREATE INDEX input_to_fetch ON input (id) WHERE state = 'uploading' AND url <> '' AND problem = ''
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns."""
    for statement in COLUMNS.split(";"):
        db.execute_sql(statement.strip())
