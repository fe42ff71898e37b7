"""The inputs of runs: what the daemon that holds a lease reads of the bytes that its job names."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

from server.blobs import BlobMissingError, Blobs, BlobStoreError
from server.domain.errors import invalid_field
from server.domain.inputs import GivenInput, given
from server.domain.jobs import Job
from server.domain.leases import LeaseRef
from server.services.artifacts import lock_held
from server.services.inputs import Inputs
from server.services.job_inputs import file_gone
from server.services.transfers import slot, unavailable
from server.store import artifacts
from server.store.database import Database

READS_OF_A_PROVIDER = 16


class RunInputs:
    """What daemons read of the inputs of their runs."""

    def __init__(self, database: Database, blobs: Blobs, inputs: Inputs) -> None:
        self._database = database
        self._blobs = blobs
        self._inputs = inputs
        self._reads: Counter[int] = Counter()

    async def read(
        self, provider_id: int, ref: LeaseRef, number: int, first_byte: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of one input of a run from ``first_byte`` on. The caller must close them.

        Raises STALE_LEASE, INVALID_FIELD, INPUT_NOT_FOUND, ARTIFACT_NOT_FOUND, OVERLOADED, STORE_UNAVAILABLE.
        """
        job, one = await self._database.run(lambda: _held(provider_id, ref, number))
        count = max(0, one.size_bytes - first_byte)
        with slot(self._reads, provider_id, READS_OF_A_PROVIDER, "downloads"):
            reading = (
                self._of_input(job, one, first_byte, count)
                if one.input_id
                else self._of_artifact(one, first_byte, count)
            )
            async with contextlib.aclosing(reading) as pieces:
                async for data in pieces:
                    yield data

    async def _of_input(
        self, job: Job, one: GivenInput, first_byte: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        found = await self._inputs.get(job.renter_id, one.input_id)
        async with contextlib.aclosing(self._inputs.pieces_of(found, first_byte, count)) as pieces:
            async for data in pieces:
                yield data

    async def _of_artifact(self, one: GivenInput, first_byte: int, count: int) -> AsyncGenerator[bytes, None]:
        found = await self._database.read(lambda: artifacts.published_one(one.job_id, one.name))
        if found is None or found.sha256.hex() != one.sha256:
            raise file_gone(one.job_id, one.name)
        try:
            async with contextlib.aclosing(self._blobs.read(found.blob_key, first_byte, count)) as pieces:
                async for data in pieces:
                    yield data
        except BlobMissingError as error:
            raise file_gone(one.job_id, one.name) from error
        except BlobStoreError as error:
            raise unavailable() from error


def _held(provider_id: int, ref: LeaseRef, number: int) -> tuple[Job, GivenInput]:
    job = lock_held(provider_id, ref)
    found = given(job.spec)
    if number >= len(found):
        raise invalid_field("number", f"the run has {len(found)} inputs")
    return job, found[number]
