"""Batches and their lines as rows. Each change of a state is guarded by the tables of server.domain.batches.

Whoever changes a batch's counts has locked its row. A line's request goes when the line is a job or has
ended; what the line wrote is its job's output. Every function runs inside its caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.batches import (
    BATCH_TRANSITIONS,
    LINE_TRANSITIONS,
    RUNNING,
    Batch,
    BatchEvent,
    BatchState,
    Fault,
    Kind,
    Line,
    LineEvent,
    LineState,
    Part,
    Stop,
    plain_faults,
)
from server.domain.jobs import FINAL, JobState
from server.store import models as db
from server.store import states
from server.store.prepared import PreparedQuery

_open = PreparedQuery(lambda: db.Batch.select(db.Batch.id).where(db.Batch.ended_ms.is_null()).limit(1))
_ENDS = (BatchState.FAILED, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Ended:
    """A line whose job has ended."""

    number: int
    is_completed: bool
    charged_micros: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """How many lines of a batch are jobs not seen to end, what these hold, and whether more are to come."""

    is_fed: bool
    jobs: int
    held_micros: int


@dataclass(frozen=True, slots=True)
class Result:
    """A line that has ended: its job, or why it has none."""

    number: int
    custom_id: str
    kind: Kind
    form: bytes
    job_id: str | None
    error_code: str
    error_message: str


def insert(
    batch_id: str,
    renter_id: int,
    key_id: int | None,
    *,
    endpoint: str,
    input_id: str,
    metadata: dict[str, str],
    max_cost_micros: int | None,
    now_ms: int,
    expires_ms: int,
) -> Batch:
    """Inserts a batch whose file is to be checked."""
    state = states.first(BATCH_TRANSITIONS, BatchEvent.CREATE)
    db.Batch.insert(
        batch_id=batch_id,
        renter_id=renter_id,
        key_id=key_id,
        endpoint=endpoint,
        input_id=input_id,
        state=state,
        metadata=json.dumps(metadata, ensure_ascii=False),
        max_cost_micros=max_cost_micros,
        times=json.dumps({state: now_ms}),
        created_ms=now_ms,
        touched_ms=now_ms,
        expires_ms=expires_ms,
    ).execute()
    found = get(renter_id, batch_id)
    assert found is not None
    return found


def get(renter_id: int, batch_id: str) -> Batch | None:
    """A renter's batch."""
    return _one(db.Batch.select().where(db.Batch.renter_id == renter_id, db.Batch.batch_id == batch_id))


def lock(number: int) -> Batch | None:
    """A batch, whose row stays as it is until the end of the transaction."""
    query = db.Batch.select().where(db.Batch.id == number)
    return _one(query.for_update() if db.Batch._meta.database.for_update else query)


def of_renter(renter_id: int, before_id: int | None, limit: int) -> list[Batch]:
    """A renter's batches, newest first, from below an id."""
    query = db.Batch.select().where(db.Batch.renter_id == renter_id)
    if before_id is not None:
        query = query.where(db.Batch.id < before_id)
    return [_batch(row) for row in query.order_by(db.Batch.id.desc()).limit(limit)]


def count_open(renter_id: int) -> int:
    """How many of a renter's batches have not ended."""
    return int(db.Batch.select().where(db.Batch.renter_id == renter_id, db.Batch.ended_ms.is_null()).count())


def has_open() -> bool:
    """Whether any batch has not ended."""
    return _open.one() is not None


def open_after(number: int, limit: int) -> list[Batch]:
    """Batches that have not ended, oldest first, from above an id."""
    query = db.Batch.select().where(db.Batch.ended_ms.is_null(), db.Batch.id > number)
    return [_batch(row) for row in query.order_by(db.Batch.id).limit(limit)]


def move(batch: Batch, event: BatchEvent, now_ms: int, faults: tuple[Fault, ...] = ()) -> Batch | None:
    """Moves a locked batch; None if its state does not allow it."""
    state = BATCH_TRANSITIONS.next_state(batch.state, event)
    if state is None:
        return None
    values: dict[str, Any] = {
        "state": states.stored(state),
        "times": json.dumps({**batch.times, states.stored(state): now_ms}),
        "touched_ms": now_ms,
        "ended_ms": now_ms if state in _ENDS else None,
    }
    if faults:
        values["faults"] = json.dumps(plain_faults(faults), ensure_ascii=False)
    guard = states.may(db.Batch.state, BATCH_TRANSITIONS, event)
    if not db.Batch.update(**values).where(db.Batch.id == batch.id, guard).execute():
        return None
    return _one(db.Batch.select().where(db.Batch.id == batch.id))


