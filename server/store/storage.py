"""The bytes that are kept for each account, and the removal of the texts of jobs that ended long ago.

Requests and inputs are counted in columns of the renter, since a renter may have millions of jobs; files are
summed over the jobs that have some. Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peewee as pw

from server.domain.disputes import DisputeState
from server.store import renters, states
from server.store.models import Chunk, Dispute, Job, Provider, Renter, tuples
from server.store.prepared import PreparedQuery, arg, locking

REMOVED = "{}"
"""What stands in place of a removed request."""


_lock_provider = PreparedQuery(
    lambda: locking(Provider.select(Provider.id).where(Provider.id == arg("id")), "FOR NO KEY UPDATE")
)


def _files(owner: Any) -> Any:
    has_files = Job.artifact_bytes > pw.SQL("0")  # a literal, as in the index
    return Job.select(pw.fn.COALESCE(pw.fn.SUM(Job.artifact_bytes), 0)).where(owner == arg("id"), has_files)


def _kept() -> Any:
    return Renter.request_bytes + Renter.input_bytes + _files(Job.renter_id)


_of_renter = PreparedQuery(lambda: Renter.select(_kept()).where(Renter.id == arg("id")))
_files_of_provider = PreparedQuery(lambda: _files(Job.provider_id))
_requests = PreparedQuery(lambda: Renter.select(Renter.request_bytes).where(Renter.id == arg("id")))
_add_request = PreparedQuery(
    lambda: (
        Renter.update({Renter.request_bytes: Renter.request_bytes + arg("size")})
        .where(Renter.id == arg("id"))
        .returning(_kept())
    )
)


def of_renter(renter_id: int) -> int:
    """The bytes of the requests, inputs and files that are kept for a renter."""
    return int(_of_renter.value(id=renter_id) or 0)


def of_provider(provider_id: int) -> int:
    """The bytes of the files that are kept of a provider's runs."""
    return int(_files_of_provider.value(id=provider_id))


def lock(renter_id: int, provider_id: int) -> None:
    """Locks both accounts until the transaction ends, in the order in which a submit locks them."""
    renters.get(renter_id, lock=True)
    _lock_provider.one(id=provider_id)


def add_request(renter_id: int, size_bytes: int) -> int:
    """Counts a new request of a renter, whose row the caller has locked; returns all bytes kept for it."""
    return int(_add_request.value(id=renter_id, size=size_bytes))


def unpaid(day: int, limit: int) -> list[int]:
    """Renters with kept bytes that did not pay for this day yet, those longest unpaid first."""
    has_bytes = Renter.request_bytes + Renter.input_bytes > pw.SQL("0")  # a literal, as in the index
    query = Renter.select(Renter.id).where(Renter.storage_day < day, has_bytes, ~Renter.is_market)
    return [int(id_) for (id_,) in tuples(query.order_by(Renter.storage_day, Renter.id).limit(limit))]


def begin_day(renter_id: int, day: int) -> bool:
    """Notes that a renter pays for a day; False if it did already, by this server or another."""
    query = Renter.update(storage_day=day).where(Renter.id == renter_id, Renter.storage_day < day)
    return bool(query.execute())


def _has_open_dispute() -> Any:
    """Whether a job's texts are the evidence of a dispute that an operator has yet to decide."""
    is_open = states.is_in(Dispute.state, DisputeState.OPEN)
    return pw.fn.EXISTS(Dispute.select(Dispute.id).where(Dispute.job_id == Job.job_id, is_open))


def with_texts(ended_before_ms: int, limit: int) -> list[tuple[str, int]]:
    """Jobs that ended before a time and still have their texts, with their renters; longest ended first.

    Those with an open dispute are left out.
    """
    query = Job.select(Job.job_id, Job.renter_id).where(
        Job.ended_ms < ended_before_ms, Job.texts_removed_ms.is_null(), ~_has_open_dispute()
    )
    rows = tuples(query.order_by(Job.ended_ms).limit(limit))
    return [(job_id, int(renter_id)) for job_id, renter_id in rows]


def remove_texts(found: Sequence[tuple[str, int]], now_ms: int) -> int:
    """Removes requests, outputs and logs of jobs that have ended; returns how many jobs still had them."""
    # Locks the renters first and in order, as submits and deletions lock them before any job.
    for renter_id in sorted({renter_id for _, renter_id in found}):
        renters.get(renter_id, lock=True)
    wanted = [job_id for job_id, _ in found]
    query = Job.select(Job.job_id, Job.renter_id, Job.spec).where(
        Job.job_id.in_(wanted), Job.texts_removed_ms.is_null(), ~_has_open_dispute()
    )
    rows = list(tuples(query))
    freed: dict[int, int] = {}
    for _, renter_id, spec in rows:
        freed[renter_id] = freed.get(renter_id, 0) + len(spec.encode())
    for renter_id, size in freed.items():
        kept = max(0, int(_requests.value(id=renter_id)) - size)  # a deleted account counts no requests
        Renter.update(request_bytes=kept).where(Renter.id == renter_id).execute()
    job_ids = [job_id for job_id, _, _ in rows]
    Chunk.delete().where(Chunk.job_id.in_(job_ids)).execute()
    Job.update(spec=REMOVED, image=None, texts_removed_ms=now_ms).where(Job.job_id.in_(job_ids)).execute()
    return len(job_ids)
