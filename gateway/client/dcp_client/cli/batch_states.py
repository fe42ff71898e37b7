"""Owns what this machine knows of its batches: a command that is started again goes on with its batch.

A private file for each file of requests, by its digest and the market's address. It is written before each
step of which the answer could be lost. It asks no market.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcp_client.cli.keeping import write_private
from dcp_client.cli.texts import say
from dcp_client.reading import MalformedError, loads

_MOST_ENTRIES = 50
Entry = dict[str, Any]
"""`key`: the idempotency key; `max_cost_halala`; then `file_id`, and `batch_id`."""


class BatchState:
    """The batches that were made of one file of requests, the newest last; accounts may take turns."""

    def __init__(self, environ: Mapping[str, str], url: str, sha256: str) -> None:
        base = environ.get("XDG_STATE_HOME") or str(
            Path(environ.get("HOME") or Path.home()) / ".local" / "state"
        )
        name = hashlib.sha256(f"{url}\n{sha256}".encode()).hexdigest()
        self._path = Path(base) / "dcp" / "batches" / f"{name}.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other commands of this machine from making a batch of the same file at the same time."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            except ImportError:  # Windows; the idempotency key is there still
                pass
            yield
        finally:
            os.close(lock)

    def entries(self) -> list[Entry]:
        """What is known. Raises OSError if the file is damaged."""
        damaged = say("{file} is damaged: remove it", file=self._path)
        try:
            found = loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except MalformedError as error:
            raise OSError(damaged) from error
        entries = found.get("batches") if isinstance(found, dict) else None
        if not isinstance(entries, list) or not all(isinstance(x, dict) and "key" in x for x in entries):
            raise OSError(damaged)
        return entries

    def save(self, entry: Entry) -> None:
        """Stores an entry, in the place of the one with its key."""
        others = [each for each in self.entries() if each["key"] != entry["key"]]
        write_private(self._path, {"batches": [*others, entry][-_MOST_ENTRIES:]})


def fresh_entry(**values: Any) -> Entry:
    """The entry of a batch that is yet to be made."""
    return {"key": f"dcp-batch-{secrets.token_hex(16)}", **values}
