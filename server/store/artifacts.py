"""Artifacts as rows. Their bytes lie elsewhere, under ``blob_key``; what is here says whether they count.

A row is written before its bytes and goes after them, so that whatever is stored has a row that tells
what to do with it: a crash leaves nothing that the sweep does not find.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from server.domain.artifacts import Artifact, ArtifactState
from server.domain.jobs import Job
from server.domain.leases import LeaseState
from server.store import models as db

_UPLOADING, _READY = ArtifactState.UPLOADING.value, ArtifactState.READY.value
_PUBLISHED, _DOOMED = ArtifactState.PUBLISHED.value, ArtifactState.DOOMED.value


def reserve(
    job_id: str, lease_epoch: int, name: str, size_bytes: int, sha256: bytes, blob_key: str, now_ms: int
) -> int:
    """A file whose bytes are about to arrive; returns its id."""
    made: Any = db.Artifact.insert(
        job_id=job_id,
        lease_epoch=lease_epoch,
        name=name,
        size_bytes=size_bytes,
        sha256=sha256,
        blob_key=blob_key,
        state=_UPLOADING,
        created_ms=now_ms,
    ).execute()
    return int(made)


def stored(job_id: str, lease_epoch: int, name: str) -> Artifact | None:
    """The file of a run under a name, once it is stored."""
    query = _of_lease(job_id, lease_epoch).where(
        db.Artifact.name == name, db.Artifact.state.in_((_READY, _PUBLISHED))
    )
    return next((_artifact(row) for row in query), None)


def beside(job_id: str, lease_epoch: int, name: str, *, arriving: bool) -> tuple[int, int]:
    """How many files a run has left under other names, and their bytes; with those that arrive now, or not.

    A name that arrives twice counts once, with the larger of the two.
    """
    states = (_READY, _UPLOADING) if arriving else (_READY,)
    sizes: dict[str, int] = {}
    for row in _of_lease(job_id, lease_epoch).where(db.Artifact.state.in_(states), db.Artifact.name != name):
        sizes[row.name] = max(row.size_bytes, sizes.get(row.name, 0))
    return len(sizes), sum(sizes.values())


def make_ready(artifact_id: int, job: Job, size_bytes: int, now_ms: int) -> bool:
    """The bytes are stored: the file counts, once; False when it was given up meanwhile."""
    moved = (
        db.Artifact.update(state=_READY, created_ms=now_ms)
        .where(db.Artifact.id == artifact_id, db.Artifact.state == _UPLOADING)
        .execute()
    )
    if moved:
        db.Job.update(
            artifact_count=db.Job.artifact_count + 1, artifact_bytes=db.Job.artifact_bytes + size_bytes
        ).where(db.Job.job_id == job.job_id).execute()
    return bool(moved)


def give_up(artifact_id: int) -> bool:
    """An upload failed: its bytes are to be deleted. False when it counts, or is gone."""
    query = db.Artifact.update(state=_DOOMED).where(
        db.Artifact.id == artifact_id, db.Artifact.state == _UPLOADING
    )
    return bool(query.execute())


def publish(job: Job, now_ms: int) -> None:
    """The attempt ended the job: its files can be downloaded."""
    db.Artifact.update(state=_PUBLISHED, published_ms=now_ms).where(
        db.Artifact.job_id == job.job_id,
        db.Artifact.lease_epoch == job.lease_epoch,
        db.Artifact.state == _READY,
    ).execute()


def clear_totals(job: Job) -> None:
    """The attempt was lost: its files do not count for the job any more; the cleaning deletes them."""
    db.Job.update(artifact_count=0, artifact_bytes=0).where(db.Job.job_id == job.job_id).execute()


def published(job_id: str) -> list[Artifact]:
    """The files of a job that can be downloaded, by name."""
    query = db.Artifact.select().where(db.Artifact.job_id == job_id, db.Artifact.state == _PUBLISHED)
    return [_artifact(row) for row in query.order_by(db.Artifact.name)]


def published_of(job_id: str, lease_epoch: int) -> list[Artifact]:
    """The files of a lease's run that can be downloaded, by name."""
    query = _of_lease(job_id, lease_epoch).where(db.Artifact.state == _PUBLISHED)
    return [_artifact(row) for row in query.order_by(db.Artifact.name)]


def published_one(job_id: str, name: str) -> Artifact | None:
    """One of them, by name."""
    query = db.Artifact.select().where(
        db.Artifact.job_id == job_id, db.Artifact.state == _PUBLISHED, db.Artifact.name == name
    )
    return next((_artifact(row) for row in query), None)