def set_stop(batch: Batch, stop: Stop) -> None:
    """Notes why no further line of a batch becomes a job; the first reason stays."""
    db.Batch.update(stop=stop.value).where(db.Batch.id == batch.id, db.Batch.stop.is_null()).execute()


def new_lines(batch: Batch, lines: Sequence[Line]) -> list[Line]:
    """Those of the lines that a batch does not have yet."""
    line = db.BatchLine
    numbers = [each.number for each in lines]
    query = line.select(line.number).where(line.batch_id == batch.id, line.number.in_(numbers))
    there = {number for (number,) in db.tuples(query)}
    return [each for each in lines if each.number not in there]


def add_lines(batch: Batch, lines: Sequence[Line], now_ms: int) -> None:
    """Adds lines of a locked batch that is being checked; those that it has already stay as they are."""
    rows = [
        {
            "batch_id": batch.id,
            "number": line.number,
            "custom_id": line.custom_id,
            "kind": line.kind.value,
            "model": line.model,
            "request": line.request,
            "max_tokens": line.max_tokens,
            "cache_key": line.cache_key,
            "form": line.form,
            "state": states.first(LINE_TRANSITIONS, LineEvent.ADD),
        }
        for line in lines
    ]
    for start in range(0, len(rows), 100):  # SQLite's most parameters of one statement
        db.BatchLine.insert_many(rows[start : start + 100]).on_conflict_ignore().execute()
    added_bytes = batch.added_bytes + sum(line.size_bytes for line in lines)
    db.Batch.update(touched_ms=now_ms, added_bytes=added_bytes).where(db.Batch.id == batch.id).execute()


def count_lines(batch: Batch) -> int:
    """How many lines a batch has."""
    return int(db.BatchLine.select().where(db.BatchLine.batch_id == batch.id).count())


def set_lines(batch: Batch, lines: int) -> None:
    """Notes how many lines a batch has."""
    db.Batch.update(lines=lines).where(db.Batch.id == batch.id).execute()


def waiting(batch: Batch, limit: int) -> list[Line]:
    """The next lines that are no jobs yet."""
    query = _in(batch, LineState.WAITING).order_by(db.BatchLine.number).limit(limit)
    return [
        Line(
            row.number,
            row.custom_id,
            Kind(row.kind),
            row.model,
            bytes(row.request or b""),
            row.max_tokens,
            row.cache_key,
            bytes(row.form),
        )
        for row in query
    ]


def has_waiting(batch: Batch) -> bool:
    """Whether a line is no job yet."""
    return bool(_in(batch, LineState.WAITING).exists())


def submit(batch: Batch, number: int, job_id: str, hold_micros: int) -> bool:
    """Notes the job of a line; False if the line has one already, or has ended."""
    return bool(
        db.BatchLine.update(
            state=states.after(LINE_TRANSITIONS, LineEvent.SUBMIT),
            job_id=job_id,
            hold_micros=hold_micros,
            request=None,
        )
        .where(
            db.BatchLine.batch_id == batch.id,
            db.BatchLine.number == number,
            states.may(db.BatchLine.state, LINE_TRANSITIONS, LineEvent.SUBMIT),
        )
        .execute()
    )


def job_of(batch: Batch, number: int) -> str | None:
    """The job of a line; None without one, or without such a line."""
    line = db.BatchLine
    found = db.tuples(line.select(line.job_id).where(line.batch_id == batch.id, line.number == number))
    return next((job_id for (job_id,) in found), None)


