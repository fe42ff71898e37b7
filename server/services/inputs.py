"""Inputs: keeps what renters upload, in pieces, over the same store of bytes as artifacts.

The one store of uploads, for jobs' inputs and for the files of batches (`Purpose`). An upload is three
steps, each of which any server can do, and each of which may be repeated after a lost answer:

1. ``begin(renter_id, Announced(name, size_bytes, sha256, purpose))`` -> Input. Takes the quota of the size at
   once. If the renter has a ready input for jobs with this SHA-256, returns that one: nothing is to be sent.
   If a part of it has arrived, returns that one, too, so that an upload goes on without its id.
   Without a digest (``b""``) none is checked; ``size_bytes`` may then be an upper bound.
2. ``append(renter_id, input_id, first_byte, data)`` -> Input, once for each piece of up to MAX_PIECE_BYTES,
   in order; ``received_bytes`` says where the next one begins, also after an upload broke off.
3. ``finish(renter_id, input_id)`` -> Input, ready: checks the digest, or computes it. A wrong one drops it.

``store`` does all three for bytes that the server itself has. ``pieces_of(input, first, count)`` reads an
input; ``get``, ``list``, ``find``, ``delete`` are for its owner, and every query names the renter. An input
whose job has not ended is not deleted; one that nobody used for ``InputLimits.days`` is, by ``clean``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from server.blobs import BlobMissingError, Blobs, BlobStoreError
from server.clock import Clock, ms
from server.domain.artifacts import SHA256_BYTES
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.inputs import (
    MAX_PIECE_BYTES,
    UNFINISHED_MS,
    Input,
    InputEvent,
    InputLimits,
    Purpose,
    check_count,
    check_piece,
    check_size,
    damaged,
    not_found,
    wrong_offset,
)
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.domain.targets import check_url
from server.services.renters import present
from server.services.transfers import slot, unavailable
from server.store import inputs, renters, storage
from server.store.database import Database

log = logging.getLogger(__name__)

PIECES_OF_A_RENTER = 8
READS_OF_A_RENTER = 32
BATCH = 200
# Digests of uploads that arrive whole at this server; any other is read again at its end.
DIGESTS = 256


@dataclass(frozen=True, slots=True)
class Announced:
    """What a renter announces about an input before it sends the bytes."""

    name: str
    size_bytes: int
    sha256: bytes = b""
    purpose: Purpose = Purpose.JOB
    url: str = ""
    """Where the market fetches it; empty: its renter sends it."""


class Inputs:
    """The use cases of inputs."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        clock: Clock,
        limits: InputLimits,
        storage_limits: StorageLimits = STORAGE_LIMITS,
        *,
        allow_private: bool = False,
    ) -> None:
        """``allow_private``: inputs may be fetched from private addresses; only for development."""
        self._allow_private = allow_private
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._limits = limits
        self._storage_limits = storage_limits
        self._arriving: Counter[int] = Counter()
        self._reading: Counter[int] = Counter()
        self._digests: OrderedDict[int, tuple[int, Any]] = OrderedDict()
        self._undoing: set[asyncio.Task[None]] = set()
        self._removed_through = 0

    async def begin(self, renter_id: int, announced: Announced) -> Input:
        """Announces an input; returns the ready one if the same content is stored.

        Raises INVALID_FIELD, INPUT_TOO_LARGE, TOO_MANY_INPUTS, RENTER_STORAGE_FULL, RENTER_DELETED.
        """
        if len(announced.sha256) not in (0, SHA256_BYTES):
            raise invalid_field("sha256", f"must be the {2 * SHA256_BYTES} hexadecimal digits of a SHA-256")
        if announced.url:
            check_url(announced.url, allow_private=self._allow_private)
        check_size(self._limits, announced.size_bytes)
        return await self._database.run(lambda: self._begin(renter_id, announced))

    async def append(self, renter_id: int, input_id: str, first_byte: int, data: bytes) -> Input:
        """Stores the next piece of an input. Repeating the last piece changes nothing.

        Raises INPUT_NOT_FOUND, INPUT_NOT_WAITING, INPUT_OFFSET_WRONG, INPUT_TOO_LARGE, INVALID_FIELD,
        OVERLOADED, STORE_UNAVAILABLE.
        """
        if len(data) > MAX_PIECE_BYTES:
            raise invalid_field("data", f"must have at most {MAX_PIECE_BYTES} bytes")
        with slot(self._arriving, renter_id, PIECES_OF_A_RENTER, "uploads"):
            key = secrets.token_hex(16)
            found, piece_id = await self._database.run(
                lambda: self._begin_piece(renter_id, input_id, first_byte, key, len(data))
            )
            if piece_id is None:
                return found
            try:
                await self._put(key, data)
                is_new = await self._database.run(
                    lambda: inputs.end_piece(found, piece_id, len(data), ms(self._clock))
                )
            except BaseException:
                await self._undo_shielded(piece_id, key)
                raise
            if not is_new:
                await self._undo_shielded(piece_id, key)
                raise wrong_offset(await self.get(renter_id, input_id))
        await self._hash(found, first_byte, data)
        return await self.get(renter_id, input_id)

    async def finish(self, renter_id: int, input_id: str, *, keeps_damaged: bool = False) -> Input:
        """Checks and completes an input whose bytes have arrived; a ready one is returned as it is.

        ``keeps_damaged``: one with another digest is not dropped, so that its renter finds the reason.

        Raises INPUT_NOT_FOUND, INPUT_NOT_READY, INPUT_DAMAGED, OVERLOADED, STORE_UNAVAILABLE.
        """
        found = await self.get(renter_id, input_id)
        if found.is_ready:
            return found
        if found.sha256 and found.received_bytes < found.size_bytes:
            raise DomainError(
                Reason.INPUT_NOT_READY,
                f"{found.received_bytes} of {found.size_bytes} bytes have arrived; send the rest",
                received_bytes=found.received_bytes,
            )
        with slot(self._arriving, renter_id, PIECES_OF_A_RENTER, "uploads"):
            sha256 = await self._digest_of(found)
        if keeps_damaged and found.sha256 != sha256:
            raise damaged(f"its SHA-256 is {sha256.hex()}, not the announced one")
        done = await self._database.run(lambda: self._finish(found, sha256))
        if done is None:
            raise damaged(f"the SHA-256 of what arrived is {sha256.hex()}, not the announced one")
        return done

    async def store(self, renter_id: int, announced: Announced, pieces: AsyncIterator[bytes]) -> Input:
        """Stores bytes that the server itself has, at most ``size_bytes``; a failure leaves nothing."""
        found = await self.begin(renter_id, announced)
        if found.is_ready:
            return found
        try:
            first_byte = 0
            async for data in pieces:
                for start in range(0, len(data), MAX_PIECE_BYTES):
                    piece = data[start : start + MAX_PIECE_BYTES]
                    first_byte = (
                        await self.append(renter_id, found.input_id, first_byte, piece)
                    ).received_bytes
            return await self.finish(renter_id, found.input_id)
        except BaseException:
            with contextlib.suppress(DomainError):
                await asyncio.shield(self.delete(renter_id, found.input_id))
            raise

    async def get(self, renter_id: int, input_id: str) -> Input:
        """A renter's input. Raises INPUT_NOT_FOUND."""
        return await self._database.read(lambda: _existing(renter_id, input_id))

    async def find(self, renter_id: int, sha256: bytes) -> Input | None:
        """A renter's ready input for jobs with this content, if it has one."""
        return await self._database.read(lambda: inputs.with_content(renter_id, sha256))

    async def list(
        self, renter_id: int, before_id: int | None, limit: int, purpose: Purpose = Purpose.JOB
    ) -> list[Input]:
        """A page of a renter's inputs, newest first, from below an id."""
        return await self._database.read(lambda: inputs.of_renter(renter_id, before_id, limit, purpose))

    def expires_ms(self, found: Input) -> int:
        """When an input is deleted, unless it is used before."""
        return found.used_ms + (self._limits.keep_ms if found.is_ready else UNFINISHED_MS)

    async def delete(self, renter_id: int, input_id: str) -> None:
        """Deletes an input; again, while its bytes are deleted. Raises INPUT_NOT_FOUND, INPUT_IN_USE."""
        await self._database.run(lambda: _delete(renter_id, input_id))

    async def pieces_of(self, found: Input, first: int, count: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a part of an input. The caller must close them.

        Raises OVERLOADED, INPUT_NOT_FOUND and STORE_UNAVAILABLE.
        """
        stored = await self._database.read(lambda: inputs.pieces(found.id))
        with slot(self._reading, found.renter_id, READS_OF_A_RENTER, "downloads"):
            try:
                for piece in stored:
                    start = max(first, piece.first_byte)
                    end = min(first + count, piece.first_byte + piece.size_bytes)
                    if start >= end:
                        continue
                    reading = self._blobs.read(piece.blob_key, start - piece.first_byte, end - start)
                    async with contextlib.aclosing(reading):
                        async for data in reading:
                            yield data
            except BlobMissingError as error:
                log.error("the bytes of an input are gone input_id=%s", found.input_id)
                raise not_found(found.input_id) from error
            except BlobStoreError as error:
                raise unavailable() from error

    async def stop(self) -> None:
        """Waits for the pieces that are being undone."""
        await asyncio.gather(*self._undoing, return_exceptions=True)

    async def clean(self) -> None:
        """Deletes a batch of inputs that nobody used for their time, or that were deleted."""
        now_ms = ms(self._clock)
        ready_ms, unfinished_ms = now_ms - self._limits.keep_ms, now_ms - UNFINISHED_MS
        if not await self._database.read(lambda: inputs.is_anything_due(ready_ms, unfinished_ms)):
            return
        due = await self._database.read(lambda: inputs.to_expire(ready_ms, unfinished_ms, BATCH))
        for number, renter_id, _ in due:
            await self._database.run(partial(inputs.expire, renter_id, number, now_ms))
        await self._remove()

    # --- the transactions ---

    def _begin(self, renter_id: int, announced: Announced) -> Input:
        present(renter_id)
        now_ms = ms(self._clock)
        if announced.purpose is Purpose.JOB and announced.sha256:
            earlier = inputs.with_content(renter_id, announced.sha256)
            earlier = earlier or inputs.arriving(
                renter_id, announced.sha256, announced.size_bytes, announced.url
            )
            if earlier is not None:
                inputs.touch([earlier.id], now_ms)
                if not earlier.problem:
                    return earlier
                if earlier.is_ready or earlier.received_bytes < earlier.size_bytes:
                    inputs.clear_problem(earlier.id)
                    return replace(earlier, problem="")
                inputs.doom(earlier, InputEvent.REFUSE)
        check_count(self._limits, inputs.count(renter_id, announced.purpose))
        self._storage_limits.check_renter(storage.of_renter(renter_id), announced.size_bytes)
        return inputs.announce(
            renter_id,
            f"input-{secrets.token_hex(12)}",
            announced.purpose,
            announced.name,
            announced.size_bytes,
            announced.sha256,
            now_ms,
            announced.url,
        )

    def _begin_piece(
        self, renter_id: int, input_id: str, first_byte: int, key: str, size_bytes: int
    ) -> tuple[Input, int | None]:
        """The input and the id of its new piece; None if the piece has arrived before, or is empty."""
        found = _existing(renter_id, input_id)
        if not size_bytes or first_byte + size_bytes == found.received_bytes:
            return found, None
        check_piece(found, first_byte, size_bytes, inputs.piece_count(found.id))
        return found, inputs.begin_piece(found, key, size_bytes)

    def _finish(self, found: Input, sha256: bytes) -> Input | None:
        """The ready input, or the earlier one with its content; None if the digest is another one."""
        renters.get(found.renter_id, lock=True)
        if found.sha256 and found.sha256 != sha256:
            inputs.doom(found, InputEvent.REFUSE)
            return None
        if found.purpose is Purpose.JOB:
            earlier = inputs.with_content(found.renter_id, sha256)
            if earlier is not None:
                if earlier.id != found.id:
                    inputs.doom(found, InputEvent.REFUSE)
                return earlier
        if not inputs.finish(found, sha256, ms(self._clock)):
            current = _existing(found.renter_id, found.input_id)
            if current.is_ready:
                return current
            raise wrong_offset(current)
        log.info("stored an input renter_id=%d size_bytes=%d", found.renter_id, found.received_bytes)
        return _existing(found.renter_id, found.input_id)

    # --- the bytes ---

    async def _put(self, key: str, data: bytes) -> None:
        async def whole() -> AsyncIterator[bytes]:
            yield data

        try:
            await self._blobs.put(key, whole(), len(data))
        except (BlobStoreError, BlobMissingError) as error:
            raise unavailable() from error

    async def _hash(self, found: Input, first_byte: int, data: bytes) -> None:
        """Goes on with the digest of an upload that arrives whole here."""
        through, digest = self._digests.pop(found.id, (0, None))
        if first_byte == 0:
            digest = hashlib.sha256()
        elif digest is None or through != first_byte:
            return
        await asyncio.to_thread(digest.update, data)
        self._digests[found.id] = (first_byte + len(data), digest)
        if len(self._digests) > DIGESTS:
            self._digests.popitem(last=False)

    async def _digest_of(self, found: Input) -> bytes:
        through, digest = self._digests.pop(found.id, (0, None))
        if digest is not None and through == found.received_bytes:
            return bytes(digest.digest())
        digest = hashlib.sha256()
        async with contextlib.aclosing(self.pieces_of(found, 0, found.received_bytes)) as pieces:
            async for data in pieces:
                await asyncio.to_thread(digest.update, data)
        return digest.digest()

    async def _undo_shielded(self, piece_id: int, key: str) -> None:
        """Undoes a piece, even if the call that waits for it is cancelled."""
        undoing = asyncio.create_task(self._undo(piece_id, key))
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undoing.discard)
        await asyncio.shield(undoing)

    async def _undo(self, piece_id: int, key: str) -> None:
        try:
            # A piece that is stored is not undone, even if its commit was reported as failed.
            if await self._database.read(lambda: inputs.is_unstored(piece_id)):
                await self._blobs.delete(key)
                await self._database.run(lambda: inputs.delete_pieces([piece_id]))
        except (DomainError, BlobStoreError, BlobMissingError) as error:
            log.warning("left a piece of an input for the cleaning id=%d error=%s", piece_id, error)

    async def _remove(self) -> None:
        doomed = await self._database.read(lambda: inputs.doomed(self._removed_through, BATCH))
        # The next tick goes on behind this batch: bytes that cannot be deleted hold up no other.
        self._removed_through = doomed[-1] if len(doomed) == BATCH else 0
        for number in doomed:
            self._digests.pop(number, None)
            await self._remove_one(number)

    async def _remove_one(self, number: int) -> None:
        try:
            while keys := await self._database.read(lambda: inputs.stored_keys(number, BATCH)):
                for _, key in keys:
                    await self._blobs.delete(key)
                ids = [id_ for id_, _ in keys]
                await self._database.run(partial(inputs.delete_pieces, ids))
        except (BlobStoreError, BlobMissingError) as error:
            log.error("the bytes of an input could not be deleted error=%s", error)
            return
        await self._database.run(lambda: inputs.remove(number))


def _existing(renter_id: int, input_id: str) -> Input:
    found = inputs.get(renter_id, input_id)
    if found is None:
        raise not_found(input_id)
    return found


def _delete(renter_id: int, input_id: str) -> None:
    renters.get(renter_id, lock=True)
    if inputs.is_doomed(renter_id, input_id):
        return
    found = _existing(renter_id, input_id)
    job_id = inputs.open_job_with(input_id)
    if job_id is not None:
        raise DomainError(
            Reason.INPUT_IN_USE, f"job {job_id} reads this input and has not ended; wait for it or cancel it"
        )
    inputs.doom(found, InputEvent.DELETE)
