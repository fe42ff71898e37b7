"""An account belongs to a mailbox, and no longer to a way of writing its address."""

import re
from typing import Any

import peewee

from server.domain.mailboxes import mailbox

NULLABLE = "ALTER TABLE {} ALTER COLUMN mailbox DROP NOT NULL"
NOT_NULL = re.compile(r'("?mailbox"? TEXT) NOT NULL( UNIQUE)')


def _drop_not_null(db: Any, table: str) -> None:
    """Removes the NOT NULL from the table's stored text: SQLite's own way to do it without a copy."""
    (before,) = db.execute_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    after, changes = NOT_NULL.subn(r"\1\2", before)
    if changes != 1:
        raise ValueError(f"the table {table} is not as the migrations before this one leave it")
    (version,) = db.execute_sql("PRAGMA schema_version").fetchone()
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", (after, table))
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")


def _fill(db: Any, table: str, mark: str) -> None:
    """Gives each mailbox to its oldest account. Later accounts of it, and deleted ones, keep none."""
    holders: set[str] = set()
    changes: list[tuple[str | None, int]] = []
    every = f"SELECT id, mailbox FROM {table} ORDER BY id"  # noqa: S608  (a name from below, as everywhere here)
    for account_id, email_key in db.execute_sql(every).fetchall():
        box = mailbox(email_key) if "@" in email_key else None
        if box is not None and box in holders:
            box = None
        if box is not None:
            holders.add(box)
        if box != email_key:
            changes.append((box, account_id))
    for _, account_id in changes:  # first, so that no mailbox is taken by a row that changes later
        db.execute_sql(f"UPDATE {table} SET mailbox = NULL WHERE id = {mark}", (account_id,))  # noqa: S608
    for box, account_id in changes:
        if box is not None:
            change = f"UPDATE {table} SET mailbox = {mark} WHERE id = {mark}"  # noqa: S608
            db.execute_sql(change, (box, account_id))


def up(migrator: Any, db: peewee.Database) -> None:
    """Makes the mailbox of the column by which addresses were compared; it stays unique for each role."""
    sqlite = isinstance(db, peewee.SqliteDatabase)
    for table in ("provider", "renter"):
        db.execute_sql(f"ALTER TABLE {table} RENAME COLUMN email_key TO mailbox")
        if sqlite:
            _drop_not_null(db, table)
        else:
            db.execute_sql(NULLABLE.format(table))
        _fill(db, table, "?" if sqlite else "%s")
