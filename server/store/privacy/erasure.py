"""What is left of a renter that deleted its account, as rows: money, without a person.

Every function runs inside its caller's transaction, which has locked the renter.
"""

from __future__ import annotations

from server.domain.providers import AccountState
from server.store import artifacts, states
from server.store.models import ApiKey, Chunk, Job, Lease, Renter, Repeat, Webhook, WebhookDelivery, tuples

NOBODY = "deleted renter"
BATCH = 200
"""How many jobs are erased in one transaction: all that they wrote goes with them."""


def has_email(renter_id: int, email_key: str) -> bool:
    """Whether an address, in the form by which addresses are compared, is the renter's."""
    query = Renter.select().where(Renter.id == renter_id, Renter.email_key == email_key)
    return bool(query.exists())


def erase_account(renter_id: int) -> list[bytes]:
    """Erases all but jobs and money, and marks the jobs as to be erased; returns the digests of its keys."""
    mine = (ApiKey.role == "renter") & (ApiKey.owner_id == renter_id)
    digests = [bytes(sha256) for (sha256,) in tuples(ApiKey.select(ApiKey.sha256).where(mine))]
    ApiKey.delete().where(mine).execute()
    Webhook.delete().where(Webhook.renter_id == renter_id).execute()
    WebhookDelivery.delete().where(WebhookDelivery.renter_id == renter_id).execute()
    Repeat.delete().where(Repeat.owner == f"renter {renter_id}").execute()
    Renter.update(
        name=NOBODY,
        email="",
        email_key=f"deleted {renter_id}",  # no address is written so: the renter's own is free again
        organization="",
        phone="",
        state=states.stored(AccountState.DELETED),
        erase_from_ms=0,
    ).where(Renter.id == renter_id).execute()
    return digests


def to_erase(limit: int) -> list[int]:
    """The renters whose jobs are still to be erased."""
    query = Renter.select(Renter.id).where(Renter.erase_from_ms.is_null(False)).order_by(Renter.id)
    return [int(renter_id) for (renter_id,) in tuples(query.limit(limit))]


def erase_jobs(renter_id: int) -> None:
    """Erases what people wrote in the next jobs of a deleted renter, the oldest first.

    What the bill says stays, and so does what the provider did: times, type, model, size and reasons.
    """
    from_ms = Renter.select(Renter.erase_from_ms).where(Renter.id == renter_id).scalar()
    if from_ms is None:
        return
    later = (Job.renter_id == renter_id) & (Job.created_ms >= from_ms)
    oldest = Job.select(Job.created_ms).where(later).order_by(Job.created_ms, Job.job_id).limit(BATCH)
    times = [int(created_ms) for (created_ms,) in tuples(oldest)]
    if times:
        window = later & (Job.created_ms <= times[-1])
        job_ids = Job.select(Job.job_id).where(window)
        Chunk.delete().where(Chunk.job_id.in_(job_ids)).execute()
        artifacts.erase(job_ids)
        Lease.update(detail="", image_digest="").where(Lease.job_id.in_(job_ids)).execute()
        Job.update(
            spec="{}",
            gpu_model=None,
            failure_message=None,
            idempotency_key=None,
            request_digest="",
            artifact_count=0,
            artifact_bytes=0,
        ).where(window).execute()
    next_ms = times[-1] + 1 if len(times) == BATCH else None
    Renter.update(erase_from_ms=next_ms).where(Renter.id == renter_id).execute()
