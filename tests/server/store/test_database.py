"""Transactions: group commit, rollback, snapshots, newer schemas, and a broken connection."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import peewee
import pytest

from server.domain.errors import DomainError, Reason
from server.store import jobs, renters
from server.store.database import Database, DatabaseUrlError
from server.store.models import Renter
from tests.server.store.rows import NOW_MS, Rows
from tests.support import databases
from tests.support.databases import connection, execute


def insert_renter(email: str) -> int:
    return renters.create(name="R", email=email, email_key=email, organization="", phone="", now_ms=NOW_MS)


async def test_concurrent_writes_all_happen(database: Database) -> None:
    renter_ids = await asyncio.gather(
        *(database.run(partial(insert_renter, f"{n}@example.com")) for n in range(100))
    )
    assert len(set(renter_ids)) == 100
    assert await database.read(renters.count) == 100


async def test_write_that_raises_undoes_only_itself(database: Database) -> None:
    def fail(n: int) -> int:
        insert_renter(f"{n}@example.com")
        raise LookupError(n)

    def work(n: int) -> int:
        return fail(n) if n % 3 == 0 else insert_renter(f"{n}@example.com")

    outcomes = await asyncio.gather(
        *(database.run(partial(work, n)) for n in range(60)), return_exceptions=True
    )
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, LookupError)] == [*range(0, 60, 3)]
    assert await database.read(renters.count) == 40


async def test_value_is_returned_only_after_the_commit(database: Database) -> None:
    """Another connection sees the write as soon as the caller has its answer."""
    for n in range(20):
        await database.run(partial(insert_renter, f"{n}@example.com"))
        assert await database.read(renters.count) == n + 1


async def test_writes_that_wait_together_share_one_commit(sqlite_url: str) -> None:
    async with databases.opened(sqlite_url) as database:
        entered, release = threading.Event(), threading.Event()
        statements: list[str] = []

        def hold_the_writer() -> None:
            connection(database).set_trace_callback(statements.append)
            entered.set()
            release.wait(20)

        first = asyncio.create_task(database.run(hold_the_writer))
        await asyncio.to_thread(entered.wait, 20)
        others = [
            asyncio.create_task(database.run(partial(insert_renter, f"{n}@example.com"))) for n in range(10)
        ]
        await asyncio.sleep(0)  # all ten writes are in the queue now
        release.set()
        await asyncio.gather(first, *others)
    assert sum("INSERT" in statement for statement in statements) == 10
    assert statements.count("COMMIT") == 2  # a commit of the first, and a commit of the ten


async def test_unique_violation_in_a_group_undoes_no_other_write(database: Database) -> None:
    outcomes = await asyncio.gather(
        *(database.run(lambda: insert_renter("same@example.com")) for _ in range(10)),
        *(database.run(partial(insert_renter, f"{n}@example.com")) for n in range(10)),
        return_exceptions=True,
    )
    refused = [o for o in outcomes if isinstance(o, DomainError)]
    assert [error.reason for error in refused] == [Reason.EMAIL_TAKEN] * 9
    assert await database.read(renters.count) == 11


async def test_read_sees_a_consistent_snapshot(database: Database) -> None:
    """The second query of a read does not see a write that commits after the first."""
    looked, wrote = threading.Event(), threading.Event()

    def read() -> tuple[int, int]:
        before = renters.count()
        looked.set()
        wrote.wait(20)
        return before, renters.count()

    reading = asyncio.create_task(database.read(read))
    await asyncio.to_thread(looked.wait, 20)
    await database.run(lambda: insert_renter("late@example.com"))
    wrote.set()
    assert await reading == (0, 0)
    assert await database.read(renters.count) == 1


async def test_cancelled_caller_does_not_stop_the_writer(database: Database) -> None:
    task = asyncio.create_task(database.run(lambda: insert_renter("a@example.com")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.run(lambda: insert_renter("b@example.com"))
    assert await database.read(lambda: Renter.select().where(Renter.email == "b@example.com").count()) == 1


async def test_database_can_be_started_again(new_database_url: str) -> None:
    async with databases.opened(new_database_url) as database:
        renter_id = await Rows(database).renter(77)
    async with databases.opened(new_database_url) as database:
        assert (await database.read(lambda: renters.get(renter_id))) is not None


async def test_database_newer_than_the_program_is_refused(new_database_url: str) -> None:
    async with databases.opened(new_database_url) as database:
        await database.run(
            partial(
                execute,
                database,
                "INSERT INTO schema_migration (name, applied) VALUES ('9999_future', '2030-01-01')",
            )
        )
    newer = Database(new_database_url)
    with pytest.raises(DatabaseUrlError, match=r"newer than this program .*9999_future"):
        newer.start()
    newer.stop()


async def test_write_after_stop_is_refused(sqlite_url: str) -> None:
    async with databases.opened(sqlite_url) as database:
        pass
    with pytest.raises(DomainError) as caught:
        await database.run(lambda: 1)
    assert caught.value.reason is Reason.UNAVAILABLE


async def test_broken_connection_is_store_unavailable_and_recovers(database: Database) -> None:
    def lose_connection() -> None:
        raise peewee.OperationalError("the disk is gone")

    for attempt in (database.run, database.read):
        with pytest.raises(DomainError) as caught:
            await attempt(lose_connection)
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        assert "disk" not in caught.value.message
    await database.run(lambda: insert_renter("after@example.com"))
    assert await database.read(renters.count) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/dcp", "'mysql' is not supported"),
        ("dcp.sqlite3", "'' is not supported"),
        ("sqlite://", "the path of a file"),
        ("sqlite:///", "the path of a file"),
        ("sqlite:///:memory:", "the path of a file"),
        ("sqlite:////no/such/folder/dcp.sqlite3", "does not exist"),
    ],
)
def test_bad_url_is_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(DatabaseUrlError, match=message):
        Database(url)


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    url = databases.sqlite_url(tmp_path)
    async with databases.opened(url) as database:
        rows = Rows(database)
        job_id = await rows.job(await rows.renter())
    async with databases.opened(url) as database:
        assert await database.read(lambda: jobs.get(job_id)) is not None
