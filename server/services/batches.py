"""Batches as renters use them: create, look up, list, cancel, read what they wrote.

The gateway reads the file of a batch and adds its lines, since it knows the forms of requests; the lines
become jobs in server.services.batch_runs. The files of batches are inputs of the purpose `batch`
(server.services.inputs), and what batches write, which is read from their jobs and stored nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.batches import (
    CHECK_STALLS_MS,
    MAX_ADDED_BYTES,
    MAX_LINES,
    MAX_OPEN,
    WINDOW_MS,
    Announced,
    Batch,
    BatchEvent,
    BatchState,
    Fault,
    Line,
    Part,
    Stop,
    budget_of,
    file_id_of_part,
    file_not_found,
    input_of_file,
    is_over,
    not_found,
    part_of_file,
)
from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.inputs import Input, Purpose
from server.domain.jobs import Job, JobState
from server.services import outbox, outputs
from server.services.inputs import Inputs
from server.services.renters import present
from server.services.repeats import once
from server.store import batches, inputs, jobs
from server.store.batches import Result
from server.store.database import Database

RETRY_SECONDS = 60
PAGE_BYTES = 4 << 20
"""Of what the lines of one page wrote; a page has one line in any case."""


@dataclass(frozen=True, slots=True)
class Written:
    """A line that has ended, with its job and what it wrote."""

    result: Result
    job: Job | None
    data: bytes


@dataclass(frozen=True, slots=True)
class File:
    """A file of a batch: an upload, or what a batch writes."""

    file_id: str
    name: str
    size_bytes: int
    created_ms: int
    is_ready: bool
    purpose: str
    expires_ms: int | None = None


class Batches:
    """The use cases of batches and their files."""

    def __init__(self, database: Database, clock: Clock, stored: Inputs) -> None:
        self._database = database
        self._clock = clock
        self._stored = stored

    async def create(self, renter_id: int, key_id: int | None, asked: Announced) -> Batch:
        """Creates a batch whose file is to be checked.

        Raises INPUT_NOT_FOUND, INPUT_NOT_READY, TOO_MANY_BATCHES, INVALID_FIELD, RENTER_DELETED.
        """
        max_cost_micros = budget_of(asked.metadata)

        def create() -> Batch:
            present(renter_id)
            found = _file(renter_id, asked.file_id)
            if not found.is_ready:
                raise DomainError(
                    Reason.INPUT_NOT_READY,
                    "input_file_id: this file has not arrived in full; upload it again",
                    received_bytes=found.received_bytes,
                )
            if batches.count_open(renter_id) >= MAX_OPEN:
                raise DomainError(
                    Reason.TOO_MANY_BATCHES,
                    f"{MAX_OPEN} batches of this account have not ended, the most at once; "
                    "wait until one ends, or cancel one",
                    retry_after_seconds=RETRY_SECONDS,
                )
            now_ms = ms(self._clock)
            inputs.touch([found.id], now_ms)
            return batches.insert(
                f"batch_{secrets.token_hex(12)}",
                renter_id,
                key_id,
                endpoint=asked.endpoint,
                input_id=found.input_id,
                metadata=asked.metadata,
                max_cost_micros=max_cost_micros,
                now_ms=now_ms,
                expires_ms=now_ms + WINDOW_MS,
            )

        return await self._database.run(once(create, ms(self._clock)))

    async def add_lines(self, renter_id: int, batch_id: str, lines: Sequence[Line]) -> Batch:
        """Adds lines that were checked; those that are there already stay.

        Raises BATCH_NOT_OPEN, INVALID_FIELD.
        """

        def add() -> Batch:
            batch = _being_checked(renter_id, batch_id)
            if any(line.number > MAX_LINES for line in lines):
                raise invalid_field("lines", f"a batch has at most {MAX_LINES} lines; split the file")
            new = batches.new_lines(batch, lines)
            if batch.added_bytes + sum(line.size_bytes for line in new) > MAX_ADDED_BYTES:
                raise invalid_field(
                    "lines", f"a batch has at most {MAX_ADDED_BYTES} bytes in its lines; split the file"
                )
            batches.add_lines(batch, new, ms(self._clock))
            return batch

        return await self._database.run(add)

    async def take_check(self, renter_id: int, batch_id: str) -> bool:
        """Gives the check of a batch to the caller if it has made no progress for a while; one gets it.

        Raises BATCH_NOT_FOUND.
        """

        def take() -> bool:
            return self._take_check(_locked(renter_id, batch_id))

        return await self._database.run(take)

    async def take_any_check(self) -> Batch | None:
        """Gives the caller a check, of whichever renter, that has made no progress for a while."""

        def find() -> Batch | None:
            return batches.stalled(ms(self._clock) - CHECK_STALLS_MS)

        def take() -> Batch | None:
            found = find()
            locked = batches.lock(found.id) if found is not None else None
            return locked if locked is not None and self._take_check(locked) else None

        return await self._database.run(take) if await self._database.read(find) else None

    def _take_check(self, batch: Batch) -> bool:
        """Notes that the check of a locked batch goes on, if it has made no progress for a while."""
        now_ms = ms(self._clock)
        is_free = now_ms - batch.touched_ms >= CHECK_STALLS_MS
        if batch.state is not BatchState.VALIDATING or not is_free:
            return False
        batches.add_lines(batch, (), now_ms)
        return True

    async def renter_of(self, batch_id: str) -> int:
        """Whose batch it is. Raises BATCH_NOT_FOUND."""
        return (await self._database.read(lambda: _any(batch_id))).renter_id

    async def file_of_check(self, batch_id: str, file_id: str) -> Input:
        """The file of a batch that is being checked, of whichever renter.

        Raises BATCH_NOT_FOUND, BATCH_NOT_OPEN, INPUT_NOT_FOUND.
        """

        def read() -> Input:
            batch = _any(batch_id)
            _check_is_checked(batch)
            if batch.input_id != input_of_file(file_id):
                raise file_not_found(file_id)
            return _file(batch.renter_id, file_id)

        return await self._database.read(read)

    async def start(self, renter_id: int, batch_id: str, count: int) -> Batch:
        """Ends the check of a batch with so many lines: it runs from now on. Harmless to repeat.

        Raises BATCH_NOT_OPEN, and INVALID_FIELD if other lines arrived.
        """

        def start() -> Batch:
            batch = _locked(renter_id, batch_id)
            if batch.state is BatchState.IN_PROGRESS:
                return batch
            _check_is_checked(batch)
            if (found := batches.count_lines(batch)) != count or not count:
                raise invalid_field("lines", f"must be {found}, as many as were added, and at least 1")
            batches.set_lines(batch, count)
            return _moved(batch, BatchEvent.START, ms(self._clock))

        return await self._database.run(start)

    async def fail(self, renter_id: int, batch_id: str, faults: tuple[Fault, ...]) -> Batch:
        """Ends a batch whose file cannot be used. Harmless to repeat. Raises BATCH_NOT_OPEN."""

        def fail() -> Batch:
            batch = _locked(renter_id, batch_id)
            if batch.state is BatchState.FAILED:
                return batch
            return _moved(batch, BatchEvent.FAIL, ms(self._clock), faults)

        return await self._database.run(fail)

    async def get(self, renter_id: int, batch_id: str) -> Batch:
        """A renter's batch. Raises BATCH_NOT_FOUND."""
        return await self._database.read(lambda: _existing(renter_id, batch_id))

    async def page(self, renter_id: int, after: str, limit: int) -> tuple[list[Batch], bool]:
        """A page of a renter's batches, newest first, after one; and whether more follow.

        Raises BATCH_NOT_FOUND.
        """

        def read() -> list[Batch]:
            before_id = _existing(renter_id, after).id if after else None
            return batches.of_renter(renter_id, before_id, limit + 1)

        found = await self._database.read(read)
        return found[:limit], len(found) > limit

    async def cancel(self, renter_id: int, batch_id: str) -> Batch:
        """Cancels a batch: what is done stays and is paid for. Raises BATCH_NOT_FOUND, BATCH_NOT_OPEN."""

        def cancel() -> Batch:
            batch = _locked(renter_id, batch_id)
            if batch.state is BatchState.CANCELLING:
                return batch
            if batch.state is BatchState.VALIDATING:
                batches.set_lines(batch, batches.count_lines(batch))
            batches.set_stop(batch, Stop.CANCELLED)
            return _moved(batch, BatchEvent.CANCEL, ms(self._clock))

        return await self._database.run(cancel)

    async def results(self, renter_id: int, file_id: str, after: int, limit: int) -> list[Written]:
        """Lines of a file that a batch writes, from above a number; none at the end. Also while it runs.

        Raises INPUT_NOT_FOUND.
        """

        def read() -> list[Written]:
            found = part_of_file(file_id)
            batch = batches.get(renter_id, found[0]) if found is not None else None
            if found is None or batch is None:
                raise file_not_found(file_id)
            written: list[Written] = []
            size = 0
            for result in batches.results(batch, found[1], after, limit):
                written.append(_written(result, found[1]))
                size += len(written[-1].data)
                if size > PAGE_BYTES:
                    break
            return written

        return await self._database.read(read)

    async def file(self, renter_id: int, file_id: str) -> File:
        """An uploaded file, or one that a batch writes. Raises INPUT_NOT_FOUND."""
        return await self._database.read(lambda: self._found(renter_id, file_id))

    async def files(self, renter_id: int, after: str, limit: int) -> tuple[list[File], bool]:
        """A page of uploaded files, newest first, after one; and whether more follow."""

        def read() -> list[Input]:
            before_id = _file(renter_id, after).id if after else None
            return inputs.of_renter(renter_id, before_id, limit + 1, Purpose.BATCH)

        found = await self._database.read(read)
        return [self._as_file(each) for each in found[:limit]], len(found) > limit

    async def upload(self, renter_id: int, file_id: str) -> Input:
        """An uploaded file as an input. Raises INPUT_NOT_FOUND."""
        return await self._database.read(lambda: _file(renter_id, file_id))

    async def delete_file(self, renter_id: int, file_id: str) -> None:
        """Deletes an uploaded file. What a batch wrote goes with the batch and its jobs.

        Raises INPUT_NOT_FOUND, INPUT_IN_USE.
        """
        if part_of_file(file_id) is not None:
            await self.file(renter_id, file_id)
            raise DomainError(
                Reason.INPUT_IN_USE,
                "file_id: this file is made of the answers of a batch's jobs, and goes with them",
                field="file_id",
            )
        input_id = input_of_file(file_id)
        if not await self._database.read(lambda: inputs.is_doomed(renter_id, input_id)):
            await self.upload(renter_id, file_id)
            await self._stored.delete(renter_id, input_id)

    def _found(self, renter_id: int, file_id: str) -> File:
        part = part_of_file(file_id)
        if part is None:
            return self._as_file(_file(renter_id, file_id))
        batch = batches.get(renter_id, part[0])
        if batch is None:
            raise file_not_found(file_id)
        is_output = part[1] is Part.OUTPUT
        name = f"{batch.batch_id}_{part[1].value}.jsonl"
        size = batch.output_bytes if is_output else 0
        return File(
            file_id_of_part(batch.batch_id, part[1]), name, size, batch.created_ms, True, "batch_output"
        )

    def _as_file(self, found: Input) -> File:
        return File(
            "file-" + found.input_id.removeprefix("input-"),
            found.name,
            found.size_bytes if found.is_ready else found.received_bytes,
            found.created_ms,
            found.is_ready,
            "batch",
            self._stored.expires_ms(found),
        )


