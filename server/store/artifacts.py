"""Artifacts as rows. Their bytes are stored elsewhere, under ``blob_key``, which this module does not read.

A row is inserted before its bytes are stored and deleted after them, so all stored bytes have a row: the
cleaning finds everything that a crash leaves behind. Each change of a state is guarded by
ARTIFACT_TRANSITIONS.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from server.domain.artifacts import ARTIFACT_TRANSITIONS, Artifact, ArtifactEvent, ArtifactState
from server.domain.jobs import Job
from server.domain.leases import LeaseState
from server.store import models as db
from server.store import states


def announce(
    job_id: str, lease_epoch: int, name: str, size_bytes: int, sha256: bytes, blob_key: str, now_ms: int
) -> int:
    """Inserts a file whose bytes are about to arrive; returns its id."""
    artifact_id: Any = db.Artifact.insert(
        job_id=job_id,
        lease_epoch=lease_epoch,
        name=name,
        size_bytes=size_bytes,
        sha256=sha256,
        blob_key=blob_key,
        state=states.first(ARTIFACT_TRANSITIONS, ArtifactEvent.ANNOUNCE),
        created_ms=now_ms,
    ).execute()
    return int(artifact_id)


def stored(job_id: str, lease_epoch: int, name: str) -> Artifact | None:
    """The stored file of a run with this name; None before all its bytes have arrived."""
    query = _of_lease(job_id, lease_epoch).where(
        db.Artifact.name == name, _is_in(ArtifactState.READY, ArtifactState.PUBLISHED)
    )
    return next((_artifact(row) for row in query), None)


def beside(job_id: str, lease_epoch: int, name: str, *, arriving: bool) -> tuple[int, int]:
    """The number of a run's files with other names, and their bytes; ``arriving`` includes current uploads.

    A name that is uploaded twice counts once, with the larger size.
    """
    ready = _is_in(ArtifactState.READY)
    counted = ready | _is_in(ArtifactState.UPLOADING) if arriving else ready
    sizes: dict[str, int] = {}
    for row in _of_lease(job_id, lease_epoch).where(counted, db.Artifact.name != name):
        sizes[row.name] = max(row.size_bytes, sizes.get(row.name, 0))
    return len(sizes), sum(sizes.values())


def make_ready(artifact_id: int, job: Job, size_bytes: int, now_ms: int) -> bool:
    """Marks a file as stored and adds it to the job's totals; False if its upload was ended before."""
    is_stored = _move(ArtifactEvent.STORE, db.Artifact.id == artifact_id, created_ms=now_ms)
    if is_stored:
        db.Job.update(
            artifact_count=db.Job.artifact_count + 1, artifact_bytes=db.Job.artifact_bytes + size_bytes
        ).where(db.Job.job_id == job.job_id).execute()
    return bool(is_stored)


def break_off(artifact_id: int) -> bool:
    """Marks a failed upload as to be deleted; False if the file is stored or has no row any more."""
    return bool(_move(ArtifactEvent.BREAK_OFF, db.Artifact.id == artifact_id))


def publish(job: Job, now_ms: int) -> None:
    """Publishes the files of the attempt that ended the job: they can be downloaded."""
    of_attempt = (db.Artifact.job_id == job.job_id) & (db.Artifact.lease_epoch == job.lease_epoch)
    _move(ArtifactEvent.PUBLISH, of_attempt, published_ms=now_ms)


def clear_totals(job: Job) -> None:
    """Removes the files of a lost attempt from the job's totals; the cleaning deletes them."""
    db.Job.update(artifact_count=0, artifact_bytes=0).where(db.Job.job_id == job.job_id).execute()


def published(job_id: str) -> list[Artifact]:
    """The files of a job that can be downloaded, by name."""
    query = db.Artifact.select().where(db.Artifact.job_id == job_id, _is_in(ArtifactState.PUBLISHED))
    return [_artifact(row) for row in query.order_by(db.Artifact.name)]


def published_of(job_id: str, lease_epoch: int) -> list[Artifact]:
    """The files of one run that can be downloaded, by name."""
    query = _of_lease(job_id, lease_epoch).where(_is_in(ArtifactState.PUBLISHED))
    return [_artifact(row) for row in query.order_by(db.Artifact.name)]


def published_one(job_id: str, name: str) -> Artifact | None:
    """A job's file that can be downloaded, by its name."""
    query = db.Artifact.select().where(
        db.Artifact.job_id == job_id, _is_in(ArtifactState.PUBLISHED), db.Artifact.name == name
    )
    return next((_artifact(row) for row in query), None)


def is_arriving(job_id: str, lease_epoch: int, lately_ms: int) -> bool:
    """Whether a file of a run is being uploaded, or was stored after ``lately_ms``."""
    query = _of_lease(job_id, lease_epoch).where(
        _is_in(ArtifactState.UPLOADING) | (_is_in(ArtifactState.READY) & (db.Artifact.created_ms > lately_ms))
    )
    return bool(query.exists())


