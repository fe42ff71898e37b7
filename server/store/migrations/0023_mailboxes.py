"""Accounts are compared by their mailbox, not by the spelling of their address.

Where several accounts have one mailbox already, the oldest gets it, and the others keep their address.
"""

from typing import Any

import peewee

from server.domain.mailboxes import mailbox


def up(migrator: Any, db: peewee.Database) -> None:
    """Brings the addresses of both tables into the new form."""
    mark = db.param
    for table in ("provider", "renter"):
        rows = db.execute_sql(f"SELECT id, email_key FROM {table} ORDER BY id").fetchall()  # noqa: S608
        taken = {key for _, key in rows}
        for id_, key in rows:
            found = mailbox(key) if "@" in key else key
            if found != key and found not in taken:
                taken.add(found)
                db.execute_sql(
                    f"UPDATE {table} SET email_key = {mark} WHERE id = {mark}",  # noqa: S608
                    (found, id_),
                )
