"""Standings say whether a check of the provider passed: until then it gets jobs only as a suspect does."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the column; who has a standing counts as checked until it is assessed, within the hour."""
    db.execute_sql("ALTER TABLE provider_standing ADD COLUMN is_checked BOOLEAN NOT NULL DEFAULT TRUE")