def is_arriving(job_id: str, lease_epoch: int, lately_ms: int) -> bool:
    """Whether a file of a run arrives now, or has arrived after a time."""
    query = _of_lease(job_id, lease_epoch).where(
        (db.Artifact.state == _UPLOADING)
        | ((db.Artifact.state == _READY) & (db.Artifact.created_ms > lately_ms))
    )
    return bool(query.exists())


# What time does to them.


def doom_uploads(before_ms: int, limit: int) -> int:
    """Gives up uploads that began before a time; returns how many."""
    old = db.Artifact.select(db.Artifact.id).where(
        db.Artifact.state == _UPLOADING, db.Artifact.created_ms < before_ms
    )
    return _doom([row.id for row in old.limit(limit)], _UPLOADING)


def doom_orphans(limit: int) -> int:
    """Gives up what attempts left that did not end their job; returns how many."""
    lease = db.Lease
    left = (
        db.Artifact.select(db.Artifact.id)
        .join(
            lease,
            on=((lease.job_id == db.Artifact.job_id) & (lease.lease_epoch == db.Artifact.lease_epoch)),
        )
        .where(db.Artifact.state == _READY, lease.state == LeaseState.ENDED.value)
    )
    return _doom([row.id for row in left.limit(limit)], _READY)


def doom_expired(before_ms: int, limit: int) -> int:
    """Gives up the files of jobs that ended before a time; returns of how many jobs."""
    old = (
        db.Artifact.select(db.Artifact.job_id)
        .where(db.Artifact.state == _PUBLISHED, db.Artifact.published_ms < before_ms)
        .distinct()
    )
    job_ids = [job_id for (job_id,) in db.tuples(old.limit(limit))]
    if job_ids:
        db.Artifact.update(state=_DOOMED).where(
            db.Artifact.job_id.in_(job_ids), db.Artifact.state == _PUBLISHED
        ).execute()
        db.Job.update(artifact_count=0, artifact_bytes=0).where(db.Job.job_id.in_(job_ids)).execute()
    return len(job_ids)


def erase(jobs: Any) -> None:
    """Gives up the files of jobs that have ended, a query of their ids; what told of them is gone at once."""
    told: dict[str, Any] = {"name": "", "size_bytes": 0, "sha256": b""}
    mine = db.Artifact.job_id.in_(jobs)
    # An upload that is cut just now is undone by who began it, who knows it by its state.
    db.Artifact.update(**told).where(mine, db.Artifact.state == _UPLOADING).execute()
    db.Artifact.update(state=_DOOMED, **told).where(mine, db.Artifact.state != _UPLOADING).execute()


def doomed(limit: int) -> list[tuple[int, str]]:
    """Files whose bytes are to be deleted, with their ``blob_key``."""
    query = db.Artifact.select(db.Artifact.id, db.Artifact.blob_key).where(db.Artifact.state == _DOOMED)
    return [(int(number), key) for number, key in db.tuples(query.order_by(db.Artifact.id).limit(limit))]


def forget(artifact_ids: Collection[int]) -> None:
    """Their bytes are gone: so are their rows."""
    db.Artifact.delete().where(db.Artifact.id.in_(list(artifact_ids)), db.Artifact.state == _DOOMED).execute()


def known(blob_keys: Collection[str]) -> set[str]:
    """Which of the keys some row names."""
    query = db.Artifact.select(db.Artifact.blob_key).where(db.Artifact.blob_key.in_(list(blob_keys)))
    return {key for (key,) in db.tuples(query)}


def is_anything_due(upload_before_ms: int, expired_before_ms: int) -> bool:
    """A look before the write, so that an idle market writes nothing."""
    artifact = db.Artifact
    waiting = artifact.select(artifact.id).where(
        (artifact.state == _DOOMED)
        | (artifact.state == _READY)
        | ((artifact.state == _UPLOADING) & (artifact.created_ms < upload_before_ms))
    )
    old = artifact.select(artifact.id).where(
        artifact.state == _PUBLISHED, artifact.published_ms < expired_before_ms
    )
    return waiting.limit(1).scalar() is not None or old.limit(1).scalar() is not None


def _doom(artifact_ids: list[int], state: str) -> int:
    if not artifact_ids:
        return 0
    query = db.Artifact.update(state=_DOOMED).where(
        db.Artifact.id.in_(artifact_ids), db.Artifact.state == state
    )
    return int(query.execute())


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
