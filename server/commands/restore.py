"""``dcp-server restore``: puts a backup in the place of the database, and proves its ledger."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from server.commands import backup, migrate, prove
from server.store import copies, dumps
from server.store.database import sqlite_path


def run(database_url: str, file: Path, environ: Mapping[str, str], *, replace: bool) -> int:
    """Restores, migrates and proves. Exit status of the proof.

    Raises DatabaseUrlError, and CopyError if nothing was changed.
    """
    time = f"{datetime.now(UTC):%Y%m%d_%H%M%S}"
    path = sqlite_path(database_url)
    if path:
        restored = copies.put(file, path, time, replace=replace)
    else:
        restored = dumps.put(file, database_url, time, environ, replace=replace)
    sys.stdout.write(f"restored   {file}\n")
    sys.stdout.writelines(f"{line}\n" for line in backup.lines(restored.contents))
    if restored.kept:
        sys.stdout.write(f"kept       {restored.kept}: what was there before; delete it when you are sure\n")
    migrate.run(database_url, check=False)
    return prove.run(database_url)
