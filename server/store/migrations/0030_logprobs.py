"""How likely the first tokens of the answers to the market's own questions were."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the column: JSON pairs of token and logarithm."""
    db.execute_sql("ALTER TABLE job ADD COLUMN logprobs TEXT")
