"""The audit log of one person: an index, so that the newest entries of a name are read without the others."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the index."""
    db.execute_sql("CREATE INDEX audit_entry_actor ON audit_entry (actor, id)")
