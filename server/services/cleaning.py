"""Deletes artifacts of uploads that broke off, of attempts that were lost, and files older than the limit.

It marks a row first, then deletes its bytes, then the row, so that the next tick continues after a crash.
A crash at the wrong moment leaves bytes without a row; listing the store once a day finds them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from server.blobs import BlobMissingError, Blobs, BlobStoreError, Stored
from server.clock import Clock, ms
from server.domain.artifacts import UPLOAD_SECONDS, ArtifactLimits
from server.store import artifacts, inputs
from server.store.database import Database

log = logging.getLogger(__name__)

BATCH = 200
# Younger bytes and rows may belong to an upload that is still in progress.
LEFT_SECONDS = 2 * UPLOAD_SECONDS
LOOK_THROUGH_SECONDS = 24 * 3600.0


class Cleaning:
    """Applies the time limits of artifacts, every half minute."""

    def __init__(self, database: Database, blobs: Blobs, clock: Clock, limits: ArtifactLimits) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._keep_ms = limits.keep_ms
        self._pages: AsyncIterator[list[Stored]] | None = None
        self._look_through_at = clock.now()
        self._deleted_through = 0

    async def tick(self) -> None:
        """Deletes a batch of artifacts that are due, and checks one page of the store for orphaned bytes."""
        now_ms = ms(self._clock)
        uploads_ms, expired_ms = now_ms - int(LEFT_SECONDS * 1000), now_ms - self._keep_ms
        try:
            if await self._database.read(lambda: artifacts.is_anything_due(uploads_ms, expired_ms)):
                await self._database.run(lambda: _mark(uploads_ms, expired_ms))
                await self._delete()
            await self._look_through()
        except (BlobStoreError, BlobMissingError) as error:
            log.error("the store of artifacts could not be cleaned error=%s", error)

    async def _delete(self) -> None:
        marked = await self._database.read(lambda: artifacts.to_delete(self._deleted_through, BATCH))
        # The next tick goes on behind this batch: bytes that cannot be deleted hold up no other.
        self._deleted_through = marked[-1][0] if len(marked) == BATCH else 0
        deleted = [number for number, key in marked if await self._is_deleted(key)]
        if deleted:
            await self._database.run(lambda: artifacts.delete(deleted))
            log.info("deleted artifacts count=%d", len(deleted))

    async def _is_deleted(self, key: str) -> bool:
        try:
            await self._blobs.delete(key)
        except (BlobStoreError, BlobMissingError) as error:
            log.error("the bytes of an artifact could not be deleted error=%s", error)
            return False
        return True

    async def _look_through(self) -> None:
        """Deletes the bytes in the next page of the store that no row names; starts over once a day."""
        if self._pages is None:
            if self._clock.now() < self._look_through_at:
                return
            self._look_through_at = self._clock.now() + LOOK_THROUGH_SECONDS
            await self._blobs.clean(LEFT_SECONDS)
            self._pages = self._blobs.list()
        try:
            page = await anext(self._pages, None)
        except BaseException:
            self._pages = None
            raise
        if page is None:
            self._pages = None
            return
        old = [blob.key for blob in page if blob.age_seconds > LEFT_SECONDS]
        known = await self._database.read(lambda: _known(old)) if old else set()
        for key in set(old) - known:
            if await self._is_deleted(key):
                log.warning("deleted bytes that belong to no artifact and no input")


def _known(keys: list[str]) -> set[str]:
    return artifacts.known(keys) | inputs.known(keys)


def _mark(uploads_ms: int, expired_ms: int) -> None:
    artifacts.break_off_uploads(uploads_ms, BATCH)
    artifacts.leave_behind(BATCH)
    artifacts.expire(expired_ms, BATCH)
