"""Owns the checks of batches: a batch's file is read once, line by line, after its creation was answered.

What its lines ask for is sent to the server in bounded groups. A server that restarts meanwhile is asked
again. If this gateway ends, another one, or the next on this machine, takes the check over: when its renter
looks at the batch, with the renter's key, since no gateway keeps keys; and without a renter where the server
knows its gateways. What was added to the batch is at the server, which also decides who of several gets it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import aclosing, suppress
from typing import Any

from dcp.v1 import batches_pb2 as pb

from gateway.batch_calls import BatchCalls, is_passing, wait_of
from gateway.dialects.openai_batches import MAX_ERRORS, LineError, LineReader, Lines, Raw
from gateway.errors import ApiError
from gateway.inference import Jobs

log = logging.getLogger(__name__)

GROUP_LINES, GROUP_BYTES = 500, 1 << 20
"""Lines that are sent to the server at once."""
CHECKS_AT_ONCE = 8
CHECK_TRIES = 5
ASKED_SECONDS = 10.0
"""Between two questions whether a batch's check is to be taken over."""
MAX_ASKED = 1000
WATCHED_SECONDS = 30.0
"""Between two questions whether there is a check that nobody does."""
_UNKNOWN = 401


class Checks:
    """The checks that this gateway does."""

    def __init__(self, calls: BatchCalls, jobs: Jobs) -> None:
        self._calls = calls
        self._jobs = jobs
        self._running: dict[str, asyncio.Task[None]] = {}
        """By batch, since a batch whose creation is repeated is checked once at a time."""
        self._asked: dict[str, float] = {}
        self._room = asyncio.Semaphore(CHECKS_AT_ONCE)

    def begin(self, batch: pb.Batch, metadata: Any) -> None:
        """Checks a batch, unless it is being checked here."""
        if batch.id not in self._running:
            self._start(batch, self._check(batch, metadata))

    def saw(self, answer: Any, metadata: Any) -> None:
        """Its renter has seen a batch, or a page of batches: takes over the checks that nobody does."""
        found = [answer] if isinstance(answer, pb.Batch) else answer.data
        for batch in found:
            if batch.status == pb.BATCH_STATUS_VALIDATING and batch.id not in self._running:
                self._ask(batch, metadata)

    async def watch(self) -> None:
        """Takes over checks that nobody does, whosever they are, until it is cancelled.

        Returns where the server does not know this gateway.
        """
        while True:
            await asyncio.sleep(WATCHED_SECONDS)
            if len(self._running) >= CHECKS_AT_ONCE:
                continue
            metadata = [("x-request-id", secrets.token_hex(8))]
            try:
                found = await self._calls.call("TakeBatchCheck", pb.TakeBatchCheckRequest(), metadata)
            except ApiError as error:
                if error.status == _UNKNOWN:
                    return
                continue
            if found.HasField("batch"):
                log.info("took over the check of a batch batch_id=%s", found.batch.id)
                self.begin(found.batch, metadata)

    def _ask(self, batch: pb.Batch, metadata: Any) -> None:
        now = time.monotonic()
        if now < self._asked.pop(batch.id, 0.0):
            return
        self._asked[batch.id] = now + ASKED_SECONDS
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._start(batch, self._take_over(batch, metadata))

    def _start(self, batch: pb.Batch, work: Any) -> None:
        task = self._running[batch.id] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._running.pop(batch.id, None))

    async def _take_over(self, batch: pb.Batch, metadata: Any) -> None:
        try:
            asked = pb.ResumeBatchCheckRequest(batch_id=batch.id)
            is_ours = (await self._calls.call("ResumeBatchCheck", asked, metadata)).is_callers
        except ApiError:
            return  # a key that may only read, or no server: the next look asks again
        if is_ours:
            log.info("took over the check of a batch batch_id=%s", batch.id)
            await self._check(batch, metadata)

    async def _check(self, batch: pb.Batch, metadata: Any) -> None:
        """Reads the lines of a batch. After a fault of ours the check is taken over when it is asked for."""
        try:
            async with self._room:
                for number in range(1, CHECK_TRIES + 1):
                    try:
                        await _Check(self._calls, self._jobs, batch, metadata).run()
                        return
                    except ApiError as error:
                        if not is_passing(error) or number == CHECK_TRIES:
                            raise
                        seconds = max(number, wait_of(error))
                    await asyncio.sleep(seconds)
        except ApiError as error:
            log.warning("a batch was not checked batch_id=%s code=%s", batch.id, error.code)
            fault = pb.BatchError(code=error.code.lower(), message=error.text[:2000])
            with suppress(ApiError):
                await self._end(batch, metadata, fault)
        except Exception as fault:
            log.error("a batch was not checked batch_id=%s error=%s", batch.id, type(fault).__name__)

    async def _end(self, batch: pb.Batch, metadata: Any, fault: pb.BatchError) -> None:
        asked = pb.EndBatchCheckRequest(batch_id=batch.id, errors=[fault])
        await self._calls.call("EndBatchCheck", asked, metadata, is_patient=True)


class _Check:
    """One look through the file of a batch."""

    def __init__(self, calls: BatchCalls, jobs: Jobs, batch: pb.Batch, metadata: Any) -> None:
        self._calls = calls
        self._jobs = jobs
        self._batch = batch
        self._metadata = metadata
        self._group: list[pb.BatchLine] = []
        self._size = 0
        self._count = 0
        self._errors: list[pb.BatchError] = []

    async def run(self) -> None:
        """Sends the lines to the server, and ends the check. Raises ApiError."""
        models = await self._jobs.models(self._metadata)
        served = {model.id: tuple(model.output_modalities) for model in models.data}
        reader, lines = LineReader(self._batch.endpoint, served), Lines()
        async with aclosing(
            self._calls.pieces(self._batch.input_file_id, self._metadata, self._batch.id)
        ) as pieces:
            async for piece in pieces:
                for raw in lines.feed(piece):
                    await self._take(reader, raw)
                if len(self._errors) >= MAX_ERRORS:
                    break
        for raw in lines.end():
            await self._take(reader, raw)
        await self._send()
        if not self._count and not self._errors:
            self._errors.append(LineError("empty_file", "The file has no lines.").at(None))
        asked = pb.EndBatchCheckRequest(
            batch_id=self._batch.id,
            line_count=0 if self._errors else self._count,
            errors=self._errors[:MAX_ERRORS],
        )
        await self._calls.call("EndBatchCheck", asked, self._metadata, is_patient=True)

    async def _take(self, reader: LineReader, raw: Raw) -> None:
        if len(self._errors) >= MAX_ERRORS:
            return
        try:
            line = reader.read(raw)
        except LineError as fault:
            self._errors.append(fault.at(raw.number))
            return
        if self._errors:
            return
        self._count += 1
        self._group.append(line)
        self._size += len(raw.data or b"")
        if len(self._group) >= GROUP_LINES or self._size >= GROUP_BYTES:
            await self._send()

    async def _send(self) -> None:
        if self._group and not self._errors:
            asked = pb.AddBatchLinesRequest(batch_id=self._batch.id, lines=self._group)
            await self._calls.call("AddBatchLines", asked, self._metadata, is_patient=True)
        self._group.clear()
        self._size = 0
