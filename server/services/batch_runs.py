"""Runs batches: makes ordinary jobs of their lines, a bounded number at a time, until all have ended.

One server does it (server.loops). It does no harm if two do it for a moment, or if a server ends in between:
a line's job has an idempotency key, each change of a line is guarded by its state, and a batch's counts
change with its row locked. The jobs are quoted, held, leased, metered and paid for as any others; only their
priority is lower, and server.services.dispatch keeps a slot free of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from functools import partial

from server.clock import Clock, ms
from server.domain.batches import (
    CHECK_LOST_MS,
    JOBS_AT_ONCE,
    KEPT_MS,
    LATER,
    MAX_KEPT,
    PRIORITY,
    STOP_TEXTS,
    STOPS,
    Batch,
    BatchEvent,
    BatchState,
    Fault,
    Kind,
    Line,
    Stop,
    left_micros,
    line_key,
)
from server.domain.errors import STORE_FAULTS, DomainError, Reason
from server.domain.jobs import Job
from server.services.batches import end
from server.services.chats import Chats, InBatch
from server.services.each import each
from server.services.jobs import Jobs
from server.services.keys import RENTER, Caller
from server.store import batches, jobs, keys
from server.store.database import Database

log = logging.getLogger(__name__)

PAGE = 50
"""Open batches that are read at once."""
COLLECTED = 200
"""Lines that end in one transaction."""
GIVEN_UP = 1000
READ_LINES = 8
"""Lines that are in memory at once: each may have megabytes."""
CANCELLED = 100
REMOVED = 2000
_WAITS = (Stop.BUDGET, Stop.BALANCE)
"""Stops that end when jobs of the batch end and return what they did not use."""
_CUTS = (Stop.EXPIRED, Stop.CANCELLED)
"""Stops that end jobs which run."""


class _StoppedError(Exception):
    """No line can be submitted now: for good, or until a later tick."""

    def __init__(self, stop: Stop | None) -> None:
        super().__init__(stop)
        self.stop = stop


class BatchRuns:
    """The duty that runs batches."""

    def __init__(
        self, database: Database, clock: Clock, chats: Chats, jobs: Jobs, max_open_jobs: int = 0
    ) -> None:
        """``max_open_jobs``: of one renter; its batches together take at most half of them."""
        self._database = database
        self._clock = clock
        self._chats = chats
        self._jobs = jobs
        self._of_renter = max(1, max_open_jobs // 2) if max_open_jobs else None

    async def tick(self) -> None:
        """Advances every batch that has not ended."""
        if not await self._database.read(batches.has_open):
            return
        last = 0
        while found := await self._database.read(partial(batches.open_after, last, PAGE)):
            await each("a batch", found, self._advance)
            last = found[-1].id

    async def clean(self) -> None:
        """Deletes batches that ended long ago or are too many, and lines that never ran, a part at a time."""
        before_ms = ms(self._clock) - KEPT_MS

        def over() -> set[int]:
            return {*batches.old(before_ms, PAGE), *batches.beyond(MAX_KEPT, PAGE)}

        for number in await self._database.read(over):
            await self._database.run(partial(batches.remove, number, REMOVED))
        for number in await self._database.read(partial(batches.failed, PAGE)):
            await self._database.run(partial(batches.remove_lines, number, REMOVED))

    async def _advance(self, batch: Batch) -> None:
        if batch.state is BatchState.VALIDATING:
            await self._end_stalled_check(batch)
            return
        await self._collect(batch)
        current = await self._database.read(lambda: self._unchanged(batch))
        if current is None:
            current = await self._database.run(lambda: self._look(batch))
        if current is None:
            return
        if current.stop is None:
            await self._feed(current)
        else:
            await self._wind_up(current, current.stop)

    async def _end_stalled_check(self, batch: Batch) -> None:
        """Fails a batch whose check has lost whoever did it, and whose renter did not look at it since."""
        if ms(self._clock) - batch.touched_ms < CHECK_LOST_MS:
            return
        fault = Fault("check_interrupted", "The check of this file was interrupted; create the batch again.")

        def fail() -> None:
            if (locked := batches.lock(batch.id)) is not None and locked.touched_ms == batch.touched_ms:
                end(locked, BatchEvent.FAIL, ms(self._clock), (fault,))

        await self._database.run(fail)

    async def _collect(self, batch: Batch) -> None:
        """Ends the lines whose jobs have ended."""
        while found := await self._database.read(lambda: batches.ended(batch, COLLECTED)):
            await self._database.run(partial(self._collect_some, batch, found))
            if len(found) < COLLECTED:
                break

    def _collect_some(self, batch: Batch, found: list[batches.Ended]) -> None:
        if (locked := batches.lock(batch.id)) is not None:
            batches.collect(locked, found, ms(self._clock))

    def _unchanged(self, batch: Batch) -> Batch | None:
        """The batch as it is now, if nothing about it is to be written."""
        current = batches.get(batch.renter_id, batch.batch_id)
        if current is None or current.left <= 0 or self._new_stop(current) is not None:
            return None
        is_fed = current.state is BatchState.IN_PROGRESS and not batches.has_waiting(current)
        return None if is_fed else current

    def _new_stop(self, batch: Batch) -> Stop | None:
        """Why no further line may become a job, if that is not noted yet."""
        if batch.stop is not None:
            return None
        now_ms = ms(self._clock)
        if batch.is_due(now_ms):
            return Stop.EXPIRED
        is_withdrawn = batch.key_id is not None and keys.is_withdrawn(batch.key_id, now_ms)
        return Stop.ACCOUNT if is_withdrawn else None

    def _look(self, batch: Batch) -> Batch | None:
        """The batch as it is now, after what is due for it; None if it has ended."""
        current = batches.lock(batch.id)
        if current is None:
            return None
        now_ms = ms(self._clock)
        if (stop := self._new_stop(current)) is not None:
            batches.set_stop(current, stop)
        if current.state is BatchState.IN_PROGRESS and not batches.has_waiting(current):
            end(current, BatchEvent.FINALIZE, now_ms)
        current = batches.lock(batch.id)
        if current is None or current.left > 0:
            return current
        event = BatchEvent.EXPIRE if current.stop is Stop.EXPIRED else BatchEvent.COMPLETE
        if current.state is BatchState.CANCELLING:
            event = BatchEvent.END_CANCEL
        if end(current, event, now_ms) is not None:
            log.info("ended batch_id=%s event=%s lines=%d", current.batch_id, event, current.lines)
        return None

    async def _wind_up(self, batch: Batch, stop: Stop) -> None:
        """Ends the lines that are no jobs, and, where the batch is cut short, the jobs that run."""
        while await self._database.run(lambda: self._give_up(batch, stop)) == GIVEN_UP:
            pass
        if stop in _CUTS or batch.is_due(ms(self._clock)):
            for job_id in await self._database.read(lambda: batches.job_ids(batch, CANCELLED)):
                await self._cancel(batch, job_id)

    async def _cancel(self, batch: Batch, job_id: str) -> None:
        try:
            await self._jobs.cancel(Caller(RENTER, batch.renter_id), job_id)
        except DomainError as error:
            if error.reason is not Reason.JOB_ALREADY_FINAL:
                raise

    def _give_up(self, batch: Batch, stop: Stop) -> int:
        locked = batches.lock(batch.id)
        if locked is None:
            return 0
        self._note_job_in_flight(locked)
        return batches.give_up(locked, stop.value, STOP_TEXTS[stop], GIVEN_UP, ms(self._clock))

    def _note_job_in_flight(self, batch: Batch) -> None:
        """Notes the job of a line whose submit was not noted: a server ended in between, or is at it.

        Lines become jobs one after another, so it can only be the first that waits.
        """
        for line in batches.waiting(batch, 1):
            job = jobs.by_idempotency_key(batch.renter_id, line_key(batch.batch_id, line.number))
            if job is not None and job.priority == PRIORITY:
                batches.submit(batch, line.number, job.job_id, job.hold_micros)

    async def _feed(self, batch: Batch) -> None:
        """Makes jobs of the next lines, as many as may be open at once."""
        of_renter = await self._database.read(lambda: batches.submitted(batch.renter_id))
        if (own := of_renter.get(batch.id)) is None:
            return
        live, held = own.jobs, own.held_micros
        most = self._most(live, of_renter.values())
        try:
            while live < most:
                room = min(READ_LINES, most - live)
                lines = await self._database.read(partial(batches.waiting, batch, room))
                if not lines:
                    return
                for line in lines:
                    job = await self._submit(batch, line, left_micros(batch, held))
                    if job is not None:
                        live, held = live + 1, held + job.hold_micros
        except _StoppedError as stopped:
            if stopped.stop is None or (stopped.stop in _WAITS and live):
                return
            stop = stopped.stop
            await self._database.run(lambda: batches.set_stop(batch, stop))

    def _most(self, live: int, of_renter: Collection[batches.Submitted]) -> int:
        """How many lines of a batch may be jobs: its share of what the renter's batches may have together."""
        if self._of_renter is None:
            return JOBS_AT_ONCE
        share = math.ceil(self._of_renter / max(1, sum(each.is_fed for each in of_renter)))
        left = self._of_renter - sum(each.jobs for each in of_renter)
        return min(JOBS_AT_ONCE, share, live + left)

    async def _submit(self, batch: Batch, line: Line, left: int | None) -> Job | None:
        """Makes a job of a line; None if it can be none. Raises _StoppedError."""
        try:
            job = await self._submitted(batch, line, left)
        except DomainError as error:
            if error.reason in STORE_FAULTS:
                raise
            if error.reason in LATER or error.reason is Reason.BATCH_NOT_OPEN:
                raise _StoppedError(None) from None
            if (stop := STOPS.get(error.reason)) is not None:
                raise _StoppedError(stop) from None
            code, message = error.reason.value.lower(), error.message
            await self._database.run(lambda: self._refuse(batch, line, code, message))
            return None
        if await self._database.run(lambda: self._note(batch, line, job)):
            return job
        await self._cancel(batch, job.job_id)
        raise _StoppedError(None)

    def _note(self, batch: Batch, line: Line, job: Job) -> bool:
        """Notes the job of a line; False if the line was given up meanwhile: nobody would get the answer."""
        is_noted = batches.submit(batch, line.number, job.job_id, job.hold_micros)
        return is_noted or batches.job_of(batch, line.number) == job.job_id

    async def _submitted(self, batch: Batch, line: Line, left: int | None) -> Job:
        terms = InBatch(batch.id, max(1000, batch.expires_ms - ms(self._clock)), left)
        key = line_key(batch.batch_id, line.number)
        who = batch.renter_id, batch.key_id
        if line.kind is Kind.EMBEDDINGS:
            return await self._chats.submit_embeddings(
                *who, line.model, line.request, idempotency_key=key, batch=terms
            )
        return await self._chats.submit(
            *who,
            line.model,
            line.request,
            max_tokens=line.max_tokens,
            cache_key=line.cache_key,
            idempotency_key=key,
            batch=terms,
        )

    def _refuse(self, batch: Batch, line: Line, code: str, message: str) -> None:
        if (locked := batches.lock(batch.id)) is not None:
            batches.refuse(locked, line.number, code, message, ms(self._clock))
