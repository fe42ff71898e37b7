"""A wallet's lines are read in order, a page at a time."""

from typing import Any

import peewee

STATEMENTS = (
    "CREATE INDEX transfer_debit_line ON transfer (debit_account_id, id)",
    "CREATE INDEX transfer_credit_line ON transfer (credit_account_id, id)",
    "DROP INDEX transfer_debit",
    "DROP INDEX transfer_credit",
)


def up(migrator: Any, db: peewee.Database) -> None:
    """Replaces the indexes of transfers by ones that also give their order."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
