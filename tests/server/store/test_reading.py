"""Reads that may grow run apart, and a read is interrupted when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.domain.errors import DomainError, Reason
from server.domain.reads import LONG_READS, Purpose, reading_for
from server.store.database import POSTGRES_THREADS, READ_THREADS, Database
from tests.support.databases import connection, execute, fetch_one, opened

# Runs for hours.
FOREVER = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000000) "
    "SELECT COUNT(*) FROM n"
)
HANG_SECONDS = 20


def in_time(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def threads_are_free(database: Database) -> None:
    """Waits until each thread for reads can run another one, and that its connection works."""
    async with asyncio.timeout(HANG_SECONDS):
        met = threading.Barrier(READ_THREADS)

        def read() -> int:
            met.wait(HANG_SECONDS)
            return int(fetch_one(database, "SELECT 1")[0])

        assert await asyncio.gather(*(database.read(read) for _ in range(READ_THREADS))) == [1] * READ_THREADS
        for owner in range(LONG_READS):
            with reading_for(Purpose(owner, may_grow=True)):
                assert await database.read(lambda: fetch_one(database, "SELECT 1")) == (1,)


@pytest.mark.parametrize("may_grow", [False, True])
async def test_a_read_ends_at_its_deadline_with_its_own_words(
    database: Database, may_grow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(owner: int) -> None:
        with reading_for(Purpose(owner, in_time(0.2), may_grow)):
            await database.read(lambda: fetch_one(database, FOREVER))

    async with asyncio.timeout(HANG_SECONDS):
        ends = await asyncio.gather(*(slow(n) for n in range(READ_THREADS + 2)), return_exceptions=True)
    for end in ends:
        assert isinstance(end, DomainError)
        assert end.reason is Reason.TIMEOUT
        assert "nothing was changed: ask for less at once" in end.message
    await threads_are_free(database)
    assert caplog.records == [], "a caller that waited long enough is no fault of the database"


async def test_a_read_of_many_statements_ends_too(database: Database) -> None:
    """Of which none runs long: an interruption between two of them would be lost."""
    ended = threading.Event()

    def many() -> None:
        try:
            while True:
                fetch_one(database, "SELECT 1")
        finally:
            ended.set()

    with reading_for(Purpose("a", in_time(0.1))), pytest.raises(DomainError):
        await database.read(many)
    assert await asyncio.to_thread(ended.wait, HANG_SECONDS)
    await threads_are_free(database)


async def test_a_read_ends_when_its_caller_goes(database: Database) -> None:
    started = threading.Event()

    def slow() -> None:
        started.set()
        fetch_one(database, FOREVER)

    for may_grow in (False, True):
        started.clear()
        with reading_for(Purpose("a", may_grow=may_grow)):
            task = asyncio.create_task(database.read(slow))
            await asyncio.to_thread(started.wait, HANG_SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    await threads_are_free(database)


async def test_database_that_stops_ends_a_read_that_nobody_waits_for(database_url: str) -> None:
    """The first interruption comes before the statement begins, and no other before the database stops."""
    began, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        goes_on.wait(HANG_SECONDS)
        connection(stopping).execute(FOREVER).fetchone()

    async with opened(database_url) as stopping:
        task = asyncio.create_task(stopping.read(slow))
        await asyncio.to_thread(began.wait, HANG_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()


async def test_a_read_whose_caller_has_gone_before_its_turn_is_never_run(database: Database) -> None:
    ran = list[str]()
    with reading_for(Purpose("a", may_grow=True)), held(database) as release:
        waiting = asyncio.create_task(database.read(lambda: ran.append("gone")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with (
            reading_for(Purpose("a", in_time(0.05), may_grow=True)),
            pytest.raises(DomainError, match="took"),
        ):
            await database.read(lambda: ran.append("late"))
        release.set()
    await threads_are_free(database)
    assert ran == []


@contextmanager
def held(database: Database) -> Iterator[threading.Event]:
    """A read of the present account that ends when the event is set."""
    release = threading.Event()
    task = asyncio.get_running_loop().create_task(database.read(lambda: release.wait(HANG_SECONDS)))
    try:
        yield release
    finally:
        release.set()
        del task


async def test_a_write_is_not_interrupted(database: Database) -> None:
    """Its caller's deadline passes, and its caller goes: it is done as a whole."""
    started, release = threading.Event(), threading.Event()

    def write() -> None:
        execute(database, "INSERT INTO job_tally (day, state, jobs) VALUES (1, 'failed', 1)")
        started.set()
        release.wait(HANG_SECONDS)
        execute(database, "INSERT INTO job_tally (day, state, jobs) VALUES (2, 'failed', 1)")

    for seconds in (0.05, 0.5, HANG_SECONDS):  # on a busy machine it may not have begun in time
        end_s = in_time(seconds)
        with reading_for(Purpose("a", end_s, may_grow=True)):
            task = asyncio.create_task(database.run(write))
        while not (started.is_set() or task.done()):
            await asyncio.sleep(0.01)
        if started.is_set():
            break
        assert isinstance(task.exception(), DomainError)
    await asyncio.sleep(end_s - in_time(0) + 0.05)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.run(lambda: None)
    async with asyncio.timeout(HANG_SECONDS):
        while await database.read(lambda: fetch_one(database, "SELECT COUNT(*) FROM job_tally")) != (2,):
            await asyncio.sleep(0.01)


async def test_a_write_that_has_not_begun_in_time_is_refused_and_changes_nothing(database: Database) -> None:
    release, held_up = threading.Event(), list[asyncio.Task[bool]]()
    for _ in range(POSTGRES_THREADS):
        held_up.append(asyncio.create_task(database.run(lambda: release.wait(HANG_SECONDS))))
    await asyncio.sleep(0.1)
    late = "INSERT INTO job_tally (day, state, jobs) VALUES (1, 'failed', 1)"
    with reading_for(Purpose("a", in_time(0.1))), pytest.raises(DomainError) as refused:
        await database.run(lambda: execute(database, late))
    assert not release.is_set(), "its caller is answered in time"
    assert refused.value.reason is Reason.OVERLOADED
    assert refused.value.facts == {"retry_after_seconds": 1}
    release.set()
    await asyncio.gather(*held_up)
    await database.run(lambda: None)
    assert await database.read(lambda: fetch_one(database, "SELECT COUNT(*) FROM job_tally")) == (0,)


async def test_short_reads_and_other_accounts_never_wait_for_long_reads(database: Database) -> None:
    """One account asks for many at once: they run one after the other."""
    release, running, most = threading.Event(), list[str](), list[int]()

    def long() -> None:
        running.append("a")
        most.append(len(running))
        release.wait(HANG_SECONDS)
        running.pop()

    with reading_for(Purpose("a", may_grow=True)):
        lists = [asyncio.create_task(database.read(long)) for _ in range(8)]
        await asyncio.sleep(0)
    async with asyncio.timeout(HANG_SECONDS):
        assert await database.read(lambda: fetch_one(database, "SELECT 1")) == (1,)
        with reading_for(Purpose("a")):
            assert await database.read(lambda: fetch_one(database, "SELECT 2")) == (2,)
        with reading_for(Purpose("b", may_grow=True)):
            assert await database.read(lambda: fetch_one(database, "SELECT 3")) == (3,)
        assert not any(task.done() for task in lists)
        release.set()
        await asyncio.gather(*lists)
    assert most == [1] * 8
