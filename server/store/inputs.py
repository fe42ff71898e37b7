"""Inputs and their pieces as rows. The bytes are stored elsewhere, under each piece's ``blob_key``.

The row of a piece is inserted before its bytes are stored and deleted after them, so all stored bytes have a
row. Each change of an input's state is guarded by INPUT_TRANSITIONS. The bytes of a renter's inputs, from
their announcement on, are also a column of the renter, whose row whoever changes it has locked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from server.domain.inputs import INPUT_TRANSITIONS, Input, InputEvent, InputState, Purpose
from server.domain.jobs import FINAL
from server.store import models as db
from server.store import renters, states


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored piece of an input."""

    first_byte: int
    size_bytes: int
    blob_key: str


def announce(
    renter_id: int,
    input_id: str,
    purpose: Purpose,
    name: str,
    size_bytes: int,
    sha256: bytes,
    now_ms: int,
    url: str = "",
) -> Input:
    """Inserts an input whose bytes are about to arrive, and counts them for the renter."""
    db.Input.insert(
        input_id=input_id,
        renter_id=renter_id,
        purpose=purpose.value,
        name=name,
        size_bytes=size_bytes,
        sha256=sha256,
        url=url,
        state=states.first(INPUT_TRANSITIONS, InputEvent.ANNOUNCE),
        created_ms=now_ms,
        used_ms=now_ms,
    ).execute()
    _count(renter_id, size_bytes)
    found = get(renter_id, input_id)
    assert found is not None
    return found


def get(renter_id: int, input_id: str) -> Input | None:
    """A renter's input that is not to be deleted."""
    return _one(_of(renter_id).where(db.Input.input_id == input_id))


def with_content(renter_id: int, sha256: bytes) -> Input | None:
    """A renter's ready input for jobs with this digest."""
    return _one(
        _of(renter_id).where(
            db.Input.sha256 == sha256,
            states.is_exactly(db.Input.state, InputState.READY),
            db.Input.purpose == pw.SQL(f"'{Purpose.JOB.value}'"),  # a literal, as in the index
        )
    )


def arriving(renter_id: int, sha256: bytes, size_bytes: int, url: str) -> Input | None:
    """A renter's unfinished input for jobs with this announcement."""
    return _one(
        _of(renter_id).where(
            db.Input.sha256 == sha256,
            db.Input.size_bytes == size_bytes,
            db.Input.url == url,
            states.is_in(db.Input.state, InputState.UPLOADING),
            db.Input.purpose == Purpose.JOB.value,
        )
    )


def of_renter(renter_id: int, before_id: int | None, limit: int, purpose: Purpose) -> list[Input]:
    """A renter's inputs for one purpose, newest first, from below an id."""
    query = _of(renter_id).where(db.Input.purpose == purpose.value)
    if before_id is not None:
        query = query.where(db.Input.id < before_id)
    return [_input(row) for row in query.order_by(db.Input.id.desc()).limit(limit)]


def every(renter_id: int, before_id: int | None, limit: int) -> list[Input]:
    """A renter's inputs for any purpose, newest first, from below an id: for the export."""
    query = _of(renter_id)
    if before_id is not None:
        query = query.where(db.Input.id < before_id)
    return [_input(row) for row in query.order_by(db.Input.id.desc()).limit(limit)]


def count(renter_id: int, purpose: Purpose) -> int:
    """How many inputs a renter has for a purpose."""
    return int(_of(renter_id).where(db.Input.purpose == purpose.value).count())


def begin_piece(found: Input, blob_key: str, size_bytes: int) -> int:
    """Inserts the next piece of an input before its bytes are stored; returns its id."""
    piece_id: Any = db.InputPiece.insert(
        owner_id=found.id, first_byte=found.received_bytes, size_bytes=size_bytes, blob_key=blob_key
    ).execute()
    return int(piece_id)


def end_piece(found: Input, piece_id: int, size_bytes: int, now_ms: int) -> bool:
    """Adds a stored piece to its input; False if another came first, or the input takes none any more."""
    has_room = db.Input.update(received_bytes=db.Input.received_bytes + size_bytes, used_ms=now_ms).where(
        db.Input.id == found.id,
        db.Input.received_bytes == found.received_bytes,
        states.is_in(db.Input.state, InputState.UPLOADING),
    )
    if not has_room.execute():
        return False
    db.InputPiece.update(stored_ms=now_ms).where(db.InputPiece.id == piece_id).execute()
    return True


