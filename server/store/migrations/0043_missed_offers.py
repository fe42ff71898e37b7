"""A provider lists the offers that its daemon did not take: an index of these leases alone."""

from typing import Any

import peewee

INDEX = "CREATE INDEX lease_not_taken ON lease (provider_id, ended_ms) WHERE state = 'ended' AND attempt = 0"


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the index."""
    db.execute_sql(INDEX)