def submitted(renter_id: int) -> dict[int, Submitted]:
    """What each batch of a renter that runs has of jobs."""
    batch, line = db.Batch, db.BatchLine
    is_job = (line.batch_id == batch.id) & _is(LineState.SUBMITTED)
    counts = pw.fn.COUNT(line.number), pw.fn.COALESCE(pw.fn.SUM(line.hold_micros), 0)
    query = batch.select(batch.id, batch.state, *counts).join(line, pw.JOIN.LEFT_OUTER, on=is_job)
    is_open = batch.ended_ms.is_null() & states.is_in(batch.state, *RUNNING)
    found = db.tuples(query.where(batch.renter_id == renter_id, is_open).group_by(batch.id))
    return {
        int(number): Submitted(BatchState(state) is BatchState.IN_PROGRESS, int(jobs), int(held))
        for number, state, jobs, held in found
    }


def job_ids(batch: Batch, limit: int) -> list[str]:
    """The jobs of lines that have not ended."""
    line = db.BatchLine
    query = (
        line.select(line.job_id)
        .join(db.Job, on=(db.Job.job_id == line.job_id))
        .where(line.batch_id == batch.id, _is(LineState.SUBMITTED), ~states.is_in(db.Job.state, *FINAL))
        .where(db.Job.cancel_requested_ms.is_null())
    )
    return [str(job_id) for (job_id,) in db.tuples(query.limit(limit))]


def ended(batch: Batch, limit: int) -> list[Ended]:
    """Lines whose jobs have ended and that are still noted as submitted."""
    line, job = db.BatchLine, db.Job
    query = (
        line.select(
            line.number, states.is_in(job.state, JobState.COMPLETED), job.charge_micros, job.output_bytes
        )
        .join(job, on=(job.job_id == line.job_id))
        .where(line.batch_id == batch.id, _is(LineState.SUBMITTED), states.is_in(job.state, *FINAL))
        .limit(limit)
    )
    return [
        Ended(number, bool(is_completed), int(charge or 0), int(size or 0))
        for number, is_completed, charge, size in db.tuples(query)
    ]


def collect(batch: Batch, found: Iterable[Ended], now_ms: int) -> None:
    """Ends these lines of a locked batch, and adds them to its counts, each once."""
    completed = failed = charged = size = 0
    for each in found:
        event = LineEvent.COMPLETE if each.is_completed else LineEvent.FAIL
        if _end(batch, each.number, LineState.SUBMITTED, event):
            completed += each.is_completed
            failed += not each.is_completed
            charged += each.charged_micros
            size += each.output_bytes if each.is_completed else 0
    _count(batch, completed, failed, charged, size, now_ms)


def refuse(batch: Batch, number: int, code: str, message: str, now_ms: int) -> None:
    """Ends a line of a locked batch that cannot become a job."""
    if _end(batch, number, LineState.WAITING, LineEvent.FAIL, code, message):
        _count(batch, 0, 1, 0, 0, now_ms)


def give_up(batch: Batch, code: str, message: str, limit: int, now_ms: int) -> int:
    """Ends the next lines of a locked batch that are no jobs; returns how many."""
    line = db.BatchLine
    numbers = [
        number
        for (number,) in db.tuples(
            line.select(line.number).where(line.batch_id == batch.id, _is(LineState.WAITING)).limit(limit)
        )
    ]
    if not numbers:
        return 0
    count = (
        line.update(
            state=_after(LineState.WAITING, LineEvent.FAIL),
            request=None,
            error_code=code,
            error_message=message,
        )
        .where(line.batch_id == batch.id, line.number.in_(numbers), _is(LineState.WAITING))
        .execute()
    )
    _count(batch, 0, int(count), 0, 0, now_ms)
    return int(count)


def results(batch: Batch, part: Part, after: int, limit: int) -> list[Result]:
    """Lines of one of the files that a batch writes, in the order of their numbers, from above one."""
    state = LineState.DONE if part is Part.OUTPUT else LineState.FAILED
    query = _in(batch, state).where(db.BatchLine.number > after).order_by(db.BatchLine.number).limit(limit)
    return [
        Result(
            row.number,
            row.custom_id,
            Kind(row.kind),
            bytes(row.form),
            row.job_id,
            row.error_code or "",
            row.error_message or "",
        )
        for row in query
    ]


def old(before_ms: int, limit: int) -> list[int]:
    """Batches that ended before a time."""
    batch = db.Batch
    query = batch.select(batch.id).where(batch.ended_ms.is_null(False), batch.ended_ms < before_ms)
    return [int(number) for (number,) in db.tuples(query.order_by(batch.ended_ms).limit(limit))]


