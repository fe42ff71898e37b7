"""When an attempt's first output came, and how long the first token of the market's own questions took."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Adds the columns. Attempts of earlier have none."""
    db.execute_sql("ALTER TABLE lease ADD COLUMN first_output_ms BIGINT")
    db.execute_sql("ALTER TABLE canary ADD COLUMN first_token_ms BIGINT")
