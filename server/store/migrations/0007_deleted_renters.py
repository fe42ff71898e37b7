"""Renters delete their accounts: a state of their own, and what is still to be erased of their jobs."""

from typing import Any

import peewee

# A CHECK cannot be changed on SQLite; a column can be replaced by another on both.
STATEMENTS = (
    "ALTER TABLE renter ADD COLUMN new_state TEXT NOT NULL DEFAULT 'active' "
    "CHECK (new_state IN ('active', 'suspended', 'deleted'))",
    "UPDATE renter SET new_state = state",
    "ALTER TABLE renter DROP COLUMN state",
    "ALTER TABLE renter RENAME COLUMN new_state TO state",
    "ALTER TABLE renter ADD COLUMN erase_from_ms BIGINT",
    "CREATE INDEX renter_to_erase ON renter (id) WHERE erase_from_ms IS NOT NULL",
)


def up(migrator: Any, db: peewee.Database) -> None:
    """Replaces the column of states and adds the mark of what is to be erased."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