def beyond(kept: int, limit: int) -> list[int]:
    """Batches that have ended, beyond the newest ``kept`` of a renter, oldest first."""
    batch = db.Batch
    has_ended = batch.ended_ms.is_null(False)
    count = pw.fn.COUNT(batch.id)
    renters = batch.select(batch.renter_id, count).where(has_ended).group_by(batch.renter_id)
    found: list[int] = []
    for renter_id, many in db.tuples(renters.having(count > kept).limit(limit)):
        query = batch.select(batch.id).where(batch.renter_id == renter_id, has_ended).order_by(batch.id)
        found += (int(number) for (number,) in db.tuples(query.limit(min(many - kept, limit - len(found)))))
        if len(found) >= limit:
            break
    return found


def failed(limit: int) -> list[int]:
    """Batches whose check failed and that still have lines."""
    batch, line = db.Batch, db.BatchLine
    has_lines = pw.fn.EXISTS(line.select(line.number).where(line.batch_id == batch.id))
    query = batch.select(batch.id).where(states.is_exactly(batch.state, BatchState.FAILED), has_lines)
    return [int(number) for (number,) in db.tuples(query.limit(limit))]


def remove(number: int, limit: int) -> bool:
    """Deletes lines of a batch, and the batch after its last; False if lines are left."""
    if not remove_lines(number, limit):
        return False
    db.Batch.delete().where(db.Batch.id == number).execute()
    return True


def remove_lines(number: int, limit: int) -> bool:
    """Deletes lines of a batch; False if lines are left."""
    line = db.BatchLine
    numbers = [
        found
        for (found,) in db.tuples(line.select(line.number).where(line.batch_id == number).limit(limit + 1))
    ]
    line.delete().where(line.batch_id == number, line.number.in_(numbers[:limit])).execute()
    return len(numbers) <= limit


def _is(state: LineState) -> Any:
    return states.is_in(db.BatchLine.state, state)


def _in(batch: Batch, state: LineState) -> Any:
    return db.BatchLine.select().where(db.BatchLine.batch_id == batch.id, _is(state))


def _end(
    batch: Batch,
    number: int,
    state: LineState,
    event: LineEvent,
    code: str | None = None,
    message: str | None = None,
) -> bool:
    values: dict[str, Any] = {"state": _after(state, event), "request": None}
    if code is not None:
        values |= {"error_code": code, "error_message": message}
    line = db.BatchLine
    query = line.update(**values).where(line.batch_id == batch.id, line.number == number, _is(state))
    return bool(query.execute())


def _after(state: LineState, event: LineEvent) -> str:
    target = LINE_TRANSITIONS.next_state(state, event)
    assert target is not None
    return states.stored(target)


def _count(batch: Batch, completed: int, failed: int, charged: int, size: int, now_ms: int) -> None:
    row = db.Batch
    row.update(
        completed=row.completed + completed,
        failed=row.failed + failed,
        charged_micros=row.charged_micros + charged,
        output_bytes=row.output_bytes + size,
        touched_ms=now_ms,
    ).where(row.id == batch.id).execute()


def _one(query: Any) -> Batch | None:
    row = query.first()
    return _batch(row) if row is not None else None


def _batch(row: Any) -> Batch:
    return Batch(
        id=row.id,
        batch_id=row.batch_id,
        renter_id=row.renter_id,
        key_id=row.key_id,
        endpoint=row.endpoint,
        input_id=row.input_id,
        state=BatchState(row.state),
        stop=Stop(row.stop) if row.stop is not None else None,
        faults=tuple(Fault(**each) for each in json.loads(row.faults)),
        metadata=json.loads(row.metadata),
        max_cost_micros=row.max_cost_micros,
        lines=row.lines,
        completed=row.completed,
        failed=row.failed,
        charged_micros=row.charged_micros,
        output_bytes=row.output_bytes,
        added_bytes=row.added_bytes,
        times=json.loads(row.times),
        created_ms=row.created_ms,
        touched_ms=row.touched_ms,
        expires_ms=row.expires_ms,
    )
