"""Owns the way of a job's inputs from the server to this machine: what is downloaded, goes on, and is kept.

An input is kept under its SHA-256, so that the next job with the same one downloads nothing; those unused
longest are removed first. It must not know gRPC: the link reads one input from a place on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import BinaryIO, ParamSpec, TypeVar

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners import Report, RunnerError, inputs_not_kept, no_report
from daemon.runners.input_files import Given, InputRoom

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MAX_BACKOFF_SECONDS = 30.0
MAX_FAILURES = 12
"""How often in a row a download may break off without a new byte before the job is given back."""
MAX_DAMAGED = 2
_GONE = ".gone"

DEFAULT_ROOM = InputRoom()

Read = Callable[[sessions_pb2.Lease, int, int], AsyncGenerator[bytes, None]]
"""Reads an input of a lease, by its number, from a byte on."""


class ReadBrokenError(Exception):
    """The download broke off: going on may help."""


class InputGoneError(Exception):
    """The server does not have the input any more, or the lease is gone: going on does not help."""


class InputStore:
    """The inputs that are on this machine."""

    def __init__(
        self,
        folder: Path,
        read: Read,
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        room: InputRoom = DEFAULT_ROOM,
    ) -> None:
        self._folder = folder
        self._read = read
        self._rng = rng
        self._sleep = sleep
        self._room = room
        self._used: Counter[str] = Counter()
        # Held while an input becomes used, and while a thread takes an unused one away, which is a moment.
        self._using = threading.Lock()
        self._locks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def held(
        self, offer: sessions_pb2.JobOffer, report: Report = no_report
    ) -> AsyncIterator[list[Given]]:
        """The inputs of an offer, which stay until the block ends; `report` hears how many bytes are there.

        Raises RunnerError.
        """
        digests = [one.sha256.hex() for one in offer.inputs]
        with self._using:
            self._used.update(digests)
        try:
            yield await self._all(offer, report)
        finally:
            self._used.subtract(digests)
            self._used += Counter()
            # Its lock outlives whoever uses an input or waits for it, so that two never write one file.
            self._locks = {name: lock for name, lock in self._locks.items() if name in self._used}

    async def _all(self, offer: sessions_pb2.JobOffer, report: Report) -> list[Given]:
        arriving = _Arriving(sum(one.size_bytes for one in offer.inputs), report)
        try:
            return [
                Given(await self._one(offer.lease, number, one, arriving), one.path, one.unpack)
                for number, one in enumerate(offer.inputs)
            ]
        except OSError as error:
            logger.warning("an input could not be kept job_id=%s error=%s", offer.lease.job_id, error)
            raise inputs_not_kept(error) from None

    async def _one(
        self, lease: sessions_pb2.Lease, number: int, one: sessions_pb2.OfferedInput, arriving: _Arriving
    ) -> Path:
        name = one.sha256.hex()
        async with self._locks.setdefault(name, asyncio.Lock()):
            arriving.is_at(0)
            found = await self._downloaded(lease, number, one, self._folder / name, arriving)
            arriving.has(one.size_bytes)
            return found

    async def _downloaded(
        self,
        lease: sessions_pb2.Lease,
        number: int,
        one: sessions_pb2.OfferedInput,
        place: Path,
        arriving: _Arriving,
    ) -> Path:
        if await asyncio.to_thread(_is_whole, place, one.size_bytes):
            return place
        await _to_end(self._make_room, one.size_bytes)
        part, failures, damaged = place.with_suffix(".part"), 0, 0
        while True:
            had = await asyncio.to_thread(_size, part)
            try:
                await self._go_on(lease, number, part, had, arriving)
                if await _to_end(_finished, part, place, one):
                    logger.info("an input is here job_id=%s bytes=%d", lease.job_id, one.size_bytes)
                    return place
                damaged += 1
                if damaged >= MAX_DAMAGED:
                    raise RunnerError(
                        jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
                        "The provider could not get an input undamaged.",
                        gives_back=True,
                    )
            except InputGoneError as error:
                raise RunnerError(jobs_pb2.FAILURE_REASON_INPUT_REFUSED, f"inputs: {error}") from None
            except ReadBrokenError as error:
                failures = 0 if await asyncio.to_thread(_size, part) > had else failures + 1
                if failures >= MAX_FAILURES:
                    text = "The provider could not get an input from the server."
                    raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text, gives_back=True) from None
                delay = self._rng.uniform(0.0, min(MAX_BACKOFF_SECONDS, 2.0**failures))
                logger.info("reading an input again job_id=%s error=%s", lease.job_id, error)
                await self._sleep(delay)

    async def _go_on(
        self, lease: sessions_pb2.Lease, number: int, part: Path, first_byte: int, arriving: _Arriving
    ) -> None:
        with await _to_end(_append, part) as file:
            async with aclosing(self._read(lease, number, first_byte)) as pieces:
                async for data in pieces:
                    await _to_end(file.write, data)
                    first_byte += len(data)
                    arriving.is_at(first_byte)

    def _make_room(self, size: int) -> None:
        """Removes what was unused longest, so that this much fits. Raises RunnerError, OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sorted(_kept(self._folder))
        total = sum(found[1] for found in kept)
        for _, bytes_, path in kept:
            is_enough = shutil.disk_usage(self._folder).free >= 3 * size + self._room.free_bytes
            if total + size <= self._room.kept_bytes and is_enough:
                break
            if (gone := self._taken_away(path)) is not None:
                gone.unlink(missing_ok=True)
                total -= bytes_
        # Once downloaded, once packed for its job, and once in the job's folder.
        if shutil.disk_usage(self._folder).free < 3 * size + self._room.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _taken_away(self, path: Path) -> Path | None:
        """Where an input lies that nobody uses, out of reach of a job that comes now; None if it is used."""
        with self._using, contextlib.suppress(FileNotFoundError):  # another thread took it away
            if not self._used[path.stem]:
                return path.replace(path.with_suffix(_GONE))
        return None


class _Arriving:
    """How much of a job's inputs is here."""

    def __init__(self, total_bytes: int, report: Report) -> None:
        self._total_bytes = total_bytes
        self._report = report
        self._whole_bytes = 0

    def is_at(self, size: int) -> None:
        """Of the present input, so many bytes are here."""
        done = min(self._whole_bytes + size, self._total_bytes)
        self._report(jobs_pb2.PREPARATION_STEP_INPUTS, done, self._total_bytes)

    def has(self, size: int) -> None:
        """The present input is here."""
        self._whole_bytes += size


async def _to_end(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Acts in a thread, and waits for its end even if cancelled: a thread goes on, and would write on."""
    acting = asyncio.create_task(asyncio.to_thread(act, *args, **kwargs))
    try:
        return await asyncio.shield(acting)
    finally:
        await asyncio.wait([acting])


def _kept(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was last used, its size, and where it is."""
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # another job's download has got its final name
            found = entry.stat()
            yield found.st_mtime, found.st_size, Path(entry.path)


def _is_whole(place: Path, size: int) -> bool:
    """Whether an input is kept; notes its use. Only what was checked has its final name."""
    if _size(place) != size or not place.exists():
        return False
    os.utime(place)
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(part: Path) -> BinaryIO:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb", buffering=0)


def _finished(part: Path, place: Path, one: sessions_pb2.OfferedInput) -> bool:
    """Gives a download its final name if it is whole and undamaged; else removes it."""
    with part.open("rb") as file:
        is_right = (
            _size(part) == one.size_bytes and hashlib.file_digest(file, "sha256").digest() == one.sha256
        )
    if is_right:
        part.replace(place)
    else:
        part.unlink()
    return is_right
