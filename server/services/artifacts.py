"""Artifacts: stores the files that a run's daemon uploads, and serves them to callers who may see the job.

An upload inserts the row, stores the bytes, then marks the row as ready. An upload that breaks off in between
is undone here, or by `cleaning` after a crash. The lease is checked before the bytes and again after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from server.blobs import BlobMissingError, Blobs, BlobStoreError
from server.clock import Clock, ms
from server.domain.artifacts import (
    IDLE_SECONDS,
    SHA256_BYTES,
    UPLOAD_SECONDS,
    Artifact,
    ArtifactLimits,
    Part,
    artifact_name,
    asked_part,
    check_room,
    stored_name,
)
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.jobs import FINAL, LEAVE_FILES, Job
from server.domain.leases import LEASE_TRANSITIONS, LeaseEvent, LeaseRef
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.services.jobs import Jobs
from server.services.keys import Caller
from server.services.transfers import slot, unavailable
from server.store import artifacts, jobs, leases, storage
from server.store.database import Database

log = logging.getLogger(__name__)

UPLOADS_OF_A_PROVIDER = 8
DOWNLOADS_OF_A_CALLER = 32
BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Announced:
    """What a daemon announces about a file before it sends the bytes."""

    lease: LeaseRef
    name: str
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Listing:
    """A job, its files, and the time of their deletion; None without files."""

    job: Job
    artifacts: list[Artifact]
    expires_ms: int | None


@dataclass(frozen=True, slots=True)
class Download:
    """A file, the part of it that is sent, and whether the request asked for a part."""

    artifact: Artifact
    part: Part
    is_partial: bool
    pieces: AsyncGenerator[bytes, None]


class Artifacts:
    """The use cases of artifacts."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        jobs: Jobs,
        clock: Clock,
        limits: ArtifactLimits,
        storage_limits: StorageLimits = STORAGE_LIMITS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._jobs = jobs
        self._clock = clock
        self._limits = limits
        self._storage_limits = storage_limits
        self._idle_seconds = idle_seconds
        self._uploads: Counter[int] = Counter()
        self._downloads: Counter[tuple[str, int]] = Counter()
        self._undoing: set[asyncio.Task[None]] = set()

    async def upload(self, provider_id: int, file: Announced, pieces: AsyncIterator[bytes]) -> bool:
        """Stores a whole file of a run. Returns False, without reading its bytes, if it was stored before.

        Raises STALE_LEASE, INVALID_FIELD, NO_FILES_EXPECTED, ARTIFACT_TOO_LARGE, ARTIFACT_DAMAGED,
        ARTIFACT_NAME_TAKEN, RENTER_STORAGE_FULL, PROVIDER_STORAGE_FULL, OVERLOADED, TIMEOUT,
        STORE_UNAVAILABLE, and any error of ``pieces``.
        """
        if len(file.sha256) != SHA256_BYTES:
            raise invalid_field("header.sha256", f"must have {SHA256_BYTES} bytes")
        name = artifact_name(file.name)
        key = secrets.token_hex(16)
        with slot(self._uploads, provider_id, UPLOADS_OF_A_PROVIDER, "uploads"):
            number = await self._database.run(lambda: self._begin(provider_id, file, name, key))
            if number is None:
                return False
            try:
                await self._store(key, file, pieces)
                is_new = await self._database.run(lambda: self._finish(provider_id, file, name, number))
            except BaseException:
                await self._undo_shielded(number, key)
                raise
            if not is_new:
                await self._undo_shielded(number, key)
            return is_new

    async def list(self, caller: Caller, job_id: str) -> Listing:
        """The files of a job, for callers who may see its output.

        Raises OUTPUT_ERASED, JOB_NOT_FOUND, NOT_OWNER.
        """
        job = await self._jobs.kept(caller, job_id)
        found = await self._database.read(lambda: artifacts.published(job_id)) if job.artifact_count else []
        published = [artifact.published_ms for artifact in found if artifact.published_ms is not None]
        return Listing(job, found, min(published) + self._limits.keep_ms if published else None)

    async def open(self, caller: Caller, job_id: str, name: str, range_: str, if_range: str) -> Download:
        """One file of a job, or a part of it. The caller must close the pieces.

        Raises ARTIFACT_NOT_FOUND, RANGE_NOT_SATISFIABLE, OUTPUT_ERASED, JOB_NOT_FOUND, NOT_OWNER. Reading the
        pieces raises OVERLOADED, ARTIFACT_NOT_FOUND and STORE_UNAVAILABLE.
        """
        job = await self._jobs.kept(caller, job_id)
        wanted = stored_name(name)
        artifact = await self._database.read(lambda: artifacts.published_one(job_id, wanted))
        if artifact is None:
            raise _not_found(job, wanted)
        asked = range_ if if_range in ("", artifact.etag) else ""
        part = asked_part(asked, artifact.size_bytes)
        whole = Part(0, artifact.size_bytes)
        read = part or whole
        pieces = self._pieces(caller, artifact, read)
        return Download(artifact, read, part is not None, pieces)

    async def stop(self) -> None:
        """Waits for the uploads that are being undone, then closes the store."""
        await asyncio.gather(*self._undoing, return_exceptions=True)
        await self._blobs.close()

    # --- the transactions of an upload ---

    def _begin(self, provider_id: int, file: Announced, name: str, key: str) -> int | None:
        """Inserts the row of a file before its upload and returns its id; None if the file is stored."""
        job = lock_held(provider_id, file.lease)
        _refuse_without_folder(job)
        ref = file.lease
        if _is_stored(file, name):
            return None
        count, total = artifacts.beside(ref.job_id, ref.lease_epoch, name, arriving=True)
        check_room(self._limits, file.size_bytes, count, total)
        self._check_storage(job, provider_id, file.size_bytes)
        now_ms = ms(self._clock)
        return artifacts.announce(
            ref.job_id, ref.lease_epoch, name, file.size_bytes, file.sha256, key, now_ms
        )

    def _finish(self, provider_id: int, file: Announced, name: str, number: int) -> bool:
        """Marks a stored file as ready; False if another upload of the same file finished first."""
        job = lock_held(provider_id, file.lease)
        ref = file.lease
        if _is_stored(file, name):
            return False
        count, total = artifacts.beside(ref.job_id, ref.lease_epoch, name, arriving=False)
        check_room(self._limits, file.size_bytes, count, total)
        # Locked in the order of a submit, so that two uploads of one account cannot both take the last room.
        storage.lock(job.renter_id, provider_id)
        self._check_storage(job, provider_id, file.size_bytes)
        if not artifacts.make_ready(number, job, file.size_bytes, ms(self._clock)):
            raise DomainError(Reason.TIMEOUT, "the upload took too long and was given up; send it again")
        log.info(
            "stored an artifact job_id=%s lease_epoch=%d provider_id=%d size_bytes=%d",
            ref.job_id,
            ref.lease_epoch,
            provider_id,
            file.size_bytes,
        )
        return True

    def _check_storage(self, job: Job, provider_id: int, size_bytes: int) -> None:
        """Raises RENTER_STORAGE_FULL, PROVIDER_STORAGE_FULL."""
        self._storage_limits.check_renter(storage.of_renter(job.renter_id), size_bytes)
        self._storage_limits.check_provider(storage.of_provider(provider_id), size_bytes)

    # --- the bytes of a file ---

    async def _store(self, key: str, file: Announced, pieces: AsyncIterator[bytes]) -> None:
        checked = _checked(_timely(pieces, self._idle_seconds), file)
        try:
            async with asyncio.timeout(UPLOAD_SECONDS), contextlib.aclosing(checked):
                await self._blobs.put(key, checked, file.size_bytes)
        except TimeoutError:
            raise DomainError(
                Reason.TIMEOUT, f"no data arrived for {self._idle_seconds:.0f} s; send the file again"
            ) from None
        except (BlobStoreError, BlobMissingError) as error:
            raise unavailable() from error

    async def _pieces(self, caller: Caller, artifact: Artifact, part: Part) -> AsyncGenerator[bytes, None]:
        with slot(self._downloads, (caller.role, caller.id), DOWNLOADS_OF_A_CALLER, "downloads"):
            try:
                reading = self._blobs.read(artifact.blob_key, part.first, part.count)
                async with contextlib.aclosing(reading):
                    async for piece in reading:
                        yield piece
            except BlobMissingError as error:
                log.error("the bytes of an artifact are gone job_id=%s id=%d", artifact.job_id, artifact.id)
                raise DomainError(
                    Reason.ARTIFACT_NOT_FOUND,
                    "the bytes of this file are no longer in the store; submit the job again",
                ) from error
            except BlobStoreError as error:
                raise unavailable() from error

    # --- undoing an upload ---

    async def _undo_shielded(self, number: int, key: str) -> None:
        """Undoes an upload, even if the call that waits for it is cancelled."""
        undoing = asyncio.create_task(self._undo(number, key))
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undoing.discard)
        await asyncio.shield(undoing)

    async def _undo(self, number: int, key: str) -> None:
        try:
            # An upload that is ready is not undone, even if its commit was reported as failed.
            if await self._database.run(lambda: artifacts.break_off(number)):
                await self._blobs.delete(key)
                await self._database.run(lambda: artifacts.delete([number]))
        except (DomainError, BlobStoreError, BlobMissingError) as error:
            log.warning("left an upload for the cleaning to undo id=%d error=%s", number, error)


