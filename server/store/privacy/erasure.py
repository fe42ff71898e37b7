"""The erasure of a renter that deleted its account, as rows: records of money stay, personal data goes.

Every column that holds the id of an account or of a job is named here: in ``ERASED`` or
``ERASED_WITH_JOBS`` with the query that erases, or in ``KEPT_WITH_REASON``. A test compares these names
with the models. Every function runs inside its caller's transaction, which has locked the renter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.domain.batches import BatchState
from server.domain.mailboxes import barred
from server.domain.providers import AccountState
from server.store import artifacts, inputs, states
from server.store.models import (
    ApiKey,
    Batch,
    BatchLine,
    BudgetUse,
    Chunk,
    Dispute,
    EmailCode,
    Job,
    JobInput,
    Lease,
    Letter,
    LogInCode,
    Renter,
    Repeat,
    Webhook,
    WebhookDelivery,
    tuples,
)
from server.store.prepared import PreparedQuery, arg
from server.store.renters import RenterRow

# Rows that are deleted with the account, by the column with the id of the renter.
ERASED: dict[str, Callable[[int], Any]] = {
    "api_key.owner_id": lambda renter_id: _keys(renter_id, ApiKey.delete()),
    # The rows go at once with those of batches that ended long ago, a part at a time.
    "batch.renter_id": lambda renter_id: Batch.update(
        metadata="{}", faults="[]", ended_ms=0, state=states.stored(BatchState.CANCELLED)
    ).where(Batch.renter_id == renter_id),
    "webhook.renter_id": lambda renter_id: Webhook.delete().where(Webhook.renter_id == renter_id),
    "webhook_delivery.renter_id": lambda renter_id: WebhookDelivery.delete().where(
        WebhookDelivery.renter_id == renter_id
    ),
    "email_code.owner_id": lambda renter_id: EmailCode.delete().where(
        EmailCode.role == "renter", EmailCode.owner_id == renter_id
    ),
    "letter.owner_id": lambda renter_id: Letter.delete().where(
        Letter.role == "renter", Letter.owner_id == renter_id
    ),
    "log_in_code.owner_id": lambda renter_id: LogInCode.delete().where(
        LogInCode.role == "renter", LogInCode.owner_id == renter_id
    ),
    "repeat.owner": lambda renter_id: Repeat.delete().where(Repeat.owner == f"renter {renter_id}"),
}
# Rows that are erased with the renter's jobs, by the column with the job id.
ERASED_WITH_JOBS: dict[str, Callable[[Any], Any]] = {
    "batch_line.job_id": lambda jobs: BatchLine.update(request=None, cache_key="", error_message=None).where(
        BatchLine.job_id.in_(jobs)
    ),
    "chunk.job_id": lambda jobs: Chunk.delete().where(Chunk.job_id.in_(jobs)),
    "dispute.job_id": lambda jobs: Dispute.update(reason="").where(Dispute.job_id.in_(jobs)),
    "job_input.job_id": lambda jobs: JobInput.delete().where(JobInput.job_id.in_(jobs)),
    "lease.job_id": lambda jobs: Lease.update(detail="", image_digest="").where(Lease.job_id.in_(jobs)),
}
_MONEY = "a record of money, which contains no personal text"
_PROVIDER = "a provider's account, which the deletion of a renter does not change"
KEPT_WITH_REASON: dict[str, str] = {
    "account.owner_id": _MONEY,
    "artifact.job_id": "artifacts.erase empties the row, and the row goes when its bytes are deleted",
    "audit_entry.object": "a kind of object, not an id",
    "audit_entry.object_id": "operators' actions stay provable; entries contain ids, states and reasons",
    "canary.job_id": "a check by the market itself, which is nobody's job",
    "canary.provider_id": _PROVIDER,
    "checkpoint_hold.job_id": _MONEY,
    "checkpoint_sum.account_id": _MONEY,
    "day_sum.owner_id": "numbers and sums of money by day, which contain no personal text",
    "dispute.provider_id": _PROVIDER,
    "dispute.renter_id": _MONEY,
    "discard.job_id": "names a run that is not on record, without any text of a renter; goes after 30 days",
    "discard.provider_id": _PROVIDER,
    "gpu_metrics.provider_id": _PROVIDER,
    "gpu_proof.provider_id": _PROVIDER,
    "hold.job_id": _MONEY,
    "hold.renter_id": _MONEY,
    "job.job_id": "the bill stays; erase_jobs empties every text of the job",
    "input.renter_id": "inputs.erase empties the row, and the row goes when its bytes are deleted",
    "input_piece.owner_id": "goes when its bytes are deleted",
    "job.named_provider_id": _PROVIDER,
    "job.provider_id": _PROVIDER,
    "token_remainder.renter_id": _MONEY,
    "job.renter_id": "the bill stays; erase_jobs empties every text of the job",
    "lease.provider_id": _PROVIDER,
    "matured_payouts.provider_id": _PROVIDER,
    "provider_customer.provider_id": _PROVIDER,
    "provider_customer.renter_id": _MONEY,
    "provider_gpu.provider_id": _PROVIDER,
    "provider_model.provider_id": _PROVIDER,
    "provider_standing.provider_id": _PROVIDER,
    "provider_terms.provider_id": _PROVIDER,
    "transfer.credit_account_id": _MONEY,
    "transfer.debit_account_id": _MONEY,
    "transfer.job_id": _MONEY,
    "withdrawal.provider_id": _PROVIDER,
}
DELETED_NAME = "deleted renter"
BATCH = 200
"""How many jobs are erased in one transaction, together with all their output."""
_to_erase = PreparedQuery(
    lambda: (
        Renter.select(Renter.id)
        .where(Renter.erase_from_ms.is_null(False))
        .order_by(Renter.id)
        .limit(arg("limit"))
    )
)


def erase_account(renter: RenterRow) -> list[bytes]:
    """Erases the account except jobs and money, and marks the jobs for erasure; returns its keys' digests.

    Its mailbox is free for a new account, unless the account was suspended: then what stays of it bars it.
    """
    renter_id = renter.id
    box = renter.mailbox if renter.state is AccountState.SUSPENDED else None
    digests = [bytes(sha256) for (sha256,) in tuples(_keys(renter_id, ApiKey.select(ApiKey.sha256)))]
    own_keys = _keys(renter_id, ApiKey.select(ApiKey.id))
    BudgetUse.delete().where(BudgetUse.key_id.in_(own_keys)).execute()
    for erase in ERASED.values():
        erase(renter_id).execute()
    inputs.erase(renter_id)
    Renter.update(
        name=DELETED_NAME,
        email="",
        mailbox=barred(box) if box else None,
        email_verified_ms=None,
        organization="",
        phone="",
        network=None,
        state=states.stored(AccountState.DELETED),
        erase_from_ms=0,
        request_bytes=0,
    ).where(Renter.id == renter_id).execute()
    return digests


def _keys(renter_id: int, query: Any) -> Any:
    return query.where(ApiKey.role == "renter", ApiKey.owner_id == renter_id)


def to_erase(limit: int) -> list[int]:
    """Deleted renters whose jobs are not all erased yet."""
    return [int(renter_id) for (renter_id,) in _to_erase.all(limit=limit)]


def erase_jobs(renter_id: int) -> None:
    """Erases the texts in the next BATCH jobs of a deleted renter, oldest first.

    The bill stays, and so do the facts of the run: times, type, model, size and reasons.
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
        for erase in ERASED_WITH_JOBS.values():
            erase(job_ids).execute()
        artifacts.erase(job_ids)
        Job.update(
            spec="{}",
            image=None,
            gpu_model=None,
            failure_message=None,
            idempotency_key=None,
            request_digest="",
            artifact_count=0,
            artifact_bytes=0,
        ).where(window).execute()
    next_ms = times[-1] + 1 if len(times) == BATCH else None
    Renter.update(erase_from_ms=next_ms).where(Renter.id == renter_id).execute()
