"""The trace in which a job was submitted."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the column. Jobs of earlier belong to none."""
    db.execute_sql("ALTER TABLE job ADD COLUMN trace TEXT NOT NULL DEFAULT ''")
