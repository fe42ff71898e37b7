"""Providers report their processor and the images that they allow; jobs have theirs beside the request."""

from typing import Any

import peewee

COLUMNS = """
ALTER TABLE provider ADD COLUMN architecture TEXT NOT NULL DEFAULT '';
ALTER TABLE provider ADD COLUMN image_patterns TEXT;
ALTER TABLE job ADD COLUMN image TEXT;
ALTER TABLE job ADD COLUMN architecture TEXT
"""


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns. Of older rows nothing is known: their daemons decide, as before."""
    for statement in COLUMNS.split(";"):
        db.execute_sql(statement)