def is_unstored(piece_id: int) -> bool:
    """Whether a piece is on record and not stored."""
    query = db.InputPiece.select().where(db.InputPiece.id == piece_id, db.InputPiece.stored_ms.is_null())
    return bool(query.exists())


def delete_pieces(piece_ids: Collection[int]) -> None:
    """Deletes the rows of pieces whose bytes are deleted."""
    db.InputPiece.delete().where(db.InputPiece.id.in_(list(piece_ids))).execute()


def pieces(input_id: int) -> list[Piece]:
    """The stored pieces of an input, in order."""
    piece = db.InputPiece
    query = piece.select().where(piece.owner_id == input_id, piece.stored_ms.is_null(False))
    rows = query.order_by(piece.first_byte)
    return [Piece(row.first_byte, row.size_bytes, row.blob_key) for row in rows]


def piece_count(input_id: int) -> int:
    """How many pieces of an input are on record."""
    return int(db.InputPiece.select().where(db.InputPiece.owner_id == input_id).count())


def finish(found: Input, sha256: bytes, now_ms: int) -> bool:
    """Marks an input as ready with the size that arrived; False if it does not wait for its end."""
    is_ready = _move(
        InputEvent.FINISH,
        (db.Input.id == found.id) & (db.Input.received_bytes == found.received_bytes),
        sha256=sha256,
        size_bytes=found.received_bytes,
        problem="",
        used_ms=now_ms,
    )
    if is_ready:
        _count(found.renter_id, found.received_bytes - found.size_bytes)
    return bool(is_ready)


def doom(found: Input, event: InputEvent) -> bool:
    """Marks an input as to be deleted, for a renter that the caller has locked; False if it already was."""
    is_moved = _move(event, db.Input.id == found.id)
    if is_moved:
        _count(found.renter_id, -found.size_bytes)
    return bool(is_moved)


def is_doomed(renter_id: int, input_id: str) -> bool:
    """Whether a renter's input is to be deleted already."""
    query = db.Input.select().where(
        db.Input.renter_id == renter_id,
        db.Input.input_id == input_id,
        states.is_in(db.Input.state, InputState.DOOMED),
    )
    return bool(query.exists())


def touch(input_ids: Collection[int], now_ms: int) -> None:
    """Notes that inputs are used now."""
    db.Input.update(used_ms=now_ms).where(db.Input.id.in_(list(input_ids))).execute()


def next_to_fetch(without_ids: Collection[int], without_renters: Collection[int]) -> Input | None:
    """The input announced first that waits to be fetched, but none of these and none of these renters."""
    query = db.Input.select().where(
        states.is_exactly(db.Input.state, InputState.UPLOADING),
        db.Input.url != pw.SQL("''"),  # literals, as in the index
        db.Input.problem == pw.SQL("''"),
        db.Input.id.not_in(list(without_ids)),
        db.Input.renter_id.not_in(list(without_renters)),
    )
    return _one(query.order_by(db.Input.id))


def clear_problem(input_id: int) -> None:
    """An input is to be fetched again, or is here."""
    db.Input.update(problem="").where(db.Input.id == input_id).execute()


def note_problem(input_id: int, problem: str) -> None:
    """Notes why an input could not be fetched, unless it has arrived in another way."""
    waits = states.is_in(db.Input.state, InputState.UPLOADING)
    db.Input.update(problem=problem).where(db.Input.id == input_id, waits).execute()


# Jobs that name inputs.


def touch_named(renter_id: int, input_ids: Collection[str], now_ms: int) -> None:
    """Notes that a job of a renter names these inputs now."""
    if input_ids:
        of_renter_ = (db.Input.renter_id == renter_id) & db.Input.input_id.in_(list(input_ids))
        db.Input.update(used_ms=now_ms).where(of_renter_).execute()


def name_in_job(job_id: str, input_ids: Sequence[str]) -> None:
    """Notes which inputs a job reads, so that they stay until it has ended."""
    rows = [{"job_id": job_id, "input_id": input_id} for input_id in dict.fromkeys(input_ids)]
    if rows:
        db.JobInput.insert_many(rows).execute()


def open_job_with(input_id: str) -> str | None:
    """A job that has not ended and names an input."""
    query = (
        db.JobInput.select(db.JobInput.job_id)
        .join(db.Job, on=(db.Job.job_id == db.JobInput.job_id))
        .where(db.JobInput.input_id == input_id, ~states.is_in(db.Job.state, *FINAL))
    )
    found = query.limit(1).scalar()
    return None if found is None else str(found)


