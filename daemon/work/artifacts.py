"""Owns the way of a run's files to the server: which go when, what is tried again, and when to give up.

It must not know gRPC: the link sends one file once. A file that was refused for good does not keep the
others from going; a lease that is gone ends them all. Whoever stops the run cancels `upload`.

The files are left by a stranger's program: what lies at a path may have been swapped for a link since it
was measured, so it is opened without following one and must be what was measured.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO, Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

logger = logging.getLogger(__name__)

UPLOADS_AT_ONCE = 2
MAX_BACKOFF_SECONDS = 30.0
MAX_DAMAGED = 3
READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Artifact:
    """A file that a run left."""

    name: str
    """Its path below `/output`, with slashes."""
    path: Path
    """Where it lies on this machine."""
    size_bytes: int
    sha256: bytes


class ArtifactSink(Protocol):
    """Where a run's files go."""

    async def upload(self, lease: sessions_pb2.Lease, artifacts: Sequence[Artifact]) -> None:
        """Sends the files, for as long as it takes. Raises ArtifactsError and LeaseGoneError."""
        ...


class ArtifactsError(Exception):
    """Files could not be delivered; the others were. `message` is for the renter to read."""

    def __init__(self, reason: jobs_pb2.FailureReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class LeaseGoneError(Exception):
    """The server gave the job to another provider, or it has ended: its files are not wanted."""


class UploadRefusedError(Exception):
    """The server does not take this file: trying again does not help."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


class UploadBrokenError(Exception):
    """The upload broke off: trying again may help."""


class UploadDamagedError(UploadBrokenError):
    """What arrived was not the file: it was damaged on the way, or has changed since it was measured."""


Send = Callable[[sessions_pb2.Lease, Artifact], Awaitable[None]]


class Uploader:
    """Sends files, two at a time over all runs, each until it is delivered or refused."""

    def __init__(
        self,
        send: Send,
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        at_once: int = UPLOADS_AT_ONCE,
    ) -> None:
        """`send` sends one file once; it raises the errors of this module."""
        self._send = send
        self._rng = rng
        self._sleep = sleep
        self._gate = asyncio.Semaphore(at_once)

    async def upload(self, lease: sessions_pb2.Lease, artifacts: Sequence[Artifact]) -> None:
        """See `ArtifactSink.upload`."""
        tasks = [asyncio.create_task(self._deliver(lease, artifact)) for artifact in artifacts]
        try:
            refusals = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if refused := [pair for pair in zip(artifacts, refusals, strict=True) if pair[1] is not None]:
            raise _undelivered(refused)

    async def _deliver(self, lease: sessions_pb2.Lease, artifact: Artifact) -> UploadRefusedError | None:
        """Sends a file until it is there; returns the refusal of one that will never be."""
        failures = damaged = 0
        while True:
            try:
                # A file that waits to be tried again lets others go first.
                async with self._gate:
                    await self._send(lease, artifact)
                return None
            except UploadRefusedError as refusal:
                logger.warning("an artifact was refused job_id=%s", lease.job_id)
                return refusal
            except UploadBrokenError as error:
                damaged += isinstance(error, UploadDamagedError)
                if damaged >= MAX_DAMAGED:
                    return UploadRefusedError("it changed while it was sent")
                delay = self._rng.uniform(0.0, min(MAX_BACKOFF_SECONDS, 2.0**failures))
                failures = min(failures + 1, 10)
                logger.info("sending an artifact again job_id=%s seconds=%.1f", lease.job_id, delay)
                await self._sleep(delay)


def _undelivered(refused: Sequence[tuple[Artifact, UploadRefusedError | None]]) -> ArtifactsError:
    artifact, first = refused[0]
    count = f"{len(refused)} files" if len(refused) > 1 else "a file"
    too_large = any(refusal is not None and refusal.too_large for _, refusal in refused)
    reason = jobs_pb2.FAILURE_REASON_OUTPUT_TOO_LARGE if too_large else jobs_pb2.FAILURE_REASON_ENGINE_FAILED
    return ArtifactsError(reason, f"/output: {count} could not be kept; {artifact.name}: {first}")


def open_plain(path: Path) -> BinaryIO:
    """Opens a file that is nothing but one: no link, no pipe, no device. Raises OSError."""
    # Not waiting: a pipe would wait for a writer for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path.name} is not a plain file")
    return os.fdopen(handle, "rb", buffering=0)
