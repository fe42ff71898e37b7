"""Which types of job each model of a provider serves."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the column. Until their daemons say more, models serve what they served."""
    db.execute_sql("ALTER TABLE provider_model ADD COLUMN job_types TEXT NOT NULL DEFAULT 'llm-inference'")
