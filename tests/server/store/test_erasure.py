"""Erasing the jobs of a deleted renter in batches, on each kind of database."""

from __future__ import annotations

import re

import pytest

from server.services.renters import existing
from server.store.database import Database
from server.store.models import MODELS, Chunk, Job, Lease
from server.store.privacy import erasure
from tests.server.store.rows import Rows

# A column with such a name holds the id of an account, or of a job or an action that leads to an account.
ID_OF_SOMEBODY = re.compile(r"(^|_)(renter|provider|owner|account|object|job)(_id)?$")
NEWEST = 2 * erasure.BATCH + 7


async def insert_jobs(database: Database, renter_id: int, provider_id: int, times: list[int]) -> None:
    """Inserts ended jobs that were submitted at these times, each with a lease that wrote output."""

    def insert() -> None:
        job = {"renter_id": renter_id, "job_type": "benchmark", "state": "failed", "spec": '{"p": 1}'}
        job["image"] = "ghcr.io/acme/secret:1"
        job |= {"start_within_ms": 1, "start_by_ms": 1, "lost_after_ms": 1, "request_digest": "d"}
        job |= {"duration_ms": 1, "limit_ms": 1, "priority": 2, "hold_micros": 1, "failure_message": "m"}
        lease = {"lease_epoch": 1, "provider_id": provider_id, "session_epoch": 1, "secret_sha256": b""}
        lease |= {"state": "ended", "offered_ms": 1, "detail": "d", "output_limit_bytes": 1}
        chunk = {"lease_epoch": 1, "stream": "log", "seq": 1, "data": b"l"}
        ids = [f"job-{renter_id}-{number:04}" for number in range(len(times))]
        Job.insert_many(
            [
                {**job, "job_id": job_id, "created_ms": at_ms, "rate_halala_per_minute": 1}
                for job_id, at_ms in zip(ids, times, strict=True)
            ]
        ).execute()
        Lease.insert_many([{**lease, "job_id": job_id} for job_id in ids]).execute()
        Chunk.insert_many([{**chunk, "job_id": job_id} for job_id in ids]).execute()

    await database.run(insert)


def count_texts() -> tuple[int, int, int]:
    """The numbers of jobs, leases and chunks that still have texts."""
    jobs = (
        Job.select().where((Job.spec != "{}") | (Job.request_digest != "") | Job.image.is_null(False)).count()
    )
    leases = Lease.select().where(Lease.detail != "").count()
    return int(jobs), int(leases), int(Chunk.select().count())


@pytest.mark.parametrize(
    ("times", "counts"),
    [
        (list(range(NEWEST)), [NEWEST - erasure.BATCH, 7, 0]),
        ([1] * (erasure.BATCH - 1) + [2] * 5 + [3], [1, 0, 0]),  # jobs of the same time are erased together
        ([5] * erasure.BATCH, [0, 0, 0]),
        ([], [0, 0, 0]),
    ],
)
async def test_batches_erase_every_job_once_oldest_first(
    database: Database, times: list[int], counts: list[int]
) -> None:
    rows = Rows(database)
    renter_id, other_id, provider_id = await rows.renter(), await rows.renter(), await rows.provider()
    await insert_jobs(database, renter_id, provider_id, times)
    await insert_jobs(database, other_id, provider_id, [1, 2])
    await database.run(lambda: erasure.erase_jobs(renter_id))
    # Nothing of an existing account is erased.
    assert await database.read(count_texts) == (len(times) + 2,) * 3
    await database.run(lambda: erasure.erase_account(existing(renter_id)))
    for count in counts:
        await database.run(lambda: erasure.erase_jobs(renter_id))
        assert await database.read(count_texts) == (count + 2,) * 3
    assert await database.read(lambda: erasure.to_erase(9)) == []


def test_every_column_with_an_accounts_id_is_erased_or_kept_with_a_reason() -> None:
    columns = {
        f"{model._meta.table_name}.{field.column_name}"
        for model in MODELS
        for field in model._meta.sorted_fields
        if ID_OF_SOMEBODY.search(field.column_name)
    }
    named = [*erasure.ERASED, *erasure.ERASED_WITH_JOBS, *erasure.KEPT_WITH_REASON]
    assert sorted(named) == sorted(columns)
