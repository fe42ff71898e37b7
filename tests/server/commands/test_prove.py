"""The command ``dcp-server prove``: what it prints and its exit status."""

from __future__ import annotations

import asyncio

import pytest

from server.__main__ import main
from server.store.database import Database
from tests.server.store.rows import Rows
from tests.support import databases
from tests.support.databases import execute


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DCP_DATABASE_URL", database_url)
    monkeypatch.setenv("DCP_GRPC_LISTEN", "127.0.0.1:0")
    return database_url


def fill(url: str, change: str = "") -> None:
    async def work() -> None:
        async with databases.opened(url) as database:
            rows = Rows(database)
            await rows.held_job(await rows.renter(1000))
            if change:
                await database.run(lambda: execute(database, change))

    asyncio.run(work())


def test_ledger_that_balances_is_status_0(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    assert main(["prove"]) == 0
    printed = capsys.readouterr().out
    assert "transfers         2, which sum to 0 halala" in printed
    assert "open holds        1 with 100 halala" in printed
    assert printed.endswith("The ledger balances.\n")


def test_ledger_that_does_not_balance_is_status_1(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url, "UPDATE account SET balance_micros = 7 WHERE kind = 'renter'")
    assert main(["prove"]) == 1
    assert "is stored as 0.000007 halala and replays to 900" in capsys.readouterr().out


def test_database_that_no_server_has_prepared_is_status_2(
    new_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left as it is: proving creates no file and no table."""
    monkeypatch.setenv("DCP_DATABASE_URL", new_database_url)
    monkeypatch.setenv("DCP_GRPC_LISTEN", "127.0.0.1:0")
    for _ in range(2):
        assert main(["prove"]) == 2
        assert "start dcp-server on it first" in capsys.readouterr().err
    database = Database(new_database_url)
    assert database.peewee.get_tables() == []
    database.peewee.close()
