"""Owns which of the engine's images were brought by jobs, and which of them have to go.

Only these are removed: what the provider pulled is the provider's. The list is a file, so that it survives
the daemon. It must not know the engine.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from common import documents
from daemon.machine import durable

logger = logging.getLogger(__name__)

# An image that was used a moment ago may be about to be started.
LATELY_SECONDS = 1800.0
_MOST = 10_000


class BroughtImages:
    """The images that jobs brought, each with the time of its last use by the machine's clock."""

    def __init__(self, file: Path, now: Callable[[], float]) -> None:
        self._file = file
        self._now = now
        self._used = _read(file)

    def __contains__(self, name: str) -> bool:
        return name in self._used

    def bring(self, name: str) -> None:
        """An image is about to be downloaded for a job. Raises OSError: then it must not be."""
        self._used[name] = self._now()
        self._write()

    def use(self, name: str) -> None:
        """A job uses an image; one that no job brought is not noted."""
        if name in self._used:
            self._used[name] = self._now()
            with contextlib.suppress(OSError):
                self._write()

    def forget(self, name: str) -> None:
        """An image is gone."""
        self._used.pop(name, None)
        with contextlib.suppress(OSError):
            self._write()

    def names(self) -> list[str]:
        """Those that were used the longest ago come first."""
        return sorted(self._used, key=lambda name: self._used[name])

    def to_remove(self, sizes: Mapping[str, int], most_bytes: int, most_seconds: float) -> list[str]:
        """Those that are too old, and the oldest of those that are together too large."""
        now = self._now()
        total, removed = sum(sizes.values()), []
        for name in self.names():
            unused_seconds = now - self._used[name]
            # A clock that was set back makes an image young, never old.
            if unused_seconds < LATELY_SECONDS:
                break
            if unused_seconds > most_seconds or total > most_bytes:
                removed.append(name)
                total -= sizes.get(name, 0)
        return removed

    def _write(self) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(self._file, json.dumps(self._used), mode=0o600)


def _read(file: Path) -> dict[str, float]:
    """What the file holds; nothing where it is missing or damaged: then those images stay."""
    try:
        if not file.exists() or file.stat().st_size > _MOST * 1000:
            return {}
        found = documents.parse(file.read_bytes())
        return {str(name): float(used) for name, used in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("the list of images that jobs brought cannot be read error=%s", error)
        return {}
