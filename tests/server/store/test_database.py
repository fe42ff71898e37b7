"""Transactions: group commit, rollback, snapshots, newer schemas, and a broken connection."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest

from server.domain.errors import DatabaseUrlError, DomainError, Reason
from server.store import database as module
from server.store import jobs, renters
from server.store.database import Database
from server.store.models import Renter
from tests.server.store.rows import NOW_MS, Rows
from tests.support import databases
from tests.support.databases import Postgres, connection, execute, fetch_one


def insert_renter(email: str) -> int:
    return renters.create(name="R", email=email, mailbox=email, organization="", phone="", now_ms=NOW_MS)


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


async def note_migration(url: str, name: str) -> None:
    """Lets a database look as if a newer program had migrated it."""
    async with databases.opened(url) as database:
        statement = f"INSERT INTO schema_migration (name, applied) VALUES ('{name}', '2030-01-01')"
        await database.run(partial(execute, database, statement))


async def test_newer_database_that_this_program_cannot_run_on_is_refused(new_database_url: str) -> None:
    await note_migration(new_database_url, "9999_future_contract")
    newer = Database(new_database_url)
    with pytest.raises(DatabaseUrlError, match=r"newer than this program .*9999_future_contract"):
        newer.start()
    newer.stop()


async def test_program_starts_beside_a_newer_one_that_only_added(
    new_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await note_migration(new_database_url, "9998_future")
    async with databases.opened(new_database_url) as database:
        renter_id = await Rows(database).renter(77)
        assert await database.read(lambda: renters.get(renter_id)) is not None
    assert "9998_future" in caplog.text


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


def test_database_that_cannot_store_every_text_is_refused_before_anything_is_written(
    postgres: Postgres,
) -> None:
    options = {"ENCODING": "'SQL_ASCII'", "TEMPLATE": "template0", "LC_COLLATE": "'C'", "LC_CTYPE": "'C'"}
    url = postgres.new_database(**options)
    with pytest.raises(DatabaseUrlError, match=r"the encoding SQL_ASCII, .* ENCODING 'UTF8'"):
        Database(url).start()
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == []


def test_texts_are_utf8_whatever_the_environment_says(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    url = postgres.new_database()
    for _ in range(2):  # if the names of migrations were no texts, the second start would begin anew
        database = Database(url)
        database.start()
        database.stop()


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    url = databases.sqlite_url(tmp_path)
    async with databases.opened(url) as database:
        rows = Rows(database)
        job_id = await rows.job(await rows.renter())
    async with databases.opened(url) as database:
        assert await database.read(lambda: jobs.get(job_id)) is not None


# What answers say about the outcome.


async def test_lost_answer_to_a_commit_is_an_unknown_outcome(postgres: Postgres) -> None:
    """A deferred trigger ends the connection while COMMIT runs."""

    def lose_the_answer() -> None:
        insert_renter("lost@example.com")
        for statement in (
            "CREATE TEMP TABLE bomb (x int)",
            "CREATE FUNCTION pg_temp.go_off() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON bomb DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION pg_temp.go_off()",
            "INSERT INTO bomb VALUES (1)",
        ):
            execute(database, statement)

    async with databases.opened(postgres.empty_database()) as database:
        with pytest.raises(DomainError) as caught:
            await database.run(lose_the_answer)
        assert caught.value.reason is Reason.OUTCOME_UNKNOWN
        assert "Idempotency-Key" in caught.value.message
        await database.run(lambda: insert_renter("after@example.com"))


async def test_connection_that_breaks_before_the_commit_changed_nothing(postgres: Postgres) -> None:
    async with databases.opened(postgres.empty_database()) as database:
        with pytest.raises(DomainError) as caught:
            await database.run(
                lambda: execute(database, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)")
            )
        assert caught.value.reason is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "reason"),
    [(sqlite3.SQLITE_FULL, Reason.STORE_UNAVAILABLE), (sqlite3.SQLITE_IOERR_FSYNC, Reason.OUTCOME_UNKNOWN)],
)
async def test_no_write_of_a_group_succeeds_if_the_commit_failed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, code: int, reason: Reason
) -> None:
    async with databases.opened(sqlite_url) as database:
        run: Callable[..., Any] = database.peewee.execute_sql
        refuse = threading.Event()

        def fail_to_commit(sql: str, *rest: Any, **options: Any) -> Any:
            if sql == "COMMIT" and refuse.is_set():
                error = sqlite3.OperationalError("no")
                error.sqlite_errorcode = code
                raise peewee.OperationalError(error, "no")
            return run(sql, *rest, **options)

        monkeypatch.setattr(database.peewee, "execute_sql", fail_to_commit)
        refuse.set()
        outcomes = await asyncio.gather(
            *(database.run(partial(insert_renter, f"{n}@example.com")) for n in range(10)),
            return_exceptions=True,
        )
        assert {outcome.reason for outcome in outcomes if isinstance(outcome, DomainError)} == {reason}
        assert all(isinstance(outcome, DomainError) for outcome in outcomes)
        refuse.clear()
        await database.run(lambda: insert_renter("after@example.com"))
        assert await database.read(renters.count) == 1


async def test_damaged_file_is_the_operators_to_repair(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with databases.opened(sqlite_url) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'renter'"
        (page,) = await database.read(lambda: fetch_one(database, query))
    with (tmp_path / "dcp.sqlite3").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    async with databases.opened(sqlite_url) as database:
        for attempt in (
            partial(database.run, lambda: insert_renter("x@example.com")),
            partial(database.read, scan),
        ):
            for _ in range(3):
                with pytest.raises(DomainError) as caught:
                    await attempt()
                assert caught.value.reason is Reason.STORE_DAMAGED
        with pytest.raises(DomainError, match="damaged"):  # so that the server's health says NOT_SERVING
            await database.probe()
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [
        logging.CRITICAL
    ]


def scan() -> list[str]:
    return [row.email for row in Renter.select()]


# Files of SQLite.


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_database_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with databases.opened(databases.sqlite_url(tmp_path)) as database:
            await database.run(lambda: insert_renter("r@example.com"))
            await database.read(renters.count)
            modes = modes_in(tmp_path)
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("dcp.sqlite3", "dcp.sqlite3-wal", "dcp.sqlite3-shm"), 0o600)


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_database_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, suffix: str) -> None:
    for name in ("", "-wal"):
        (tmp_path / f"dcp.sqlite3{name}").touch(0o600)
    (tmp_path / f"dcp.sqlite3{suffix}").chmod(0o644)
    path = tmp_path / "dcp.sqlite3"
    with pytest.raises(
        DatabaseUrlError, match=f"can be read by other users: run chmod 600 {path} {path}-wal"
    ):
        Database(databases.sqlite_url(tmp_path)).start()


@pytest.mark.parametrize(
    ("pragma", "value", "remedy"),
    [("max_page_count", 2, "the disk is full: make room"), ("query_only", 1, "read-only: make it writable")],
)
def test_disk_that_cannot_be_written_is_one_line_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str, value: int, remedy: str
) -> None:
    monkeypatch.setitem(module.SQLITE_PRAGMAS, pragma, value)
    with pytest.raises(DatabaseUrlError, match=remedy) as caught:
        Database(databases.sqlite_url(tmp_path)).start()
    assert "\n" not in str(caught.value)


def test_first_transaction_that_the_disk_refuses_is_one_line_too(sqlite_url: str) -> None:
    def full() -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise peewee.OperationalError(error, str(error))

    with pytest.raises(DatabaseUrlError, match="make room"):
        Database(sqlite_url).start(first=full)


async def test_what_was_answered_outlives_a_power_cut(database: Database) -> None:
    """SQLite syncs each commit, and PostgreSQL is not set to skip it."""
    if database.is_sqlite:
        (level,) = await database.run(lambda: fetch_one(database, "PRAGMA synchronous"))
        assert level == 2  # FULL
    else:
        source = "SELECT source FROM pg_settings WHERE name = 'synchronous_commit'"
        (where,) = await database.run(lambda: fetch_one(database, source))
        assert where not in {"session", "client", "database", "user"}
