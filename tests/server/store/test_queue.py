"""The queue: which jobs a provider gets, in which order, and what finding them costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, TypeVar

import pytest

from server.domain.jobs import Job, JobRequest, JobType
from server.domain.levels import Unasked
from server.domain.placement import Model, Obstacle, Wants, can_run
from server.domain.pricing import NO_PRICES, Prices, per_minute
from server.store import jobs, queue
from server.store.database import Database
from server.store.models import Job as JobRow
from tests.server.store.rows import CANDIDATE, NOW_MS, Rows
from tests.support import databases
from tests.support.databases import connection


async def test_queue_is_sorted_by_priority_and_then_by_age(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter()
    second = await rows.job(renter_id, priority=2, now_ms=NOW_MS)
    last = await rows.job(renter_id, priority=1, now_ms=NOW_MS - 1000)
    third = await rows.job(renter_id, priority=2, now_ms=NOW_MS + 1)
    first = await rows.job(renter_id, priority=10, now_ms=NOW_MS + 1000)
    queued = await database.run(lambda: queue.next_queued(CANDIDATE, 10, NOW_MS, 0))
    assert [job.job_id for job in queued] == [first, second, third, last]
    assert [job.job_id for job in await database.run(lambda: queue.next_queued(CANDIDATE, 2, NOW_MS, 0))] == [
        first,
        second,
    ]


@pytest.mark.parametrize(("crowd_size", "reads_on"), [(10, True), (queue.READ_PAST, False)])
@pytest.mark.parametrize("limit", [1, 3])
async def test_jobs_behind_those_that_are_not_taken_move_up_within_bounds(
    database: Database, rows: Rows, crowd_size: int, reads_on: bool, limit: int
) -> None:
    renter_id = await rows.renter()
    left = {await rows.job(renter_id, now_ms=NOW_MS + number) for number in range(crowd_size)}
    behind = [await rows.job(renter_id, now_ms=NOW_MS + 1000 + number) for number in range(4)]

    def take(job: Job) -> queue.Take:
        return queue.Take.NO if job.job_id in left else queue.Take.YES

    found = await database.run(lambda: queue.next_queued(CANDIDATE, limit, NOW_MS + 5000, 0, take=take))
    assert [job.job_id for job in found] == (behind[:limit] if reads_on else [])


async def test_a_need_of_which_no_more_is_taken_gives_way_to_another(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter()
    able = replace(CANDIDATE, job_types=frozenset({JobType.BENCHMARK, JobType.RENDERING}))
    full = [
        await rows.job(renter_id, request=JobRequest(JobType.BENCHMARK, 60_000), now_ms=NOW_MS - 9)
        for _ in range(3)
    ]
    other = await rows.job(renter_id, request=JobRequest(JobType.RENDERING, 60_000))
    asked: list[str] = []

    def take(job: Job) -> queue.Take:
        asked.append(job.job_id)
        return queue.Take.NO_MORE if job.job_id in full else queue.Take.YES

    found = await database.run(lambda: queue.next_queued(able, 1, NOW_MS, 0, take=take))
    assert [job.job_id for job in found] == [other]
    assert len(asked) == 2


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
    assert bool(await database.run(lambda: queue.next_queued(able, 10, NOW_MS, 0))) is suits


@pytest.mark.parametrize("seed", range(12))
async def test_each_provider_gets_the_jobs_that_it_can_run_in_queue_order(
    database: Database, rows: Rows, seed: int
) -> None:
    """The store selects the same jobs as the rules of placement, by priority and age."""
    rng, renter_id = Random(seed), await rows.renter()
    named = [await rows.provider() for _ in range(3)]
    entries: list[tuple[int, int, str, int | None, Wants]] = []
    for _ in range(40):
        request = JobRequest(
            rng.choice([JobType.BENCHMARK, JobType.TRAINING]),
            60_000,
            provider_id=rng.choice([None, None, *named]),
            model=rng.choice([None, "m", "other"]),
            gpu_model=rng.choice([None, "4090", "Geforce RTX 4090", "RTX 4090 Laptop", "rtx", "H100"]),
            min_vram_mib=rng.choice([None, 8192, 65536]),
            priority=rng.randint(0, 3),
        )
        at_ms, rate = NOW_MS + rng.randint(0, 5), rng.choice([100, 120, 150])
        job_id = await rows.job(renter_id, now_ms=at_ms, request=request, rate=rate)
        entries.append((-request.priority, at_ms, job_id, request.provider_id, wants_of(request, rate)))
    for provider_id in named:
        candidate = replace(
            CANDIDATE,
            provider_id=provider_id,
            job_types=frozenset(rng.sample([JobType.BENCHMARK, JobType.TRAINING], rng.randint(1, 2))),
            models=tuple(Model(name) for name in rng.sample(["m", "other"], rng.randint(0, 2))),
            vram_mib=rng.choice([4096, 24576, 80000]),
            vram_reserve_mib=rng.choice([0, 0, 16385, 90000]),
            own_prices=Prices(
                dict(zip(JobType, rng.choices([99, 100, 119, 121, 150, 151], k=len(JobType)), strict=True))
            )
            if rng.random() < 0.7
            else NO_PRICES,
            is_open=rng.random() < 0.9,
            is_too_hot=rng.random() < 0.1,
            runs_plain_processes=rng.random() < 0.2,
            hindered=rng.choice([{}, {}, {JobType.TRAINING: Obstacle.TOOLKIT_TOO_OLD}]),
        )
        suitable = [
            job_id
            for _, _, job_id, named_id, wants in sorted(entries, key=lambda entry: entry[:3])
            if named_id in (None, provider_id) and can_run(candidate, wants)
        ]
        limit = rng.randint(1, 40)
        taken = await database.run(partial(queue.next_queued, candidate, limit, NOW_MS, 0))
        assert [job.job_id for job in taken] == suitable[:limit]


def wants_of(request: JobRequest, rate: int) -> Wants:
    quoted = per_minute(rate) if request.provider_id is None else None
    unasked = Unasked.BEST if request.provider_id is None else None
    return Wants(
        request.job_type, request.model, request.gpu_model, request.min_vram_mib, quoted, unasked=unasked
    )


async def test_requirements_are_read_with_the_quoted_rate(database: Database, rows: Rows) -> None:
    """For polls, explanations and estimates alike; the rate counts only for a job without a provider."""
    renter_id, provider_id = await rows.renter(), await rows.provider()
    for named_id, rate in [(None, 100), (None, 100), (None, 150), (provider_id, 100), (provider_id, 150)]:
        request = JobRequest(JobType.BENCHMARK, 60_000, provider_id=named_id)
        job_id = await rows.job(renter_id, request=request, rate=rate)
        wants = wants_of(request, rate)
        assert await database.read(partial(jobs.wants, job_id)) == wants
        found = await database.read(partial(queue.queue_through, job_id, 10))
        assert found is not None
        assert found[0].wants == wants
    kinds = await database.read(partial(queue.queued_wants, 10))
    found_kinds = sorted(
        (named_id or 0, wants.quoted.halala_per_minute if wants.quoted else 0) for named_id, wants in kinds
    )
    assert found_kinds == [(0, 100), (0, 150), (provider_id, 0)]


async def test_job_past_its_start_deadline_is_not_selected(database: Database, rows: Rows) -> None:
    job_id = await rows.job(await rows.renter())
    end_ms = (await rows.get(job_id)).start_by_ms
    for now_ms, waits in ((end_ms - 1, True), (end_ms, False)):
        assert bool(await database.run(partial(queue.next_queued, CANDIDATE, 1, now_ms, 0))) is waits
        assert bool(await database.read(partial(jobs.unstarted, now_ms, 1))) is not waits


async def test_place_in_the_queue_lists_the_jobs_before_it(database: Database, rows: Rows) -> None:
    renter_id = await rows.renter()
    last, first, second = [await rows.job(renter_id, priority=n) for n in (1, 3, 2)]
    found = await database.read(lambda: queue.queue_through(second, 10))
    assert found is not None
    assert (found[0].job_id, [job.job_id for job in found[1]]) == (second, [first])
    assert await database.read(lambda: queue.queue_through(last, 2)) is None
    assert await database.read(lambda: queue.queue_through("job-none", 10)) is None


async def test_queue_without_models_or_types_is_empty(database: Database, rows: Rows) -> None:
    await rows.job(await rows.renter(), request=JobRequest(JobType.LLM_INFERENCE, 60_000, model="m"))
    for bare in (replace(CANDIDATE, models=()), replace(CANDIDATE, job_types=frozenset())):
        assert await database.run(partial(queue.next_queued, bare, 10, NOW_MS, 0)) == []


async def test_job_that_names_a_provider_is_queued_only_for_it(database: Database, rows: Rows) -> None:
    other, named = await rows.provider(), await rows.provider()
    await rows.job(await rows.renter(), request=JobRequest(JobType.BENCHMARK, 60_000, provider_id=named))
    assert not await database.run(
        lambda: queue.next_queued(replace(CANDIDATE, provider_id=other), 10, NOW_MS, 0)
    )
    assert await database.run(lambda: queue.next_queued(replace(CANDIDATE, provider_id=named), 10, NOW_MS, 0))


# What queued jobs ask for that their provider does not have.
UNMET: dict[str, dict[str, Any]] = {
    "another model": {"job_type": "llm-inference", "model": "other"},
    "another job type": {"job_type": "rendering"},
    "another GPU": {"gpu_model": "NVIDIA H100"},
    "more memory": {"min_vram_mib": 80_000},
    "a higher quote": {"price": per_minute(1).text},
    "another provider": {},  # it is named
}
COPIES = 3_000
T = TypeVar("T")


async def crowd(database: Database, job_id: str, unmet: dict[str, Any], numbers: range) -> None:
    """Queues copies of a job that are older, come before it, and ask for something else."""

    def insert() -> None:
        row: Any = JobRow.select().where(JobRow.job_id == job_id).dicts().get()
        copy = {**row, **unmet, "priority": 9, "created_ms": NOW_MS - 1}
        copies = [{**copy, "job_id": f"{job_id}-{number}"} for number in numbers]
        for start in range(0, len(copies), 500):
            JobRow.insert_many(copies[start : start + 500]).execute()

    await database.run(insert)


async def steps(database: Database, work: Callable[[], T]) -> tuple[T, int]:
    """What queries find, and how many instructions SQLite runs for them: each visited row takes some."""

    def count() -> tuple[T, int]:
        run: list[None] = []
        connection(database).set_progress_handler(lambda: run.append(None), 1)
        try:
            return work(), len(run)
        finally:
            connection(database).set_progress_handler(None, 1)

    return await database.run(count)


@pytest.mark.parametrize("what", UNMET)
async def test_provider_visits_one_of_thousands_of_equal_jobs_that_it_cannot_run(
    sqlite_url: str, what: str
) -> None:
    async with databases.opened(sqlite_url) as database:
        rows = Rows(database)
        provider_id, other_id, renter_id = await rows.provider(), await rows.provider(), await rows.renter()
        own = await rows.job(renter_id, request=JobRequest(JobType.BENCHMARK, 60_000))
        candidate = replace(
            CANDIDATE,
            provider_id=provider_id,
            job_types=frozenset({JobType.BENCHMARK, JobType.LLM_INFERENCE}),
            own_prices=Prices({JobType.BENCHMARK: 50}),
        )
        unmet = UNMET[what] or {"named_provider_id": other_id}

        def find() -> tuple[list[str], list[int]]:
            found = queue.next_queued(candidate, 1, NOW_MS, 0)
            named = sorted(named_id or 0 for named_id, _ in queue.queued_wants(10))
            return [job.job_id for job in found], named

        await crowd(database, own, unmet, range(1))
        few = await steps(database, find)
        await crowd(database, own, unmet, range(1, COPIES))
        assert few == await steps(database, find)
        assert few[0] == ([own], [0, unmet.get("named_provider_id", 0)])


async def test_database_seeks_each_need_in_the_index(database: Database, rows: Rows) -> None:
    """On both databases; PostgreSQL would scan a table as small as this one if it were allowed to."""
    provider_id = await rows.provider()
    renter_id = await rows.renter()
    await rows.job(renter_id, request=JobRequest(JobType.BENCHMARK, 60_000))
    for _ in range(200):  # a table of one row tells PostgreSQL nothing about its indexes
        await rows.job(renter_id, request=JobRequest(JobType.TRAINING, 60_000))
    candidate = replace(CANDIDATE, provider_id=provider_id)

    def plans() -> list[str]:
        raw: Any = database.peewee
        execute_sql, sent = raw.execute_sql, list[tuple[str, Any]]()

        def noted(sql: str, params: Any = None) -> Any:
            sent.append((sql, params))
            return execute_sql(sql, params)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(raw, "execute_sql", noted)
            queue.next_queued(candidate, 1, NOW_MS, 0)
            queue.queued_wants(9)
        if not database.is_sqlite:
            execute_sql("ANALYZE job")
            for method in ("seqscan", "sort", "bitmapscan"):
                execute_sql(f"SET LOCAL enable_{method} = off")
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        return [
            " | ".join(str(row[-1]) for row in execute_sql(explain + sql, params).fetchall())
            for sql, params in sent
        ]

    shown = await database.run(plans)
    assert len(shown) == 3
    for plan in shown:
        assert re.search(r"Index( Only)? Scan using job_wanted|USING( COVERING)? INDEX job_wanted", plan), (
            plan
        )
        assert not re.search(r"Seq Scan on job|SCAN job\b|Sort Key|TEMP B-TREE", plan), plan


async def test_longest_names_fit_into_the_index(database: Database, rows: Rows) -> None:
    """Letters of four bytes, as random as the limits allow: a row of an index cannot be compressed then."""
    rng = Random(1)

    def letters(count: int) -> str:
        return "".join(chr(rng.randrange(0x20000, 0x2A000)) for _ in range(count))

    provider_id, renter_id, model = await rows.provider(), await rows.renter(), letters(300)
    wanted = JobRequest(
        JobType.LLM_INFERENCE, 60_000, model=model, gpu_model=letters(200), image=letters(500)
    )
    job_id = await rows.job(renter_id, request=wanted)
    ((named_id, wants),) = await database.read(lambda: queue.queued_wants(9))
    assert (named_id, wants.model, wants.image) == (None, model, wanted.image)
    candidate = replace(
        CANDIDATE, provider_id=provider_id, models=(Model(model),), gpu_model=str(wants.gpu_model)
    )
    found = await database.run(lambda: queue.next_queued(candidate, 1, NOW_MS, 0))
    assert [job.job_id for job in found] == [job_id]
