"""``dcp-server migrate``: brings the schema to this program's version, or says what that would take."""

from __future__ import annotations

import sys

from server.store import schema
from server.store.database import Database, sqlite_path

DONE, WOULD_RUN = 0, 1


def run(database_url: str, *, check: bool) -> int:
    """Migrates, or with ``check`` only says what would run. Raises DatabaseUrlError."""
    path = sqlite_path(database_url)
    state = schema.read(database_url) if path is None or path.exists() else schema.of_nothing()
    for name in state.pending:
        sys.stdout.write(f"{'would run' if check else 'runs'}  {name}\n")
    if state.is_new:
        sys.stdout.write("The database is new: it has no accounts, jobs or money.\n")
    if check:
        if not state.pending:
            sys.stdout.write(f"The schema is this program's: {state.newest}\n")
        return WOULD_RUN if state.pending else DONE
    database = Database(database_url)
    database.start()
    database.stop()
    sys.stdout.write(f"The schema is this program's: {schema.known()[-1]}\n")
    return DONE
