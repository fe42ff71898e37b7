"""Reads a journal as it lies on a disk, and changes nothing there."""

from __future__ import annotations

from pathlib import Path

from daemon.journal import segment
from daemon.journal.disk import Disk
from daemon.journal.segment import HEADER_BYTES, Attempt, AttemptId
from daemon.protocol.records import History


def histories(contents: list[bytes]) -> list[History]:
    """The attempts in the contents of a journal's segments."""
    attempts: dict[AttemptId, Attempt] = {}
    for content in contents:
        for entry in segment.read(content).entries:
            segment.apply(entry, attempts)
    return [attempt.history for attempt in attempts.values()]


def on_disk(disk: Disk) -> list[History]:
    """The attempts in the journal of a disk."""
    return histories([disk.read(name) for name in disk.names()])


def in_folder(folder: Path) -> list[History]:
    """The attempts in the journal of a folder."""
    return histories([path.read_bytes() for path in sorted(folder.glob("*.segment"))])


def is_empty(disk: Disk) -> bool:
    """Whether nothing of any attempt is left on a disk, not even bytes that count no more."""
    return all(len(disk.read(name)) <= HEADER_BYTES for name in disk.names())