def end(batch: Batch, event: BatchEvent, now_ms: int, faults: tuple[Fault, ...] = ()) -> Batch | None:
    """Moves a locked batch; where it ends, its renter's webhook gets an event. None: it may not move so."""
    moved = batches.move(batch, event, now_ms, faults)
    if moved is not None:
        outbox.batch_changed(moved, now_ms)
    return moved


def _moved(batch: Batch, event: BatchEvent, now_ms: int, faults: tuple[Fault, ...] = ()) -> Batch:
    moved = end(batch, event, now_ms, faults)
    if moved is None:
        raise is_over(batch)
    return moved


def _existing(renter_id: int, batch_id: str) -> Batch:
    batch = batches.get(renter_id, batch_id)
    if batch is None:
        raise not_found(batch_id)
    return batch


def _any(batch_id: str) -> Batch:
    batch = batches.of_any_renter(batch_id)
    if batch is None:
        raise not_found(batch_id)
    return batch


def _locked(renter_id: int, batch_id: str) -> Batch:
    locked = batches.lock(_existing(renter_id, batch_id).id)
    if locked is None:
        raise not_found(batch_id)
    return locked


def _being_checked(renter_id: int, batch_id: str) -> Batch:
    batch = _locked(renter_id, batch_id)
    _check_is_checked(batch)
    return batch


def _check_is_checked(batch: Batch) -> None:
    if batch.state is not BatchState.VALIDATING:
        raise is_over(batch)


def _file(renter_id: int, file_id: str) -> Input:
    found = inputs.get(renter_id, input_of_file(file_id))
    if found is None or found.purpose is not Purpose.BATCH:
        raise file_not_found(file_id)
    return found


def _written(result: Result, part: Part) -> Written:
    job = jobs.get(result.job_id) if result.job_id else None
    if job is None or part is not Part.OUTPUT or job.state is not JobState.COMPLETED:
        return Written(result, job, b"")
    return Written(result, job, b"" if job.texts_removed_ms is not None else outputs.written(job))
