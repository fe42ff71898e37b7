"""The commands ``dcp-server backup``, ``restore`` and ``migrate``, on both databases."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.__main__ import main
from server.store import schema
from server.store.database import Database, sqlite_path
from tests.server.store.rows import Rows
from tests.support import databases

NEW_DATABASE = "new database"
_fills = itertools.count(1)


@pytest.fixture(autouse=True)
def _postgres_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the PostgreSQL that the tests run."""
    programs = databases.postgres_programs()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def url(new_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DCP_DATABASE_URL", new_database_url)
    return new_database_url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "copy"


def fill(url: str, times: int = 1) -> None:
    async def work() -> None:
        async with databases.opened(url) as database:
            rows = Rows(database, first=100 * next(_fills))
            for _ in range(times):
                await rows.held_job(await rows.renter(1000))

    asyncio.run(work())


def transfers(url: str) -> int:
    with schema.opened(url) as database:
        return int(schema.rows(database, "SELECT COUNT(*) FROM transfer")[0][0])


def change(url: str, statement: str) -> None:
    with schema.opened(url) as database:
        database.execute_sql(statement)  # type: ignore[no-untyped-call]


def forget_newest_migration(url: str) -> None:
    """Makes the database look older; its tables stay, so it cannot be migrated again."""
    name = schema.known()[-1]
    change(url, f"DELETE FROM schema_migration WHERE name = '{name}'")


def test_backup_says_what_is_in_it_and_only_its_owner_can_read_it(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    assert main(["backup", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"backup     {file}\n" in printed
    assert f"size       {file.stat().st_size:,} bytes\n" in printed
    assert f"schema     {schema.known()[-1]}\n" in printed
    assert "transfer   2 rows\n" in printed
    assert "renter     1 rows\n" in printed
    assert "verified" in printed
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_backup_overwrites_nothing(url: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    file.write_text("precious", encoding="utf-8")
    assert main(["backup", str(file)]) == 2
    assert "exists, and no backup overwrites a file" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "precious"
    file.with_name("b.partial").touch()
    assert main(["backup", str(file.with_name("b"))]) == 2
    assert "another backup writes it" in capsys.readouterr().err


def test_backup_of_a_database_that_does_not_exist_creates_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCP_DATABASE_URL", f"sqlite:///{tmp_path / 'none.sqlite3'}")
    assert main(["backup", str(file)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(file.parent.iterdir()) == []
    assert not (tmp_path / "none.sqlite3").exists()


def test_backup_has_one_state_of_a_database_that_a_server_writes(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        async with databases.opened(url) as database:
            rows = Rows(database)
            await rows.held_job(await rows.renter(1000))
            backup = asyncio.create_task(asyncio.to_thread(main, ["backup", str(file)]))
            while not backup.done():
                await rows.renter(1000)
            assert backup.result() == 0

    asyncio.run(work())
    counted = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" rows")]
    before = transfers(url)
    assert main(["restore", "--replace", str(file)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(" rows")] == counted
    assert 2 <= transfers(url) <= before


def test_restore_brings_back_the_backup_and_keeps_the_newer_database(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    assert main(["backup", str(file)]) == 0
    fill(url, times=2)
    newer = transfers(url)
    assert main(["restore", str(file)]) == 2
    assert "--replace keeps" in capsys.readouterr().err
    assert transfers(url) == newer

    assert main(["restore", "--replace", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "transfer   2 rows\n" in printed
    assert printed.endswith("The ledger balances.\n")
    assert transfers(url) == 2
    (kept,) = [line.split()[1:] for line in printed.splitlines() if line.startswith("kept")]
    if path := sqlite_path(url):
        assert transfers(f"sqlite:///{kept[0].rstrip(':')}") == newer
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    else:
        with schema.opened(url) as database:
            assert schema.rows(database, f"SELECT COUNT(*) FROM {kept[2].rstrip(':')}.transfer") == [(newer,)]
    # The restored database is one like any other, and what was kept is not in the next backup.
    fill(url)
    assert main(["backup", str(file.with_name("next"))]) == 0
    assert "transfer   4 rows\n" in capsys.readouterr().out
    assert b"before_restore" not in file.with_name("next").read_bytes()


def test_restore_into_a_place_without_a_database_needs_no_permission(
    url: str, file: Path, new_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url)
    assert main(["backup", str(file)]) == 0
    monkeypatch.setenv("DCP_DATABASE_URL", new_place)
    assert main(["restore", str(file)]) == 0
    assert transfers(new_place) == 2


@pytest.fixture
def new_place(url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if sqlite_path(url):
        (tmp_path / "elsewhere").mkdir()
        return databases.sqlite_url(tmp_path / "elsewhere")
    postgres: databases.Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def other_program(url: str) -> Iterator[None]:
    """A program that has the database open and does nothing."""
    script = (
        "import sys\n"
        "from server.store import schema\n"
        "with schema.opened(sys.argv[1]) as database:\n"
        "    schema.rows(database, 'SELECT COUNT(*) FROM transfer')\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        fill_once = program.stdout.readline()
        assert fill_once == b"open\n"
        yield
        program.stdin.close()


def test_restore_refuses_while_a_program_has_the_database_open(
    url: str, file: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    assert main(["backup", str(file)]) == 0
    fill(url)
    request.getfixturevalue("other_program")
    assert main(["restore", "--replace", str(file)]) == 2
    assert "stop" in capsys.readouterr().err
    assert transfers(url) == 4


def test_restore_refuses_what_is_not_a_backup(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    file.write_bytes(b"no database at all" * 1000)
    assert main(["restore", "--replace", str(file)]) == 2
    assert capsys.readouterr().err.startswith("dcp-server: ")
    assert main(["restore", "--replace", str(file.with_name("none"))]) == 2
    assert "is not a file" in capsys.readouterr().err
    assert transfers(url) == 2


def with_damage(copy: Path) -> bytes:
    """A copy of which one table is damaged, which no command counts. A dump has the last one at its end."""
    data = bytearray(copy.read_bytes())
    if data.startswith(b"SQLite"):
        with sqlite3.connect(copy) as opened:
            (size,) = opened.execute("PRAGMA page_size").fetchone()
            (page,) = opened.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'webhook'").fetchone()
        opened.close()
        data[(page - 1) * size : page * size] = os.urandom(size)
    else:
        data[-40:] = os.urandom(40)
    return bytes(data)


def test_restore_refuses_a_damaged_copy_and_leaves_the_database(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    assert main(["backup", str(file)]) == 0
    damaged = file.with_name("damaged")
    damaged.write_bytes(with_damage(file))
    fill(url)
    assert main(["restore", "--replace", str(damaged)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert transfers(url) == 4
    with schema.opened(url) as database:
        assert "transfer" in database.get_tables()


def test_restore_refuses_a_copy_of_a_newer_program(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    change(url, "INSERT INTO schema_migration (name, applied) VALUES ('9999_tomorrow', CURRENT_TIMESTAMP)")
    # A backup before going back to an older program is taken by whichever is installed.
    assert main(["backup", str(file)]) == 2
    assert "is newer than this program (it has 9999_tomorrow)" in capsys.readouterr().err


def test_restore_of_a_copy_that_does_not_balance_is_status_1(
    url: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    change(url, "UPDATE account SET balance_micros = 7 WHERE kind = 'renter'")
    assert main(["backup", str(file)]) == 0
    assert main(["restore", "--replace", str(file)]) == 1
    assert "The ledger does NOT balance" in capsys.readouterr().out


def test_restore_replaces_a_damaged_database(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = databases.sqlite_url(tmp_path)
    path = tmp_path / "dcp.sqlite3"
    monkeypatch.setenv("DCP_DATABASE_URL", url)
    fill(url)
    assert main(["backup", str(file)]) == 0
    path.write_bytes(b"rubbish" * 1000)
    Path(f"{path}-wal").write_bytes(b"the log of the damaged one")
    assert main(["restore", "--replace", str(file)]) == 0
    assert transfers(url) == 2
    kept = sorted(each.name for each in tmp_path.glob("*.before-restore-*"))
    assert [name.rpartition("-")[2] == "wal" for name in kept] == [False, True]


def test_log_without_its_database_is_never_played_into_the_restored_one(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = databases.sqlite_url(tmp_path)
    path = tmp_path / "dcp.sqlite3"
    monkeypatch.setenv("DCP_DATABASE_URL", url)
    fill(url)
    assert main(["backup", str(file)]) == 0
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"an old log")
    assert main(["restore", str(file)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["restore", "--replace", str(file)]) == 0
    assert transfers(url) == 2


def test_old_database_is_kept_with_what_is_only_in_its_log(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = databases.sqlite_url(tmp_path)
    path = tmp_path / "dcp.sqlite3"
    monkeypatch.setenv("DCP_DATABASE_URL", url)
    fill(url)
    assert main(["backup", str(file)]) == 0
    # A killed server leaves its log: what is copied here was never written into the database itself.
    with sqlite3.connect(path) as killed:
        killed.execute("PRAGMA journal_mode = wal")
        killed.execute("PRAGMA wal_autocheckpoint = 0")
        killed.execute("UPDATE renter SET name = 'only in the log'")
        killed.commit()
        rest = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    killed.close()
    for suffix, data in rest.items():
        Path(f"{path}{suffix}").write_bytes(data)
    assert main(["restore", "--replace", str(file)]) == 0
    (kept,) = [each for each in tmp_path.glob("*.before-restore-*") if not each.name.endswith("-wal")]
    for database, is_there in ((kept, True), (path, False)):
        with sqlite3.connect(database) as opened:
            names = {name for (name,) in opened.execute("SELECT name FROM renter")}
        opened.close()
        assert ("only in the log" in names) is is_there


def test_check_says_what_would_run_and_changes_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--check"]) == 1
    printed = capsys.readouterr().out
    assert [f"would run  {name}" for name in schema.known()] == printed.splitlines()[:-1]
    assert printed.endswith("The database is new: it has no accounts, jobs or money.\n")
    if path := sqlite_path(url):
        assert path.stat().st_size == 0

    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.endswith(f"The schema is this program's: {schema.known()[-1]}\n")
    assert main(["migrate", "--check"]) == 0
    forget_newest_migration(url)
    before = path.read_bytes() if (path := sqlite_path(url)) else b""
    assert main(["migrate", "--check"]) == 1
    assert capsys.readouterr().out.endswith(f"would run  {schema.known()[-1]}\n")
    assert before == (path.read_bytes() if path else b"")


def test_check_of_a_newer_database_is_status_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    change(url, "INSERT INTO schema_migration (name, applied) VALUES ('9999_tomorrow', CURRENT_TIMESTAMP)")
    assert main(["migrate", "--check"]) == 2
    assert "newer than this program (it has 9999_tomorrow)" in capsys.readouterr().err


def test_server_that_creates_a_database_warns_of_it_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    for warnings in (1, 0):
        caplog.clear()
        database = Database(url)
        database.start()
        database.stop()
        found = [record for record in caplog.records if record.getMessage().startswith(NEW_DATABASE)]
        assert len(found) == warnings
        assert all(record.levelname == "WARNING" for record in found)
        assert "postgres:" not in caplog.text, "the address has a password"


def test_password_of_the_database_is_not_among_the_arguments_of_a_program(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from server.store import dumps

    written = tmp_path / "arguments"
    program = tmp_path / "pg_restore"
    program.write_text(f'#!/bin/sh\necho "$@" >{written}\necho "$PGPASSWORD" >>{written}\n', encoding="utf-8")
    program.chmod(0o755)
    dumps.run_program(
        "pg_restore", "postgresql://user:p%40ss@host:1/name?sslmode=require", {"PATH": str(tmp_path)}, "-x"
    )
    assert written.read_text(encoding="utf-8").splitlines() == [
        "--dbname=postgresql://user@host:1/name?sslmode=require -x",
        "p@ss",
    ]


def test_missing_program_is_named_with_its_package(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    postgres: databases.Postgres,
) -> None:
    monkeypatch.setenv("DCP_DATABASE_URL", postgres.empty_database())
    monkeypatch.setenv("PATH", str(file.parent))
    assert main(["backup", str(file)]) == 2
    assert "pg_dump is not installed: install PostgreSQL's client programs" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["backup", "restore", "migrate", "prove"])
def test_help_of_each_command_has_its_statuses_and_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert "exit status:" in printed
    assert "example" in printed
