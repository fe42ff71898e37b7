"""Owns the verdicts that outlast the daemon: which models passed their test within the last day.

A restart would else test each model of an attached server, and load it for that. It must not know tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common import documents
from daemon.machine import durable
from daemon.runners import Ability

logger = logging.getLogger(__name__)

KEEP_SECONDS = 86400.0
# A verdict that is confirmed is written again only after this time.
RENEW_SECONDS = 3600.0
MAX_VERDICTS = 1000
_NAME = "verdicts.json"


class Verdict(NamedTuple):
    """What a model can do, and when that was proved, in seconds since 1970."""

    ability: Ability
    at: float


class Verdicts:
    """The verdicts by what identifies a model; only a digest of that is stored."""

    def __init__(self, state_dir: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """`state_dir`: where they are kept; None: nowhere. `now`: seconds since 1970."""
        self._path = state_dir / _NAME if state_dir is not None else None
        self._now = now
        self._verdicts = _read(self._path)
        self._is_stored = True
        self._saving: asyncio.Task[None] | None = None

    def find(self, fingerprint: str) -> Ability | None:
        """What the model can do, if that was proved within the last day."""
        found = self._verdicts.get(_key(fingerprint)) if fingerprint else None
        return found.ability if found is not None and 0 <= self._now() - found.at < KEEP_SECONDS else None

    def note(self, fingerprint: str, ability: Ability | None) -> None:
        """The model has passed a test or a job, or, with None, it has failed."""
        if not fingerprint:
            return
        key, now = _key(fingerprint), self._now()
        known = self._verdicts.get(key)
        if ability is None:
            if self._verdicts.pop(key, None) is not None:
                self._is_stored = False
        elif known is None or known.ability is not ability or not 0 <= now - known.at < RENEW_SECONDS:
            self._verdicts[key] = Verdict(ability, now)
            self._is_stored = False

    def tick(self) -> None:
        """Begins to store what is new, in a thread."""
        if not self._is_stored and self._saving is None:
            self._saving = asyncio.create_task(self._save())
            self._saving.add_done_callback(self._saved)

    async def close(self) -> None:
        """Stores what is new."""
        if self._saving is not None:
            await asyncio.wait([self._saving])
        if not self._is_stored:
            await self._save()

    def _saved(self, task: asyncio.Task[None]) -> None:
        self._saving = None

    async def _save(self) -> None:
        now = self._now()
        fresh = {key: one for key, one in self._verdicts.items() if 0 <= now - one.at < KEEP_SECONDS}
        newest = sorted(fresh, key=lambda key: fresh[key].at)[-MAX_VERDICTS:]
        self._verdicts, self._is_stored = {key: fresh[key] for key in newest}, True
        if self._path is None:
            return
        text = json.dumps({"verdicts": {key: [one.ability, one.at] for key, one in self._verdicts.items()}})
        try:
            await asyncio.to_thread(durable.replace, self._path, text, mode=0o600)
        except OSError as error:
            # The next verdict tries again; without the file, a restart only tests again.
            logger.warning("the verdicts of models could not be stored path=%s error=%s", self._path, error)


def _key(fingerprint: str) -> str:
    return hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(path: Path | None) -> dict[str, Verdict]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            stored = documents.parse_object(file.read(documents.MAX_BYTES + 1))["verdicts"]
        found = {str(key): Verdict(Ability(one[0]), float(one[1])) for key, one in stored.items()}
        return dict(list(found.items())[:MAX_VERDICTS])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        logger.warning(
            "the verdicts of models are not known any more, they are tested again: %s %s", path, error
        )
        return {}
