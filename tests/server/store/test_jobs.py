"""Jobs and leases as rows: every write checks what its sender knows, and a stale write changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import peewee
import pytest

from server.domain.jobs import FailureReason, Job, JobEvent, JobRequest, JobState, JobType
from server.domain.leases import Channel, Lease, LeaseOutcome, LeaseRef, LeaseState
from server.domain.ledger import make_bill
from server.store import jobs, leases, reliability, sessions
from server.store.database import Database
from server.store.models import Job as JobRow
from server.store.models import Lease as LeaseRow
from server.store.operators import operations
from tests.server.store.rows import NOW_MS, OPENED, SECRET, SESSION_EPOCH, Rows


@dataclass(frozen=True)
class Sender:
    """The sender of a message, and the lease that it names."""

    ref: LeaseRef
    provider_id: int
    session_epoch: int


STALE: dict[str, Callable[[Sender], Sender]] = {
    "older epoch": lambda s: replace(s, ref=replace(s.ref, lease_epoch=0)),
    "newer epoch": lambda s: replace(s, ref=replace(s.ref, lease_epoch=2)),
    "another job": lambda s: replace(s, ref=replace(s.ref, job_id="job-unknown")),
    "wrong secret": lambda s: replace(s, ref=replace(s.ref, secret=b"x" * 16)),
    "empty secret": lambda s: replace(s, ref=replace(s.ref, secret=b"")),
    "another provider": lambda s: replace(s, provider_id=s.provider_id + 1),
    "older session": lambda s: replace(s, session_epoch=0),
    "newer session": lambda s: replace(s, session_epoch=2),
}


def accept(s: Sender) -> bool:
    return leases.accept(s.ref, s.provider_id, s.session_epoch, NOW_MS)


def start(s: Sender) -> bool:
    return leases.start(s.ref, s.provider_id, s.session_epoch, NOW_MS)


def accept_started(s: Sender) -> bool:
    return leases.accept_started(s.ref, s.provider_id, s.session_epoch, NOW_MS)


def output(s: Sender) -> bool:
    return leases.store_chunk(s.ref, s.provider_id, s.session_epoch, Channel.OUTPUT, 1, b"x", NOW_MS)


def log(s: Sender) -> bool:
    return leases.store_chunk(s.ref, s.provider_id, s.session_epoch, Channel.LOG, 1, b"x", NOW_MS)


WRITES: list[tuple[Callable[[Sender], bool], LeaseState]] = [
    (accept, LeaseState.OFFERED),
    (accept_started, LeaseState.OFFERED),
    (start, LeaseState.ACCEPTED),
    (output, LeaseState.RUNNING),
    (log, LeaseState.RUNNING),
]


async def stored(database: Database, job_id: str) -> tuple[Job | None, Lease | None, bytes]:
    return await database.read(
        lambda: (jobs.get(job_id), leases.get(job_id, 1), leases.read_stream(job_id, 1, Channel.OUTPUT))
    )


@pytest.mark.parametrize(("write", "state"), WRITES)
@pytest.mark.parametrize("staleness", STALE)
async def test_stale_lease_changes_nothing(
    database: Database,
    rows: Rows,
    write: Callable[[Sender], bool],
    state: LeaseState,
    staleness: str,
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, state)
    before = await stored(database, job_id)
    sender = Sender(ref, provider_id, SESSION_EPOCH)
    assert not await database.run(lambda: write(STALE[staleness](sender)))
    assert await stored(database, job_id) == before
    assert await database.run(lambda: write(sender))


@pytest.mark.parametrize(
    ("write", "state"),
    [
        (write, state)
        for write, right in WRITES
        for state in (LeaseState.OFFERED, LeaseState.ACCEPTED, LeaseState.RUNNING)
        if state is not right and not (write in (log, output) and state is LeaseState.ACCEPTED)
    ],
)
async def test_message_in_another_state_changes_nothing(
    database: Database, rows: Rows, write: Callable[[Sender], bool], state: LeaseState
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, state)
    before = await stored(database, job_id)
    assert not await database.run(lambda: write(Sender(ref, provider_id, SESSION_EPOCH)))
    assert await stored(database, job_id) == before


@pytest.mark.parametrize("write", [write for write, _ in WRITES])
async def test_ended_lease_changes_nothing(
    database: Database, rows: Rows, write: Callable[[Sender], bool]
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    lease = await rows.lease(ref)
    assert await database.run(lambda: leases.end(lease, LeaseOutcome.LOST, NOW_MS))
    before = await stored(database, job_id)
    assert not await database.run(lambda: write(Sender(ref, provider_id, SESSION_EPOCH)))
    assert not await database.run(lambda: leases.end(lease, LeaseOutcome.SUCCEEDED, NOW_MS))
    assert await stored(database, job_id) == before


async def test_moved_lease_accepts_messages_only_from_the_newer_session(
    database: Database, rows: Rows
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.ACCEPTED)
    lease = await rows.lease(ref)
    await database.run(lambda: leases.move_to_session(lease, 2))
    assert not await database.run(lambda: start(Sender(ref, provider_id, 1)))
    assert await database.run(lambda: start(Sender(ref, provider_id, 2)))


async def test_chunk_is_stored_once_and_in_order(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)

    def store(seq: int, data: bytes) -> bool:
        return leases.store_chunk(ref, provider_id, SESSION_EPOCH, Channel.OUTPUT, seq, data, NOW_MS)

    sent = [(2, b"early"), (1, b"one"), (1, b"again"), (3, b"gap"), (2, b"two"), (0, b"zero"), (3, b"three")]
    accepted = [await database.run(partial(store, seq, data)) for seq, data in sent]
    assert accepted == [False, True, False, False, True, False, True]
    assert await database.read(lambda: leases.read_stream(job_id, 1, Channel.OUTPUT)) == b"onetwothree"
    assert (await rows.lease(ref)).output_through_seq == 3
    assert (await rows.get(job_id)).output_bytes == 11


async def test_acceptance_with_the_start_is_stored_as_both_are(database: Database, rows: Rows) -> None:
    provider_id, renter_id = await rows.provider(), await rows.renter()
    found = []
    for writes in ([accept, start], [accept_started]):
        job_id = await rows.job(renter_id)
        ref = await rows.leased(provider_id, job_id, LeaseState.OFFERED)
        for write in writes:
            assert await database.run(partial(write, Sender(ref, provider_id, SESSION_EPOCH)))
        job, lease = await rows.get(job_id), await rows.lease(ref)
        found.append((replace(job, job_id=""), replace(lease, job_id="")))
    assert found[0] == found[1]
    assert found[0][0].attempt == found[0][1].attempt == 1


async def with_last_output(
    database: Database, rows: Rows, provider_id: int, change: Callable[[LeaseRef, Lease], object]
) -> tuple[bool, LeaseRef]:
    """Ends a run together with its second chunk, after its lease was read and then changed."""
    job_id = await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    await database.run(lambda: output(Sender(ref, provider_id, SESSION_EPOCH)))
    lease = await rows.lease(ref)
    await database.run(lambda: change(ref, lease))
    counted = replace(lease, output_through_seq=2)
    end = partial(leases.end, counted, LeaseOutcome.SUCCEEDED, NOW_MS, last_output=b"last")
    return await database.run(end), ref


async def test_end_of_a_lease_with_its_last_output_is_one_step(database: Database, rows: Rows) -> None:
    ended, ref = await with_last_output(database, rows, await rows.provider(), lambda ref, lease: None)
    assert ended
    lease = await rows.lease(ref)
    assert (lease.state, lease.output_through_seq) == (LeaseState.ENDED, 2)
    assert (await stored(database, ref.job_id))[2] == b"xlast"


CHANGES: dict[str, Callable[[LeaseRef, Lease], object]] = {
    "more output": lambda ref, lease: leases.store_chunk(
        ref, lease.provider_id, SESSION_EPOCH, Channel.OUTPUT, 2, b"y", NOW_MS
    ),
    "another session": lambda ref, lease: leases.move_to_session(lease, 2),
    "ended": lambda ref, lease: leases.end(lease, LeaseOutcome.LOST, NOW_MS),
    "another state": lambda ref, lease: LeaseRow.update(state="offered").execute(),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_last_output_of_a_lease_that_has_changed_is_not_stored_and_does_not_end_it(
    database: Database, rows: Rows, change: str
) -> None:
    seen = []

    def changed(ref: LeaseRef, lease: Lease) -> None:
        CHANGES[change](ref, lease)
        seen.append((leases.get(ref.job_id, 1), leases.read_stream(ref.job_id, 1, Channel.OUTPUT)))

    ended, ref = await with_last_output(database, rows, await rows.provider(), changed)
    assert not ended
    assert (await stored(database, ref.job_id))[1:] == seen[0]


async def test_simultaneous_copies_of_a_chunk_are_stored_once(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    accepted = await asyncio.gather(
        *(database.run(lambda: output(Sender(ref, provider_id, SESSION_EPOCH))) for _ in range(8))
    )
    assert sum(accepted) == 1
    assert (await rows.get(job_id)).output_bytes == 1


async def test_log_and_output_are_numbered_separately(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    sender = Sender(ref, provider_id, SESSION_EPOCH)
    assert await database.run(lambda: log(sender))
    assert await database.run(lambda: output(sender))
    lease = await rows.lease(ref)
    assert (lease.output_through_seq, lease.log_through_seq) == (1, 1)
    assert (await rows.get(job_id)).output_bytes == 1


async def test_leases_of_a_job_are_listed_oldest_first(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    for number in range(1, 4):
        ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
        lease, job = await rows.lease(ref), await rows.get(job_id)
        await database.run(partial(leases.end, lease, LeaseOutcome.LOST, NOW_MS + number, detail="x"))
        await database.run(partial(jobs.requeue, job, NOW_MS))
    listed = await database.read(lambda: leases.of_job(job_id, 10))
    assert [(lease.lease_epoch, lease.attempt, lease.ended_ms) for lease in listed] == [
        (number, number, NOW_MS + number) for number in range(1, 4)
    ]
    newest = await database.read(lambda: leases.of_job(job_id, 2))
    assert [lease.lease_epoch for lease in newest] == [2, 3]


OUTCOMES: list[tuple[list[tuple[LeaseOutcome, FailureReason | None]], float | None]] = [
    ([], None),
    ([(LeaseOutcome.SUCCEEDED, None)], 1.0),
    ([(LeaseOutcome.LOST, None)], 0.0),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.RELEASED, None)], 0.5),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.FAILED, FailureReason.ENGINE_FAILED)], 0.5),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.FAILED, FailureReason.BAD_PARAMS)], 1.0),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.CANCELLED, None)], 1.0),
    ([(LeaseOutcome.LOST, None), *[(LeaseOutcome.SUCCEEDED, None)] * 4], 1.0),  # only the newest four count
]


@pytest.mark.parametrize(("outcomes", "expected"), OUTCOMES)
async def test_reliability_is_the_successful_part_of_the_newest_attempts(
    database: Database,
    rows: Rows,
    outcomes: list[tuple[LeaseOutcome, FailureReason | None]],
    expected: float | None,
) -> None:
    provider_id, renter_id = await rows.provider(), await rows.renter()
    for number, (outcome, reason) in enumerate(outcomes):
        ref = await rows.leased(provider_id, await rows.job(renter_id), LeaseState.RUNNING)
        lease = await rows.lease(ref)
        at_ms = NOW_MS + number
        await database.run(partial(leases.end, lease, outcome, at_ms, failure_reason=reason))
    refused = await rows.leased(provider_id, await rows.job(renter_id), LeaseState.OFFERED)
    lease = await rows.lease(refused)
    await database.run(partial(leases.end, lease, LeaseOutcome.REFUSED, NOW_MS))
    known = await database.read(lambda: reliability.track_record(provider_id, 4))
    assert known.reliability == expected


async def test_simultaneous_offers_of_a_job_succeed_once(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    job = await rows.get(job_id)
    offers = await asyncio.gather(
        *(
            database.run(lambda: leases.offer(job, provider_id, SESSION_EPOCH, SECRET, NOW_MS, 1024))
            for _ in range(8)
        )
    )
    assert sum(offer is not None for offer in offers) == 1


async def test_job_has_at_most_one_live_lease(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.OFFERED)

    def insert_second_lease() -> None:
        LeaseRow.insert(
            job_id=job_id,
            lease_epoch=2,
            provider_id=provider_id,
            session_epoch=1,
            secret_sha256=b"",
            state="offered",
            offered_ms=NOW_MS,
        ).execute()

    with pytest.raises(peewee.IntegrityError):
        await database.run(insert_second_lease)


@pytest.mark.parametrize("event", [JobEvent.COMPLETE, JobEvent.FAIL, JobEvent.CANCEL])
@pytest.mark.parametrize("later", [JobEvent.COMPLETE, JobEvent.FAIL, JobEvent.CANCEL, JobEvent.REQUEUE])
async def test_final_state_never_changes(
    database: Database, rows: Rows, event: JobEvent, later: JobEvent
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    earlier_reading = await rows.get(job_id)
    bill = make_bill(100, 50, 30_000)
    assert await database.run(lambda: jobs.finish(earlier_reading, event, bill, NOW_MS))
    ended = await rows.get(job_id)
    if later is JobEvent.REQUEUE:
        assert not await database.run(lambda: jobs.requeue(earlier_reading, NOW_MS))
    else:
        assert not await database.run(lambda: jobs.finish(earlier_reading, later, bill, NOW_MS + 1))
        assert not await database.run(lambda: jobs.finish(ended, later, bill, NOW_MS + 1))
    assert await rows.get(job_id) == ended


async def test_outdated_reading_of_a_job_cannot_finish_it(database: Database, rows: Rows) -> None:
    """The job was read under lease 1, then requeued and leased again."""
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    earlier_reading, lease = await rows.get(job_id), await rows.lease(ref)
    await database.run(lambda: leases.end(lease, LeaseOutcome.LOST, NOW_MS))
    assert await database.run(lambda: jobs.requeue(earlier_reading, NOW_MS))
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    now = await rows.get(job_id)
    assert not await database.run(
        lambda: jobs.finish(earlier_reading, JobEvent.COMPLETE, make_bill(100, 1, 1), NOW_MS)
    )
    assert await rows.get(job_id) == now
    assert (now.state, now.lease_epoch, now.attempt) == (JobState.RUNNING, 2, 2)


async def test_requeue_discards_the_output_of_the_attempt(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    await database.run(lambda: output(Sender(ref, provider_id, SESSION_EPOCH)))
    job = await rows.get(job_id)
    assert await database.run(lambda: jobs.requeue(job, NOW_MS))
    job = await rows.get(job_id)
    assert (job.state, job.provider_id, job.output_bytes) == (JobState.QUEUED, None, 0)
    assert job.started_ms is None


async def test_new_session_renews_its_leases(database: Database, rows: Rows) -> None:
    """In one transaction, so that no sweep between the Hello and the next heartbeat ends them."""
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    late_ms = NOW_MS + 10 * 300_000
    (lost,) = await database.read(lambda: leases.of_silent(late_ms, 300_000, 9))
    assert (lost[0].job_id, lost[1]) == (job_id, NOW_MS)
    assert await database.read(lambda: leases.of_silent(late_ms, 299_999, 9)) == []
    await database.run(lambda: sessions.begin(provider_id, OPENED, late_ms))
    assert await database.read(lambda: leases.of_silent(late_ms, 300_000, 9)) == []


async def test_lists_leave_what_was_asked_in_the_database(database: Database, rows: Rows) -> None:
    """A prompt can have megabytes, and a list 200 jobs."""
    provider_id, renter_id = await rows.provider(), await rows.renter(1000)
    spec = {"params": {"prompt": "Say hello."}}
    asked = JobRequest(JobType.LLM_INFERENCE, 60_000, provider_id=provider_id, spec=spec)
    job_id = await rows.job(renter_id, request=asked)

    def lists() -> list[Job]:
        return [
            *jobs.page_of_renter(renter_id, None, None, 5),
            *jobs.page_of_provider(provider_id, None, None, 5),
            *jobs.newest_of_renter(renter_id, 5),
            *jobs.newest_of_provider(provider_id, 5),
            *operations.job_page(
                state=None, search="", renter_id=None, provider_id=None, before=None, limit=5
            ),
        ]

    listed = await database.read(lists)
    whole = await rows.get(job_id)
    assert whole.spec == spec
    assert [replace(whole, spec={})] * 5 == listed


async def test_newest_runs_are_those_of_the_same_renter_that_completed_with_the_model(
    database: Database, rows: Rows
) -> None:
    renter_id, other_id = await rows.renter(1000), await rows.renter(1000)
    asked = JobRequest(JobType.LLM_INFERENCE, 60_000, model="a/model", spec={})
    ran, *_ = [
        await rows.job(renter_id, request=asked),
        await rows.job(renter_id, request=asked),
        await rows.job(renter_id, request=replace(asked, model="other/model")),
        await rows.job(other_id, request=asked),
    ]
    values = {JobRow.billed_ms: 700, JobRow.usage: '{"completion_tokens": 5}'}

    def complete() -> None:
        completed = {JobRow.state: JobState.COMPLETED.value, **values}
        JobRow.update(completed).where((JobRow.job_id == ran) | (JobRow.model == "other/model")).execute()

    await database.run(complete)
    kind = JobType.LLM_INFERENCE
    completed = JobState.COMPLETED
    found = await database.read(lambda: jobs.newest_runs(renter_id, kind, "a/model", completed, 5))
    assert found == [(700, {"completion_tokens": 5})]
    assert await database.read(lambda: jobs.newest_runs(renter_id, kind, None, completed, 5)) == []
    assert await database.read(lambda: jobs.newest_runs(other_id, kind, "a/model", completed, 5)) == []
