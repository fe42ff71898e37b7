"""Rows for the export of a renter's data that the other modules of the store do not provide.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import peewee as pw

from server.domain.artifacts import Artifact
from server.domain.jobs import Job as JobRecord
from server.domain.leases import Channel, Lease
from server.store import artifacts, jobs, leases
from server.store.models import Job, tuples
from server.store.models import Lease as LeaseRow

_ARTIFACT_BYTES = 250
"""About this many bytes describe a file in the export, besides its name."""


@dataclass(frozen=True, slots=True)
class AskedJob:
    """A job, and the fields of its request that ``Job`` does not have."""

    job: JobRecord
    gpu_model: str | None
    min_vram_mib: int | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class WrittenAttempt:
    """A lease with the whole output and log of its run, and the list of its files."""

    lease: Lease
    output: bytes
    log: bytes
    artifacts: list[Artifact]


def job_sizes(renter_id: int, before: JobRecord | None, limit: int) -> list[int]:
    """The length of the stored request of each of a renter's jobs, newest first."""
    query = Job.select(pw.fn.LENGTH(Job.spec)).where(Job.renter_id == renter_id)
    if before is not None:
        query = query.where(_older(before))
    newest = query.order_by(Job.created_ms.desc(), Job.job_id.desc()).limit(limit)
    return [int(size) for (size,) in tuples(newest)]


def asked_jobs(renter_id: int, before: JobRecord | None, limit: int) -> list[AskedJob]:
    """A renter's jobs, newest first, and older than ``before`` if it is given."""
    found = jobs.page_of_renter(renter_id, None, before, limit)
    query = Job.select(Job.job_id, Job.spec, Job.gpu_model, Job.min_vram_mib, Job.idempotency_key)
    rows = tuples(query.where(Job.job_id.in_([job.job_id for job in found])))
    asked = {job_id: (json.loads(spec), rest) for job_id, spec, *rest in rows}
    return [AskedJob(replace(job, spec=spec), *rest) for job in found for spec, rest in (asked[job.job_id],)]


def leases_after(renter_id: int, job: JobRecord | None, lease_epoch: int, limit: int) -> list[Lease]:
    """The leases of a renter's jobs: newest job first, and for each job oldest lease first.

    The list begins after the lease ``lease_epoch`` of ``job``.
    """
    query = (
        LeaseRow.select(LeaseRow.job_id, LeaseRow.lease_epoch)
        .join(Job, on=(Job.job_id == LeaseRow.job_id))
        .where(Job.renter_id == renter_id)
    )
    if job is not None:
        same = (Job.job_id == job.job_id) & (LeaseRow.lease_epoch > lease_epoch)
        # The redundant first condition lets the database start at this page in the index.
        query = query.where(Job.created_ms <= job.created_ms, _older(job) | same)
    ordered = query.order_by(Job.created_ms.desc(), Job.job_id.desc(), LeaseRow.lease_epoch).limit(limit)
    found = (leases.get(job_id, epoch) for job_id, epoch in list(tuples(ordered)))
    return [lease for lease in found if lease is not None]


def written_bytes(lease: Lease) -> int:
    """The stored bytes of a run's output and log, plus the length of its list of files."""
    streams = sum(leases.stream_bytes(lease.job_id, lease.lease_epoch, stream) for stream in _streams(lease))
    files = artifacts.published_of(lease.job_id, lease.lease_epoch)
    return streams + sum(len(file.name.encode()) + _ARTIFACT_BYTES for file in files)


def with_what_it_wrote(lease: Lease) -> WrittenAttempt:
    """A lease with its output, its log and its list of files."""
    found = {
        stream: leases.read_stream(lease.job_id, lease.lease_epoch, stream) for stream in _streams(lease)
    }
    files = artifacts.published_of(lease.job_id, lease.lease_epoch)
    return WrittenAttempt(lease, found.get(Channel.OUTPUT, b""), found.get(Channel.LOG, b""), files)


def _streams(lease: Lease) -> list[Channel]:
    """The channels that have chunks: most leases that end early have none."""
    begun = ((Channel.OUTPUT, lease.output_through_seq), (Channel.LOG, lease.log_through_seq))
    return [stream for stream, through_seq in begun if through_seq]


def _older(job: JobRecord) -> pw.Expression:
    same_time = (Job.created_ms == job.created_ms) & (Job.job_id < job.job_id)
    older: pw.Expression = (Job.created_ms < job.created_ms) | same_time
    return older
