"""Blobs as objects in a bucket of an S3-compatible store: for servers on several machines.

Only this module knows obstore, which is installed with ``[s3]`` and imported when a bucket is configured.
If the server crashes during an upload, S3 keeps its parts, which no listing of objects shows. A lifecycle
rule of the bucket must delete them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from server.blobs import BlobMissingError, BlobStoreError, Stored

log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
PARALLEL_PARTS = 2
READ_BYTES = 256 * 1024
PAGE = 500


class S3Blobs:
    """Blobs in a bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str, **settings: Any) -> None:
        """Address, region and credentials come from the usual AWS_ variables; ``settings`` override them."""
        self._store = S3Store(bucket, prefix=prefix or None, **settings)

    async def put(self, key: str, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        """See `Blobs.put`. An object appears only when it is complete: its parts are joined at the end."""
        if size_bytes <= PART_BYTES:
            whole = b"".join([piece async for piece in pieces])
            with _translated():
                await obstore.put_async(self._store, key, whole, use_multipart=False)
            return
        source = _Source(pieces)
        try:
            with _translated():
                await obstore.put_async(
                    self._store,
                    key,
                    source.read(),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARALLEL_PARTS,
                )
        except BlobStoreError:
            if source.error is not None:
                raise source.error from None
            raise

    async def read(self, key: str, first: int, count: int) -> AsyncGenerator[bytes, None]:
        """See `Blobs.read`."""
        if not count:
            with _translated():
                await obstore.head_async(self._store, key)
            return
        with _translated():
            answer = await obstore.get_async(self._store, key, options={"range": (first, first + count)})
            pieces = answer.stream(min_chunk_size=READ_BYTES).__aiter__()
        while True:
            with _translated():
                try:
                    piece = bytes(await anext(pieces))
                except StopAsyncIteration:
                    break
            count -= len(piece)
            yield piece
        if count:
            raise BlobMissingError(f"{key} ends {count} bytes early")

    async def delete(self, key: str) -> None:
        """See `Blobs.delete`."""
        try:
            with _translated():
                await obstore.delete_async(self._store, key)
        except BlobMissingError:
            pass

    async def list(self) -> AsyncIterator[list[Stored]]:
        """See `Blobs.list`."""
        pages = obstore.list(self._store, chunk_size=PAGE).__aiter__()
        while True:
            with _translated():
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            now = datetime.now(UTC)
            yield [
                Stored(str(found["path"]), (now - found["last_modified"]).total_seconds()) for found in page
            ]

    async def clean(self, age_seconds: float) -> None:
        """See `Blobs.clean`. Interrupted writes leave no objects here."""

    async def close(self) -> None:
        """See `Blobs.close`."""


class _Source:
    """The pieces, and the error that they raised, since obstore replaces it by its own."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.error: Exception | None = None

    async def read(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissingError("the object does not exist") from error
    except (BaseError, OSError) as error:
        # Its text may contain addresses and headers, so only its type is logged.
        log.error("could not use the store of artifacts error=%s", type(error).__name__)
        raise BlobStoreError(type(error).__name__) from error