def lock_held(provider_id: int, ref: LeaseRef) -> Job:
    """Locks and returns the job of a lease that its provider holds now. Raises STALE_LEASE, OVERLOADED."""
    job = jobs.lock(ref.job_id)
    lease = leases.get(ref.job_id, ref.lease_epoch)
    stale = DomainError(Reason.STALE_LEASE, "this lease is no longer held; its files are not accepted")
    if job is None or lease is None or not lease.matches(ref) or lease.provider_id != provider_id:
        raise stale
    if lease.state in LEASE_TRANSITIONS.sources(LeaseEvent.ACCEPT):
        # A short run's files come beside the stream, or at another server, and can overtake its acceptance.
        raise DomainError(
            Reason.OVERLOADED,
            "the acceptance of this lease has not arrived yet; send the file again",
            retry_after_seconds=1,
        )
    if lease.state not in LEASE_TRANSITIONS.sources(LeaseEvent.WRITE):
        raise stale
    return job


def _refuse_without_folder(job: Job) -> None:
    if job.job_type not in LEAVE_FILES:
        raise DomainError(
            Reason.NO_FILES_EXPECTED,
            f"a job of the type {job.job_type.value} has no folder /output and leaves no files; "
            "send its result as output",
        )


def _is_stored(file: Announced, name: str) -> bool:
    """Whether the run has sent this file before. Raises ARTIFACT_NAME_TAKEN for another file of that name."""
    earlier = artifacts.stored(file.lease.job_id, file.lease.lease_epoch, name)
    if earlier is None:
        return False
    if (earlier.sha256, earlier.size_bytes) != (file.sha256, file.size_bytes):
        raise DomainError(
            Reason.ARTIFACT_NAME_TAKEN, "the run has sent another file under this name; choose another name"
        )
    return True


