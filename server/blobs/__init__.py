"""The store of bytes that are too large for the database: a port, and the two ways behind it.

It knows keys and bytes, and nothing of jobs, names or renters: keys are random and made by whoever
stores, so that no stranger's text becomes a path. A blob is written once, whole or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class BlobStoreError(Exception):
    """The store cannot be used now: full, away, or refusing. Trying again may help."""


class BlobMissingError(Exception):
    """There is no blob under this key, or not all of it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as a listing tells it."""

    key: str
    age_seconds: float


class Blobs(Protocol):
    """A store of blobs."""

    async def put(self, key: str, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        """Stores what the pieces are together, durably. What they raise is raised, and nothing is kept.

        ``size_bytes`` is how many bytes are to come. Raises BlobStoreError.
        """
        ...

    def read(self, key: str, first: int, count: int) -> AsyncGenerator[bytes, None]:
        """A part of a blob, in pieces. Raises BlobMissingError and BlobStoreError."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes a blob; one that is not there is no error. Raises BlobStoreError."""
        ...

    def list(self) -> AsyncIterator[list[Stored]]:
        """Every blob there is, a page at a time. Raises BlobStoreError."""
        ...

    async def clean(self, age_seconds: float) -> None:
        """Deletes what writes left that broke off so long ago. Raises BlobStoreError."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...
