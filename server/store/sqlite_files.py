"""The files of a SQLite database, which hold e-mail addresses, prompts and bank accounts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from server.domain.errors import DatabaseUrlError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(path: Path, *, may_create: bool) -> None:
    """Creates the file for its owner only. Raises DatabaseUrlError if it or its log is open to others.

    SQLite gives the files that it creates beside the database the database's own mode.
    """
    if not path.exists():
        if not may_create:
            raise DatabaseUrlError(f"{path} does not exist; start dcp-server on it first")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUrlError(f"{path} cannot be created: {error.strerror}") from None
    files = [file for suffix in ("", "-wal", "-shm") if (file := Path(f"{path}{suffix}")).exists()]
    if [file for file in files if file.stat().st_mode & _OTHERS]:
        names = " ".join(str(file) for file in files)
        raise DatabaseUrlError(f"{path} can be read by other users: run chmod 600 {names}")
