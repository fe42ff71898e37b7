"""What jobs wrote, as it is stored and as text. Inside a transaction."""

from __future__ import annotations

from server.domain import chats
from server.domain.jobs import Job
from server.domain.leases import Channel
from server.store import leases


def written(job: Job) -> bytes:
    """The output of a job's newest attempt, as its daemon wrote it."""
    return leases.read_stream(job.job_id, job.lease_epoch, Channel.OUTPUT)


def text(job: Job) -> bytes:
    """The same as text: of a chat that has ended, what its chunks say; of vectors, their lines."""
    return said(job, written(job))


def said(job: Job, data: bytes) -> bytes:
    """The text of an output that was read."""
    return (
        chats.said(data).encode(errors="replace")
        if job.content_type == chats.CONTENT_TYPE and chats.is_chat(job.spec)
        else data
    )
