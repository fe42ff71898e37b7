"""``dcp-server backup``: a verified copy of the database in a file, beside a running server too."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from server.store import copies, dumps
from server.store.copies import Contents
from server.store.database import sqlite_path


def run(database_url: str, file: Path, environ: Mapping[str, str]) -> int:
    """Writes the copy and says what is in it. Raises DatabaseUrlError, and CopyError if it was not written.

    ``environ`` is the environment of the PostgreSQL programs.
    """
    path = sqlite_path(database_url)
    contents = copies.take(path, file) if path else dumps.take(database_url, file, environ)
    sys.stdout.writelines(f"{line}\n" for line in (f"backup     {file}", *lines(contents)))
    return 0


def lines(contents: Contents) -> Iterator[str]:
    """What is in a copy, for people."""
    yield f"size       {contents.size_bytes:,} bytes"
    yield f"schema     {contents.schema}"
    for table, rows in contents.rows.items():
        yield f"{table:<10} {rows:,} rows"
    yield f"verified   {contents.verified_by}"