# Cleaning, which runs periodically.


def to_expire(ready_ms: int, unfinished_ms: int, limit: int) -> list[tuple[int, int, str]]:
    """Id, renter and public id of inputs that nobody has used since, those longest unused first."""
    found: list[tuple[int, int, str]] = []
    for state, before_ms in ((InputState.READY, ready_ms), (InputState.UPLOADING, unfinished_ms)):
        query = (
            db.Input.select(db.Input.id, db.Input.renter_id, db.Input.input_id)
            .where(states.is_in(db.Input.state, state), db.Input.used_ms < before_ms)
            .order_by(db.Input.used_ms)
        )
        found += [(int(id_), int(renter), key) for id_, renter, key in db.tuples(query.limit(limit))]
    return found


def expire(renter_id: int, number: int, now_ms: int) -> bool:
    """Marks an input as to be deleted, unless a job that has not ended names it: that counts as a use."""
    renters.get(renter_id, lock=True)
    found = _one(_of(renter_id).where(db.Input.id == number))
    if found is None:
        return False
    if open_job_with(found.input_id) is not None:
        touch([found.id], now_ms)
        return False
    return doom(found, InputEvent.EXPIRE)


def is_anything_due(ready_ms: int, unfinished_ms: int) -> bool:
    """Whether the cleaning has work; it is asked first, so that an idle market writes nothing."""
    return bool(to_expire(ready_ms, unfinished_ms, 1)) or bool(doomed(0, 1))


def doomed(after_id: int, limit: int) -> list[int]:
    """Inputs behind an id whose bytes are to be deleted."""
    query = db.Input.select(db.Input.id).where(
        states.is_in(db.Input.state, InputState.DOOMED), db.Input.id > after_id
    )
    return [int(id_) for (id_,) in db.tuples(query.order_by(db.Input.id).limit(limit))]


def stored_keys(input_id: int, limit: int) -> list[tuple[int, str]]:
    """Id and ``blob_key`` of an input's pieces, also of those that were being stored."""
    query = db.InputPiece.select(db.InputPiece.id, db.InputPiece.blob_key)
    query = query.where(db.InputPiece.owner_id == input_id).order_by(db.InputPiece.id)
    return [(int(id_), key) for id_, key in db.tuples(query.limit(limit))]


def remove(input_id: int) -> None:
    """Deletes the row of an input whose pieces are gone."""
    guard = states.may(db.Input.state, INPUT_TRANSITIONS, InputEvent.REMOVE)
    db.Input.delete().where(db.Input.id == input_id, guard).execute()


def known(blob_keys: Collection[str]) -> set[str]:
    """Those of the keys that have a row."""
    query = db.InputPiece.select(db.InputPiece.blob_key).where(db.InputPiece.blob_key.in_(list(blob_keys)))
    return {key for (key,) in db.tuples(query)}


def erase(renter_id: int) -> None:
    """Empties all inputs of a deleted renter and marks them as to be deleted."""
    _move(InputEvent.DELETE, db.Input.renter_id == renter_id, name="", sha256=b"", url="", problem="")
    db.Renter.update(input_bytes=0).where(db.Renter.id == renter_id).execute()


def _count(renter_id: int, more_bytes: int) -> None:
    if more_bytes:
        db.Renter.update(input_bytes=db.Renter.input_bytes + more_bytes).where(
            db.Renter.id == renter_id
        ).execute()


def _move(event: InputEvent, which: Any, **changes: Any) -> int:
    return sum(
        db.Input.update(state=target, **changes).where(which, guard).execute()
        for target, guard in states.moves(db.Input.state, INPUT_TRANSITIONS, event)
    )


def _of(renter_id: int) -> Any:
    return db.Input.select().where(
        db.Input.renter_id == renter_id, states.is_not(db.Input.state, InputState.DOOMED)
    )


def _one(query: Any) -> Input | None:
    return next((_input(row) for row in query.limit(1)), None)


def _input(row: Any) -> Input:
    return Input(
        id=row.id,
        input_id=row.input_id,
        renter_id=row.renter_id,
        purpose=Purpose(row.purpose),
        name=row.name,
        size_bytes=row.size_bytes,
        received_bytes=row.received_bytes,
        sha256=bytes(row.sha256),
        state=InputState(row.state),
        created_ms=row.created_ms,
        used_ms=row.used_ms,
        url=row.url,
        problem=row.problem,
    )
