"""Attempts get the digest of the image that they ran."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the column; of older attempts nothing is known."""
    db.execute_sql("ALTER TABLE lease ADD COLUMN image_digest TEXT NOT NULL DEFAULT ''")
