"""Jobs and leases as rows: every write is guarded by what the sender knew; stale ones change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import peewee
import pytest

from server.domain.jobs import FailureReason, Job, JobEvent, JobRequest, JobState, JobType
from server.domain.leases import Channel, Lease, LeaseOutcome, LeaseRef, LeaseState
from server.domain.ledger import make_bill
from server.domain.placement import Model, Obstacle, Wants, can_run
from server.store import jobs, leases, reliability, sessions
from server.store.database import Database
from server.store.models import Lease as LeaseRow
from tests.server.store.rows import CANDIDATE, NOW_MS, SECRET, SESSION_EPOCH, Rows


@dataclass(frozen=True)
class Sender:
    """Who sends a message about a lease, and what it says the lease is."""

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


def output(s: Sender) -> bool:
    return leases.store_chunk(s.ref, s.provider_id, s.session_epoch, Channel.OUTPUT, 1, b"x")


def log(s: Sender) -> bool:
    return leases.store_chunk(s.ref, s.provider_id, s.session_epoch, Channel.LOG, 1, b"x")


WRITES: list[tuple[Callable[[Sender], bool], LeaseState]] = [
    (accept, LeaseState.OFFERED),
    (start, LeaseState.ACCEPTED),
    (output, LeaseState.RUNNING),
    (log, LeaseState.RUNNING),
]


async def everything(database: Database, job_id: str) -> tuple[Job | None, Lease | None, bytes]:
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
    before = await everything(database, job_id)
    good = Sender(ref, provider_id, SESSION_EPOCH)
    assert not await database.run(lambda: write(STALE[staleness](good)))
    assert await everything(database, job_id) == before
    assert await database.run(lambda: write(good))


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
    before = await everything(database, job_id)
    assert not await database.run(lambda: write(Sender(ref, provider_id, SESSION_EPOCH)))
    assert await everything(database, job_id) == before


@pytest.mark.parametrize("write", [write for write, _ in WRITES])
async def test_ended_lease_changes_nothing(
    database: Database, rows: Rows, write: Callable[[Sender], bool]
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    lease = await rows.lease(ref)
    assert await database.run(lambda: leases.end(lease, LeaseOutcome.LOST, NOW_MS))
    before = await everything(database, job_id)
    assert not await database.run(lambda: write(Sender(ref, provider_id, SESSION_EPOCH)))
    assert not await database.run(lambda: leases.end(lease, LeaseOutcome.SUCCEEDED, NOW_MS))
    assert await everything(database, job_id) == before


async def test_moved_lease_listens_to_the_newer_session_only(database: Database, rows: Rows) -> None:
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
        return leases.store_chunk(ref, provider_id, SESSION_EPOCH, Channel.OUTPUT, seq, data)

    sent = [(2, b"early"), (1, b"one"), (1, b"again"), (3, b"gap"), (2, b"two"), (0, b"zero"), (3, b"three")]
    stored = [await database.run(partial(store, seq, data)) for seq, data in sent]
    assert stored == [False, True, False, False, True, False, True]
    assert await database.read(lambda: leases.read_stream(job_id, 1, Channel.OUTPUT)) == b"onetwothree"
    assert (await rows.lease(ref)).output_through_seq == 3
    assert (await rows.get(job_id)).output_bytes == 11


async def test_same_chunk_at_once_is_stored_once(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    stored = await asyncio.gather(
        *(database.run(lambda: output(Sender(ref, provider_id, SESSION_EPOCH))) for _ in range(8))
    )
    assert sum(stored) == 1
    assert (await rows.get(job_id)).output_bytes == 1


async def test_log_and_output_count_on_their_own(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    good = Sender(ref, provider_id, SESSION_EPOCH)
    assert await database.run(lambda: log(good))
    assert await database.run(lambda: output(good))
    lease = await rows.lease(ref)
    assert (lease.output_through_seq, lease.log_through_seq) == (1, 1)
    assert (await rows.get(job_id)).output_bytes == 1


async def test_queue_is_by_priority_then_age(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter()
    second = await rows.job(renter_id, priority=2, now_ms=NOW_MS)
    last = await rows.job(renter_id, priority=1, now_ms=NOW_MS - 1000)
    third = await rows.job(renter_id, priority=2, now_ms=NOW_MS + 1)
    first = await rows.job(renter_id, priority=10, now_ms=NOW_MS + 1000)
    queued = await database.run(lambda: jobs.next_queued(CANDIDATE, 10, NOW_MS, 0))
    assert [job.job_id for job in queued] == [first, second, third, last]
    assert [job.job_id for job in await database.run(lambda: jobs.next_queued(CANDIDATE, 2, NOW_MS, 0))] == [
        first,
        second,
    ]


@pytest.mark.parametrize(
    ("request_", "suits"),
    [
        (JobRequest(JobType.BENCHMARK, 60_000), True),
        (JobRequest(JobType.LLM_INFERENCE, 60_000, model="m"), True),
        (JobRequest(JobType.LLM_INFERENCE, 60_000, model="other"), False),
        (JobRequest(JobType.TRAINING, 60_000), False),
        (JobRequest(JobType.BENCHMARK, 60_000, gpu_model="rtx4090"), True),
        (JobRequest(JobType.BENCHMARK, 60_000, gpu_model="H100"), False),
        (JobRequest(JobType.BENCHMARK, 60_000, min_vram_mib=24576), True),
        (JobRequest(JobType.BENCHMARK, 60_000, min_vram_mib=24577), False),
    ],
)
async def test_queue_offers_what_the_provider_can_run(
    database: Database, rows: Rows, request_: JobRequest, suits: bool
) -> None:
    await rows.job(await rows.renter(), request=request_)
    able = replace(
        CANDIDATE, job_types=frozenset({JobType.BENCHMARK, JobType.LLM_INFERENCE}), models=(Model("m"),)
    )
    assert bool(await database.run(lambda: jobs.next_queued(able, 10, NOW_MS, 0))) is suits


@pytest.mark.parametrize("seed", range(12))
async def test_order_of_the_queue_is_never_inverted_for_any_provider(
    database: Database, rows: Rows, seed: int
) -> None:
    """What the store takes is what the rules of placement say, in the order of priority and age."""
    rng, renter_id = Random(seed), await rows.renter()
    named = [await rows.provider() for _ in range(3)]
    queue: list[tuple[int, int, str, int | None, Wants]] = []
    for _ in range(40):
        wanted = JobRequest(
            rng.choice([JobType.BENCHMARK, JobType.TRAINING]),
            60_000,
            provider_id=rng.choice([None, None, *named]),
            model=rng.choice([None, "m", "other"]),
            gpu_model=rng.choice([None, "4090", "Geforce RTX 4090", "RTX 4090 Laptop", "rtx", "H100"]),
            min_vram_mib=rng.choice([None, 8192, 65536]),
            priority=rng.randint(0, 3),
        )
        at_ms, rate = NOW_MS + rng.randint(0, 5), rng.choice([100, 120, 150])
        job_id = await rows.job(renter_id, now_ms=at_ms, request=wanted, rate=rate)
        queue.append((-wanted.priority, at_ms, job_id, wanted.provider_id, wants_of(wanted, rate)))
    for provider_id in named:
        candidate = replace(
            CANDIDATE,
            provider_id=provider_id,
            job_types=frozenset(rng.sample([JobType.BENCHMARK, JobType.TRAINING], rng.randint(1, 2))),
            models=tuple(Model(name) for name in rng.sample(["m", "other"], rng.randint(0, 2))),
            vram_mib=rng.choice([4096, 24576, 80000]),
            vram_reserve_mib=rng.choice([0, 0, 16385, 90000]),
            own_rates=dict(zip(JobType, rng.choices([99, 100, 119, 121, 150, 151], k=7), strict=True))
            if rng.random() < 0.7
            else {},
            is_open=rng.random() < 0.9,
            is_too_hot=rng.random() < 0.1,
            runs_plain_processes=rng.random() < 0.2,
            hindered=rng.choice([{}, {}, {JobType.TRAINING: Obstacle.TOOLKIT_TOO_OLD}]),
        )
        suiting = [
            job_id
            for _, _, job_id, named_id, wants in sorted(queue, key=lambda one: one[:3])
            if named_id in (None, provider_id) and can_run(candidate, wants)
        ]
        limit = rng.randint(1, 40)
        taken = await database.run(partial(jobs.next_queued, candidate, limit, NOW_MS, 0))
        assert [job.job_id for job in taken] == suiting[:limit]


def wants_of(request: JobRequest, rate: int) -> Wants:
    quoted = rate if request.provider_id is None else None
    return Wants(request.job_type, request.model, request.gpu_model, request.min_vram_mib, quoted)


async def test_needs_are_read_as_they_were_quoted(database: Database, rows: Rows) -> None:
    """By the poll, by ``why`` and by the estimate alike: the rate counts for a job that names nobody."""
    renter_id, provider_id = await rows.renter(), await rows.provider()
    for named_id, rate in [(None, 100), (None, 100), (None, 150), (provider_id, 100), (provider_id, 150)]:
        wanted = JobRequest(JobType.BENCHMARK, 60_000, provider_id=named_id)
        job_id = await rows.job(renter_id, request=wanted, rate=rate)
        wants = wants_of(wanted, rate)
        assert await database.read(partial(jobs.wants, job_id)) == wants
        found = await database.read(partial(jobs.queue_through, job_id, 10))
        assert found is not None
        assert found[0].wants == wants
    kinds = await database.read(partial(jobs.queued_wants, 10))
    assert sorted((named_id or 0, wants.quoted_halala_per_minute or 0) for named_id, wants in kinds) == [
        (0, 100),
        (0, 150),
        (provider_id, 0),
    ]


async def test_job_whose_time_to_start_is_over_is_not_taken(database: Database, rows: Rows) -> None:
    job_id = await rows.job(await rows.renter())
    end_ms = (await rows.get(job_id)).start_by_ms
    for now_ms, waits in ((end_ms - 1, True), (end_ms, False)):
        assert bool(await database.run(partial(jobs.next_queued, CANDIDATE, 1, now_ms, 0))) is waits
        assert bool(await database.read(partial(jobs.unstarted, now_ms, 1))) is not waits


async def test_job_is_found_in_the_queue_behind_those_before_it(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter()
    last, first, second = [await rows.job(renter_id, priority=n) for n in (1, 3, 2)]
    found = await database.read(lambda: jobs.queue_through(second, 10))
    assert found is not None
    assert (found[0].job_id, [job.job_id for job in found[1]]) == (second, [first])
    assert await database.read(lambda: jobs.queue_through(last, 2)) is None
    assert await database.read(lambda: jobs.queue_through("job-none", 10)) is None


async def test_every_lease_of_a_job_is_told_the_first_one_first(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    for number in range(1, 4):
        ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
        lease, job = await rows.lease(ref), await rows.get(job_id)
        await database.run(partial(leases.end, lease, LeaseOutcome.LOST, NOW_MS + number, detail="x"))
        await database.run(partial(jobs.requeue, job, NOW_MS))
    told = await database.read(lambda: leases.of_job(job_id, 10))
    assert [(lease.lease_epoch, lease.attempt, lease.ended_ms) for lease in told] == [
        (number, number, NOW_MS + number) for number in range(1, 4)
    ]
    newest = await database.read(lambda: leases.of_job(job_id, 2))
    assert [lease.lease_epoch for lease in newest] == [2, 3]


OUTCOMES: list[tuple[list[tuple[LeaseOutcome, FailureReason | None]], float]] = [
    ([], 1.0),
    ([(LeaseOutcome.SUCCEEDED, None)], 1.0),
    ([(LeaseOutcome.LOST, None)], 0.0),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.RELEASED, None)], 0.5),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.FAILED, FailureReason.ENGINE_FAILED)], 0.5),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.FAILED, FailureReason.BAD_PARAMS)], 1.0),
    ([(LeaseOutcome.SUCCEEDED, None), (LeaseOutcome.CANCELLED, None)], 1.0),
    ([(LeaseOutcome.LOST, None), *[(LeaseOutcome.SUCCEEDED, None)] * 4], 1.0),  # the newest four
]


@pytest.mark.parametrize(("outcomes", "expected"), OUTCOMES)
async def test_reliability_is_the_part_of_the_newest_attempts_that_succeeded(
    database: Database,
    rows: Rows,
    outcomes: list[tuple[LeaseOutcome, FailureReason | None]],
    expected: float,
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


async def test_queue_without_models_or_types_is_empty(database: Database, rows: Rows) -> None:
    await rows.job(await rows.renter(), request=JobRequest(JobType.LLM_INFERENCE, 60_000, model="m"))
    for bare in (replace(CANDIDATE, models=()), replace(CANDIDATE, job_types=frozenset())):
        assert await database.run(partial(jobs.next_queued, bare, 10, NOW_MS, 0)) == []


async def test_job_that_names_a_provider_waits_for_it(database: Database, rows: Rows) -> None:
    one, two = await rows.provider(), await rows.provider()
    await rows.job(await rows.renter(), request=JobRequest(JobType.BENCHMARK, 60_000, provider_id=two))
    assert not await database.run(
        lambda: jobs.next_queued(replace(CANDIDATE, provider_id=one), 10, NOW_MS, 0)
    )
    assert await database.run(lambda: jobs.next_queued(replace(CANDIDATE, provider_id=two), 10, NOW_MS, 0))


async def test_concurrent_offers_of_one_job_succeed_once(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    job = await rows.get(job_id)
    offers = await asyncio.gather(
        *(
            database.run(lambda: leases.offer(job, provider_id, SESSION_EPOCH, SECRET, NOW_MS, 1024))
            for _ in range(8)
        )
    )
    assert sum(offer is not None for offer in offers) == 1


async def test_job_has_one_live_lease(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.OFFERED)

    def second() -> None:
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
        await database.run(second)


@pytest.mark.parametrize("event", [JobEvent.COMPLETE, JobEvent.FAIL, JobEvent.CANCEL])
@pytest.mark.parametrize("later", [JobEvent.COMPLETE, JobEvent.FAIL, JobEvent.CANCEL, JobEvent.REQUEUE])
async def test_final_state_never_changes(
    database: Database, rows: Rows, event: JobEvent, later: JobEvent
) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    as_read = await rows.get(job_id)
    bill = make_bill(100, 100, 30_000)
    assert await database.run(lambda: jobs.finish(as_read, event, bill, NOW_MS))
    ended = await rows.get(job_id)
    if later is JobEvent.REQUEUE:
        assert not await database.run(lambda: jobs.requeue(as_read, NOW_MS))
    else:
        assert not await database.run(lambda: jobs.finish(as_read, later, bill, NOW_MS + 1))
        assert not await database.run(lambda: jobs.finish(ended, later, bill, NOW_MS + 1))
    assert await rows.get(job_id) == ended


async def test_job_that_moved_on_is_not_finished_by_what_was_read_before(
    database: Database, rows: Rows
) -> None:
    """A job read under lease 1 and requeued and offered since: the old reading ends nothing."""
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    as_read, lease = await rows.get(job_id), await rows.lease(ref)
    await database.run(lambda: leases.end(lease, LeaseOutcome.LOST, NOW_MS))
    assert await database.run(lambda: jobs.requeue(as_read, NOW_MS))
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    now = await rows.get(job_id)
    assert not await database.run(
        lambda: jobs.finish(as_read, JobEvent.COMPLETE, make_bill(100, 100, 1), NOW_MS)
    )
    assert await rows.get(job_id) == now
    assert (now.state, now.lease_epoch, now.attempt) == (JobState.RUNNING, 2, 2)


async def test_requeue_throws_away_what_the_attempt_wrote(database: Database, rows: Rows) -> None:
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    ref = await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    await database.run(lambda: output(Sender(ref, provider_id, SESSION_EPOCH)))
    job = await rows.get(job_id)
    assert await database.run(lambda: jobs.requeue(job, NOW_MS))
    job = await rows.get(job_id)
    assert (job.state, job.provider_id, job.output_bytes) == (JobState.QUEUED, None, 0)
    assert job.started_ms is None


async def test_new_session_renews_what_it_keeps(database: Database, rows: Rows) -> None:
    """In one transaction: no sweep can judge between the Hello and the next heartbeat."""
    provider_id, job_id = await rows.provider(), await rows.job(await rows.renter())
    await rows.leased(provider_id, job_id, LeaseState.RUNNING)
    late_ms = NOW_MS + 10 * 300_000
    (lost,) = await database.read(lambda: leases.of_silent(late_ms, 300_000, 9))
    assert (lost[0].job_id, lost[1]) == (job_id, NOW_MS)
    assert await database.read(lambda: leases.of_silent(late_ms, 299_999, 9)) == []
    await database.run(lambda: sessions.begin(provider_id, JobType, late_ms))
    assert await database.read(lambda: leases.of_silent(late_ms, 300_000, 9)) == []