async def _timely(pieces: AsyncIterator[bytes], idle_seconds: float) -> AsyncIterator[bytes]:
    """Passes the pieces on. Raises TimeoutError if one takes longer than ``idle_seconds``."""
    while True:
        async with asyncio.timeout(idle_seconds):
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
        yield piece


async def _checked(pieces: AsyncIterator[bytes], file: Announced) -> AsyncGenerator[bytes, None]:
    """Joins the pieces to batches and checks size and digest. Raises ARTIFACT_DAMAGED."""
    digest, total = hashlib.sha256(), 0
    async for batch in _batched(pieces):
        total += len(batch)
        if total > file.size_bytes:
            raise _damaged(f"more than the announced {file.size_bytes} bytes arrived")
        await asyncio.to_thread(digest.update, batch)
        if total < file.size_bytes:
            yield batch
        elif digest.digest() == file.sha256:
            # The last batch: the store must not have the whole file before its digest is checked.
            yield batch
        else:
            raise _damaged("its SHA-256 is not the announced one")
    if total < file.size_bytes:
        raise _damaged(f"{total} of the announced {file.size_bytes} bytes arrived")
    if not total and digest.digest() != file.sha256:
        raise _damaged("its SHA-256 is not the announced one")


async def _batched(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    batch = bytearray()
    async for piece in pieces:
        batch += piece
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


def _damaged(text: str) -> DomainError:
    return DomainError(Reason.ARTIFACT_DAMAGED, f"{text}; nothing was stored, send the file again")


def _not_found(job: Job, name: str) -> DomainError:
    if job.state not in FINAL:
        text = f"job {job.job_id} is {job.state.value}; ask for its files after it has ended"
    else:
        text = (
            f"name: job {job.job_id} has no file {name!r}; list its files, which are kept for a limited time"
        )
    return DomainError(Reason.ARTIFACT_NOT_FOUND, text, field="name")
