"""The store of bytes that are too large for the database: an interface with two implementations.

It knows keys and bytes, and must not know jobs, names or renters. The caller of ``put`` creates random keys,
so that no text of a user becomes a path. A blob is written once, completely or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class BlobStoreError(Exception):
    """The store cannot be used now: it is full, unreachable or refuses. Trying again may help."""


class BlobMissingError(Exception):
    """The blob of this key is missing or incomplete."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry in the listing of blobs."""

    key: str
    age_seconds: float


class Blobs(Protocol):
    """A store of blobs."""

    async def put(self, key: str, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        """Stores the joined pieces durably. If the pieces raise, the error is raised and nothing is stored.

        ``size_bytes`` is the size of all pieces together. Raises BlobStoreError.
        """
        ...

    def read(self, key: str, first: int, count: int) -> AsyncGenerator[bytes, None]:
        """A part of a blob, in pieces. Raises BlobMissingError and BlobStoreError."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes a blob; does nothing if it does not exist. Raises BlobStoreError."""
        ...

    def list(self) -> AsyncIterator[list[Stored]]:
        """Every blob in the store, in pages. Raises BlobStoreError."""
        ...

    async def clean(self, age_seconds: float) -> None:
        """Deletes remains of interrupted writes older than ``age_seconds``. Raises BlobStoreError."""
        ...

    async def close(self) -> None:
        """Releases the store's resources."""
        ...