# Cleaning, which runs periodically.


def break_off_uploads(before_ms: int, limit: int) -> int:
    """Marks uploads that began before a time as to be deleted; returns how many."""
    old = db.Artifact.select(db.Artifact.id).where(
        _is_in(ArtifactState.UPLOADING), db.Artifact.created_ms < before_ms
    )
    return _move_all(ArtifactEvent.BREAK_OFF, [row.id for row in old.limit(limit)])


def leave_behind(limit: int) -> int:
    """Marks files of attempts that ended without ending their job as to be deleted; returns how many."""
    lease = db.Lease
    left = (
        db.Artifact.select(db.Artifact.id)
        .join(
            lease,
            on=((lease.job_id == db.Artifact.job_id) & (lease.lease_epoch == db.Artifact.lease_epoch)),
        )
        .where(_is_in(ArtifactState.READY), states.is_in(lease.state, LeaseState.ENDED))
    )
    return _move_all(ArtifactEvent.LEAVE_BEHIND, [row.id for row in left.limit(limit)])


def expire(before_ms: int, limit: int) -> int:
    """Marks the files of jobs that ended before a time as to be deleted; returns the number of jobs."""
    old = (
        db.Artifact.select(db.Artifact.job_id)
        .where(_is_in(ArtifactState.PUBLISHED), db.Artifact.published_ms < before_ms)
        .distinct()
    )
    job_ids = [job_id for (job_id,) in db.tuples(old.limit(limit))]
    if job_ids and _move(ArtifactEvent.EXPIRE, db.Artifact.job_id.in_(job_ids)):
        db.Job.update(artifact_count=0, artifact_bytes=0).where(db.Job.job_id.in_(job_ids)).execute()
    return len(job_ids)


def erase(jobs: Any) -> None:
    """Erases the names of the files of ``jobs``, a query of ids, and marks stored files as to be deleted."""
    _move(ArtifactEvent.ERASE, db.Artifact.job_id.in_(jobs), name="", size_bytes=0, sha256=b"")


def to_delete(after_id: int, limit: int) -> list[tuple[int, str]]:
    """Files behind an id whose bytes are to be deleted, with their ``blob_key``."""
    query = db.Artifact.select(db.Artifact.id, db.Artifact.blob_key)
    query = query.where(_is_in(ArtifactState.DOOMED), db.Artifact.id > after_id)
    return [(int(number), key) for number, key in db.tuples(query.order_by(db.Artifact.id).limit(limit))]


def delete(artifact_ids: Collection[int]) -> None:
    """Deletes the rows of files whose bytes have been deleted."""
    db.Artifact.delete().where(
        db.Artifact.id.in_(list(artifact_ids)),
        states.may(db.Artifact.state, ARTIFACT_TRANSITIONS, ArtifactEvent.DELETE),
    ).execute()


def known(blob_keys: Collection[str]) -> set[str]:
    """Those of the keys that have a row."""
    query = db.Artifact.select(db.Artifact.blob_key).where(db.Artifact.blob_key.in_(list(blob_keys)))
    return {key for (key,) in db.tuples(query)}


def is_anything_due(upload_before_ms: int, expired_before_ms: int) -> bool:
    """Whether the cleaning has work; it is asked first, so that an idle market writes nothing."""
    artifact = db.Artifact
    waiting = artifact.select(artifact.id).where(
        _is_in(ArtifactState.DOOMED)
        | _is_in(ArtifactState.READY)
        | (_is_in(ArtifactState.UPLOADING) & (artifact.created_ms < upload_before_ms))
    )
    old = artifact.select(artifact.id).where(
        _is_in(ArtifactState.PUBLISHED), artifact.published_ms < expired_before_ms
    )
    return waiting.limit(1).scalar() is not None or old.limit(1).scalar() is not None


def _move(event: ArtifactEvent, which: Any, **changes: Any) -> int:
    """Applies ``event`` to those of the files whose state allows it; returns the number of files."""
    return sum(
        db.Artifact.update(state=target, **changes).where(which, guard).execute()
        for target, guard in states.moves(db.Artifact.state, ARTIFACT_TRANSITIONS, event)
    )


def _move_all(event: ArtifactEvent, artifact_ids: list[int]) -> int:
    return _move(event, db.Artifact.id.in_(artifact_ids)) if artifact_ids else 0


def _is_in(*wanted: ArtifactState) -> Any:
    return states.is_in(db.Artifact.state, *wanted)


def _of_lease(job_id: str, lease_epoch: int) -> Any:
    return db.Artifact.select().where(db.Artifact.job_id == job_id, db.Artifact.lease_epoch == lease_epoch)


def _artifact(row: Any) -> Artifact:
    return Artifact(
        id=row.id,
        job_id=row.job_id,
        lease_epoch=row.lease_epoch,
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=bytes(row.sha256),
        blob_key=row.blob_key,
        created_ms=row.created_ms,
        published_ms=row.published_ms,
    )
